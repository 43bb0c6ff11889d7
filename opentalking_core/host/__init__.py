"""Find plugins, and ask them."""

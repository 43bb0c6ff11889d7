"""What an avatar is, and where bundles live."""

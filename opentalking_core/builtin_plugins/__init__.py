"""The plugins that come with the host. They are loaded by their entry points, like any other plugin."""

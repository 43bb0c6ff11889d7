"""The plugins that come with the host; they are loaded like anybody's."""

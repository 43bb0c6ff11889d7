"""Which avatars there are, over one bundle store."""

pytest_plugins = ["opentalking_core.testing.fixtures"]

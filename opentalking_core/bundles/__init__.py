"""Avatar bundles: manifests, model types, validation, and the stores that hold bundles."""

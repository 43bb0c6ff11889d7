"""Portraits: from an uploaded photo to the files and metadata of a bundle."""

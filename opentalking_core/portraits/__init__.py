"""From a picture to what a bundle needs."""

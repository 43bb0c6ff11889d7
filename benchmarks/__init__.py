"""`make bench`: what the service costs, as ratios to the bare HTTP server and to the bare codecs, taken in one run."""

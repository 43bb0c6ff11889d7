"""`make bench`: the cost of the service, as ratios to the bare HTTP server and the bare codecs in the same run."""

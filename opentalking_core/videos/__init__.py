"""From a stranger's video file to upright RGB frames at a constant rate. Runs in worker processes, with PyAV."""

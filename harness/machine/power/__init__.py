"""Power of this node while a training runs: sensors, the sampling process, and its recorder."""

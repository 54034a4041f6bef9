"""What a run leaves behind, read from its files: attempts, metrics, logs, times, and the lock of a campaign."""

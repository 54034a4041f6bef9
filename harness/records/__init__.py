"""The files of a run and of its attempts, created and read; their logs and times; the lock of a campaign."""

"""Campaigns: their state on disk, the training processes they start, several nodes, progress and launch files."""

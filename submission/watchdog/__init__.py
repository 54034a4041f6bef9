"""Ends a run whose rank hangs or is lost, names slow ranks, and finds the rank that made a value not finite."""

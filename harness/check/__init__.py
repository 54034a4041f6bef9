"""Checks logs, campaigns, packages and results repositories; writes the verdict as text and as JSON."""

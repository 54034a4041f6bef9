"""Logs, packages and results repositories against a ruleset, and the words and the JSON of that verdict."""

"""Reads MLLOG logs, checks them against the rules and scores them. Imports nothing else of this project."""

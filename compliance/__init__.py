"""Reads MLLOG logs, checks them against the rules and scores them. It imports no other package of this project."""

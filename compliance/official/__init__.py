"""Runs the official checkers on copies, each in its own process."""

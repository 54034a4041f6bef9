"""Fills .venv for run.sh, with nothing but Python and its pip."""

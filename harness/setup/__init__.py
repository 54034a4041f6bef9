"""What run.sh starts to fill .venv: it needs Python and its pip alone."""

"""Notices a hung, lost, slow or diverging rank, and ends the run with a reason."""

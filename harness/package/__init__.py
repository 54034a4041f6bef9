"""Submission trees: eligibility, system description, files, archive and verification."""

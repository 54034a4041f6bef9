"""Builders of token files: corpora from this machine's own texts, and C4 from its JSON lines."""

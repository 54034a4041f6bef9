"""Proves on one node, in minutes, what this project claims of GPUs: steps, their answers, one page. docs/qualify.md."""

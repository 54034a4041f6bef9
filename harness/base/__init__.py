"""The ground of the harness: errors with exit codes, paths, text, standard error, and asking programs."""

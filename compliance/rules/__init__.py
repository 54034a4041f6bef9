"""The rules, as functions: what a log, a directory, a submission or a tree must not break."""

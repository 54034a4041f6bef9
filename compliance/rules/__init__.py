"""The rules for a log, a directory of logs, a submission and a directory tree, one function each."""

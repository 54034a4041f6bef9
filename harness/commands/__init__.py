"""One file per command of ./run.sh: parse the command line, call a room, print the answer."""

"""Whether a node is fit to train: checks of accelerators, host, software and other nodes."""

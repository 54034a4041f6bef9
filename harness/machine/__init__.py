"""What this machine is and does: accelerators, page caches, power, memory errors, child processes."""

"""Programs beside the training: step times, preflight questions, bare PyTorch, the speed of the C4 builder."""

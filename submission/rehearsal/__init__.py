"""The GPU branches without a GPU: the real executor on fake CUDA tensors, and what a step of it costs."""

"""Quantisers: the specification, the C++ path of the CPU, and the Triton kernels."""

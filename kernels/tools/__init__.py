"""The commands of `python -m kernels`: verify, prove, bench, quantize."""

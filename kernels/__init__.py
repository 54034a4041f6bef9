"""MXFP4, NVFP4 and FP8: formats, quantisers, GEMMs and linear layers, usable without the rest of the project."""

__version__ = "0.1.0"

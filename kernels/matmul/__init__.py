"""GEMM engines, and the choice between them."""

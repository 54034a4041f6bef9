"""Triton's interpreter stands in for a GPU; the choice must be made before Triton's kernels are defined."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "0")  # unset, Triton 3.9 warns

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""The device that the kernels' tests run on."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

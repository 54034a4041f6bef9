"""Tells from the name of an architecture which formats its matrix units multiply."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Platform:
    """An architecture: "cpu", "sm_90", "gfx942", or "meta" for shapes without data."""

    name: str

    @property
    def is_cuda(self) -> bool:
        return self.name.startswith("sm_")

    @property
    def is_gpu(self) -> bool:
        return self.is_cuda or self.name.startswith("gfx")

    @property
    def compute_capability(self) -> int:
        """100 for sm_100; 0 for devices that are not NVIDIA's."""
        return int(self.name[3:]) if self.is_cuda else 0

    @property
    def has_fp4_units(self) -> bool:
        """Whether hardware multiplies block-scaled E2M1 (source: the instructions that `kernels prove` compiles)."""
        return self.name in ("sm_100", "sm_103", "sm_120", "sm_121", "gfx950")

    @property
    def has_nvfp4_units(self) -> bool:
        """Whether hardware multiplies E2M1 with E4M3 scales of blocks of 16; AMD's units take E8M0 scales only."""
        return self.has_fp4_units and self.is_cuda

    @property
    def has_tensor_memory(self) -> bool:
        """Whether this is datacentre Blackwell: its tcgen05 matrix instructions read scales from tensor memory."""
        return self.name in ("sm_100", "sm_103")

    @property
    def has_fp8_units(self) -> bool:
        """Whether hardware multiplies OCP FP8; gfx942 multiplies another encoding (FNUZ)."""
        return self.compute_capability >= 89 or self.name == "gfx950"


@functools.cache
def of(device: torch.device) -> Platform:
    """The platform of a device."""
    if device.type != "cuda":
        return Platform(device.type)
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Platform(properties.gcnArchName.split(":")[0])
    return Platform(f"sm_{properties.major}{properties.minor}")

"""What the training's software reports about a node: JSON lines of submission/tools/preflight.py and usable_gpus.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.contract.attempt_rows import EngineProbe


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionAnswer:
    """Device, libraries, peer access, and the engine of every GEMM of every arm that will run.

    Args:
        devices: number of GPUs that torch sees.
        cuda, hip: version that torch was built for.
        without_peer_access: pairs of GPUs that cannot read each other's memory, for example 0-1.
        arms: arm -> GEMM -> backend and engine, or `none: ` and why.
        why_no_gpu: why torch can use no GPU; empty if it can.
        probes: the trials of engines and attention kernels behind this answer; empty without `probed`.
    """

    device: str
    devices: int
    torch: str
    cuda: str | None
    hip: str | None
    collectives: str
    without_peer_access: tuple[str, ...]
    platform: str
    fp8_units: bool
    fp4_units: bool
    arms: Mapping[str, Mapping[str, str]]
    why_no_gpu: str = ""
    probes: tuple[EngineProbe, ...] = ()
    probed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineAnswer:
    """Every engine with every format that it takes on this platform, and every attention kernel, each tried once."""

    platform: str
    probes: tuple[EngineProbe, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuAnswer:
    """Number of GPUs that torch can use; if there are none, why."""

    devices: int
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AllReduceAnswer:
    """Speed of an all-reduce over all ranks of a node.

    Args:
        bytes: size of the tensor.
        bus_GBps: bytes of the tensor per second, times 2 (n - 1) / n. Every algorithm must send at least that
            much per rank, so this speed compares with the speed of a link.
    """

    ranks: int
    bytes: int
    bus_GBps: float

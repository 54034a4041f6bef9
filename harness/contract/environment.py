"""Reads the process environment; no other file does. submission imports this file too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Variables that submitters know from the MLCommons reference scripts, and the configuration field that each overrides.
ALIASES: Mapping[str, str] = {
    "DATADIR": "data.directory",
    "LOGDIR": "runs.output",
    "NEXP": "runs.count",
    "SEED": "runs.seed",
    "DGXSYSTEM": "system.name",
    "MASTER_ADDR": "launch.master_addr",
    "MASTER_PORT": "launch.master_port",
    "NNODES": "parallelism.nodes",
    "NODE_RANK": "launch.node_rank",
    "GPUS_PER_NODE": "parallelism.gpus_per_node",
}

# CPU training touches new megabytes in every step; returning them to the kernel would cost more than the arithmetic
# (docs/engineering.md, page faults).
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 29),
}

ALLOCATOR, GRAPH_REGISTER = "PYTORCH_CUDA_ALLOC_CONF", "NCCL_GRAPH_REGISTER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Rank of this process and number of ranks, from torchrun; known before a process group exists."""

    rank: int
    local_rank: int
    world_size: int

    @staticmethod
    def from_environment() -> Ranks:
        """Read RANK, LOCAL_RANK and WORLD_SIZE. Without a launcher this is the only process."""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        values = {name: os.environ.get(name, default) for name, default in zip(names, "001", strict=True)}
        return Ranks(**{name.lower(): int(value) for name, value in values.items()})


def alias_overrides() -> dict[str, tuple[str, str]]:
    """Configuration path -> (environment variable, text) for every alias that is set and not empty."""
    return {path: (name, os.environ[name]) for name, path in ALIASES.items() if os.environ.get(name)}


def gpus_are_hidden() -> bool:
    """Whether the user has hidden all GPUs from this process and its children, in order to compute on the CPU."""
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    return any(os.environ.get(name) in ("", "-1") for name in names)


def training_environment(*, threads: int, on_cpu: bool, on_nvidia: bool = False) -> dict[str, str]:
    """Environment of the training processes: this process's without the aliases, with threads and allocator set.

    Args:
        on_nvidia: whether the GPUs are NVIDIA's; only CUDA's allocator can expand its segments everywhere.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ALIASES}
    environment.update(PYTHONUNBUFFERED="1", OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    # Megatron's DDP warns without it on GPUs older than Blackwell; with one queue communication stays in order.
    environment.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if "expandable_segments:True" in environment.get(ALLOCATOR, ""):
        # below sm_100 NCCL cannot register such memory with CUDA graphs; Megatron asserts this from ALLOCATOR
        environment.setdefault(GRAPH_REGISTER, "0")
    if on_cpu:
        environment.update(_MALLOC)
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif on_nvidia:
        _set_cuda_allocator(environment)
    return environment


def _set_cuda_allocator(environment: dict[str, str]) -> None:
    """Use expandable segments, unless the user chose otherwise.

    Without them, passes of 8192 tokens leave large holes between segments of fixed size.

    torch reads the second name since 2.9 and the first name before. Megatron reads only the first name, and refuses
    some of its options together with expandable segments. Below sm_100 NCCL must not register buffers of CUDA graphs in
    such segments: it would access memory illegally, so Megatron asserts that NCCL_GRAPH_REGISTER is 0.
    """
    first, second = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"
    chosen = environment.get(second) or environment.get(first) or "expandable_segments:True"
    environment.update({first: chosen, second: chosen})
    if "expandable_segments:True" in chosen.replace(" ", "").split(","):
        environment.setdefault("NCCL_GRAPH_REGISTER", "0")


def worker_environment(worker: int, gpus: int) -> dict[str, str]:
    """Environment of a study's worker: this process's, with the GPU that it may use."""
    environment = dict(os.environ)
    if gpus:
        seen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        devices = seen or [str(index) for index in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = devices[worker % len(devices)]
    return environment


def pip_environment(options: Mapping[str, str]) -> dict[str, str]:
    """Environment of pip for .venv, without constraints, targets and options that are meant for other environments.

    Args:
        options: options to keep from pip's configuration files, which pip does not read here.
    """
    foreign = (
        "CONSTRAINT",
        "REQUIRE_VIRTUALENV",
        "USER",
        "TARGET",
        "PREFIX",
        "NO_DEPS",
        "CONFIG_FILE",
        "BUILD_CONSTRAINT",
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in {f"PIP_{end}" for end in foreign}
    }
    for name, value in options.items():
        environment.setdefault(f"PIP_{name.upper().replace('-', '_')}", value)
    return {**environment, "PIP_CONFIG_FILE": os.devnull}


def pip_constraint() -> str:
    """The constraint file that a vendor's container sets for every pip; empty where there is none."""
    return os.environ.get("PIP_CONSTRAINT", "")


def kernels_environment(command: str, *, on_cpu: bool) -> dict[str, str]:
    """Environment of a command of kernels: the training's allocator; without a GPU, Triton's interpreter."""
    environment = dict(os.environ)
    environment.setdefault("TRITON_DEFAULT_FP_FUSION", "0")  # Triton 3.9 warns if this is not set
    if on_cpu:
        environment.update(_MALLOC)
        if command == "verify":
            environment["TRITON_INTERPRET"] = "1"
    return environment


def numerics_variables() -> dict[str, str]:
    """Variables that change numerics, recorded in environment.json."""
    libraries = ("TORCH_", "PYTORCH_", "NVTE_", "NCCL_", "RCCL_", "TRITON_", "OMP_", "MKL_")
    prefixes = (*libraries, "CUDA_", "HIP_", "HSA_", "ROCR_")
    return {key: value for key, value in sorted(os.environ.items()) if key.startswith(prefixes)}


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

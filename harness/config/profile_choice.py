"""Chooses the profile that this machine trains, and checks that its accelerators suffice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.base.errors import EnvironmentFailure
from harness.base.stderr import tell
from harness.config.file import resolve
from harness.contract import environment
from harness.contract.benchmark import BENCHMARK
from harness.contract.config import Config
from harness.machine import torch_gpus
from harness.machine.accelerators import accelerators

PROXY_PROFILE = "proxy"
BENCHMARK_PROFILE = BENCHMARK.name  # the profile has the name of the benchmark
_TOY = "the same code at toy scale, which shows that it works and gives no result"


def choose_profile(asked: str | None, *, overrides: Sequence[str], preset: str | None = None) -> str:
    """The profile of a command: the named one; with a preset, the benchmark; otherwise the one that fits this machine.

    A choice that the user did not make is printed on stderr, with its reason.
    """
    if asked is not None:
        return asked
    if preset is not None:
        return BENCHMARK_PROFILE
    profile, why = fitting_profile(overrides)
    tell(f"profile: {profile}\nbecause {why}")
    return profile


def fitting_profile(overrides: Sequence[str]) -> tuple[str, str]:
    """The benchmark where a GPU and its data exist, otherwise the proxy; and the reason."""
    gpus = accelerators()
    if not gpus:
        return PROXY_PROFILE, f"this machine has no GPU: {_TOY}"
    wanted = resolve(BENCHMARK_PROFILE, overrides=overrides).config
    absent = absent_tokens(wanted)
    if absent:
        found = f"{gpus} GPUs are here, but {wanted.data.directory} (DATADIR) lacks {', '.join(absent)}"
        return PROXY_PROFILE, f"{found}: {_TOY}"
    return BENCHMARK_PROFILE, f"{gpus} GPUs and the data in {wanted.data.directory} are here"


def fit_proxy(config: Config, gpus: int) -> Config:
    """Fit the proxy, which is made for two ranks, to a machine with one GPU: one rank, with twice the micro batches."""
    wanted = config.parallelism.gpus_per_node
    if not config.benchmark.is_scaled or not 0 < gpus < wanted:
        return config
    tell(f"{gpus} of {wanted} ranks: one per GPU")
    return replace(config, parallelism=replace(config.parallelism, gpus_per_node=gpus))


def require_accelerators(config: Config) -> None:
    """Refuse a profile that needs more GPUs than this machine has. The proxy also trains without a GPU.

    On a machine with GPUs nothing trains on the CPU, unless the user hides the GPUs.

    Raises:
        EnvironmentFailure: fewer GPUs than ranks on this node, or than torch can use.
    """
    found, wanted = accelerators(), config.parallelism.gpus_per_node
    if found < wanted and (found or not config.benchmark.is_scaled):
        raise EnvironmentFailure(
            f"parallelism.gpus_per_node: found {wanted}, but this machine has {found}; "
            f"allowed: at most one rank per GPU (GPUS_PER_NODE); on a machine without GPUs --profile {PROXY_PROFILE}"
        )
    if not found:
        return
    if config.benchmark.is_scaled and environment.gpus_are_hidden():
        tell(f"training on the CPU, because the environment hides the {found} GPUs (CUDA_VISIBLE_DEVICES)")
        return
    usable = torch_gpus.ask()
    if usable.devices < wanted:
        why = f" ({usable.why})" if usable.why else ""
        raise EnvironmentFailure(
            f"this machine has {found} GPUs, but torch can use {usable.devices}{why}, and the run needs {wanted}; "
            "install a torch for this driver (the vendors' containers hold one), check CUDA_VISIBLE_DEVICES, "
            f"or hide the GPUs to train the {PROXY_PROFILE} on the CPU (CUDA_VISIBLE_DEVICES=)"
        )


def absent_tokens(config: Config) -> list[str]:
    """Names of the files of tokens that the configuration needs and that do not exist."""
    directory, prefixes = Path(config.data.directory), (config.data.train_prefix, config.data.valid_prefix)
    paths = [directory / f"{name}{suffix}" for name in prefixes for suffix in (".idx", ".bin")]
    return [path.name for path in paths if not path.exists()]

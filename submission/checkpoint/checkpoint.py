"""Checkpoints of a development run: complete or not there, the last ones kept, and what each was made of."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from harness.contract.config import Config, corpus_fingerprint, fixed_by_checkpoint
from submission.checkpoint import sharded_state
from submission.step import Trainer

MANIFEST = "fourmark.json"  # written last; harness.config.checkpoint_rules reads it
_SCHEMA = 1
_FULL = "No space left on device"  # the words by which the harness knows a full disk

Result = TypeVar("Result")


class CheckpointError(Exception):
    """A checkpoint could not be written or read: one line that says which, why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    directory: Path
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Whose state it is."""

    config: Config
    arm: str
    seed: int

    def facts(self, samples: int) -> dict[str, Any]:
        config, arm = self.config, self.config.arms[self.arm]
        return {
            "schema": _SCHEMA,
            "step": samples // config.batch.global_batch_size,
            "samples": samples,
            "seed": self.seed,
            "arm": self.arm,
            "recipe": arm.recipe,
            "transformer_engine": arm.transformer_engine,
            "fixed": fixed_by_checkpoint(config),
            "corpus": corpus_fingerprint(config.data),
            "layout": _layout(config),
        }


def _layout(config: Config) -> dict[str, Any]:
    """What decides which rank draws which random numbers."""
    names = (
        "nodes",
        "gpus_per_node",
        "tensor",
        "pipeline",
        "virtual_pipeline",
        "sequence_parallel",
        "recompute",
    )
    found = {name: getattr(config.parallelism, name) for name in names}
    return {**found, "micro_batch_size": config.batch.micro_batch_size}


def write(trainer: Trainer, run: Run, home: Path, *, samples: int) -> Written:
    """Write `home`/step_<N> and remove what `checkpoint.keep` leaves out. All ranks call it.

    It is written beside and renamed into place: an interruption or a full disk leaves the earlier ones as they were.

    Raises:
        CheckpointError: on every rank.
    """
    final = home / f"step_{samples // run.config.batch.global_batch_size:08d}"
    part = home / f".{final.name}.part"
    _on_first_rank(lambda: _make_room(home, part, run.config))
    try:
        sharded_state.save(trainer, str(part), samples=samples)
    except CheckpointException as error:  # Megatron raises it on all ranks, with the reasons on the first
        reason = _on_first_rank(functools.partial(_give_up, part, error))
        raise CheckpointError(f"{final}: {reason}; it was not written, earlier ones are whole") from None
    except Exception as error:
        reason = _give_up(part, error) if dist.get_rank() == 0 else _reason(error)
        raise CheckpointError(f"{final}: {reason}; it was not written, earlier ones are whole") from error
    size = _on_first_rank(lambda: _publish(part, final, run, samples))
    return Written(directory=final, bytes=size)


def read(trainer: Trainer, run: Run, directory: Path) -> int:
    """Load a checkpoint that the harness has found complete; returns the samples it has been trained on.

    Raises:
        CheckpointError: it was made by another run, or is damaged.
    """
    try:
        facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint.resume: {directory}: found no whole checkpoint ({error})"
        ) from None
    wanted = run.facts(facts["samples"])
    for key in ("schema", "seed", "corpus", "fixed"):
        if facts[key] != wanted[key]:
            raise CheckpointError(
                f"checkpoint.resume: {directory}: found {key} {facts[key]}; allowed: this run's, {wanted[key]}"
            )
    try:
        return sharded_state.load(trainer, str(directory), same_layout=facts["layout"] == wanted["layout"])
    except CheckpointException as error:  # no Exception, and pages long
        raise CheckpointError(f"checkpoint.resume: {directory}: {_reason(error)}") from None


def _make_room(home: Path, part: Path, config: Config) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(".step_*.part"):  # of an interrupted run
        shutil.rmtree(left)
    free, needed = shutil.disk_usage(home).free, _expected_bytes(config)
    if free < needed:
        room = f"{free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed"
        raise OSError(f"{home}: {_FULL} for a checkpoint: {room}; earlier ones are whole")
    part.mkdir()


def _expected_bytes(config: Config) -> int:
    """Weights, FP32 main parameters and two moments."""
    return config.model.parameters * ({"bf16": 2, "fp32": 4}[config.model.dtype] + 12)


def _publish(part: Path, final: Path, run: Run, samples: int) -> int:
    sizes = {str(path.relative_to(part)): path.stat().st_size for path in part.rglob("*") if path.is_file()}
    facts = {**run.facts(samples), "files": sizes, "bytes": sum(sizes.values())}
    with (part / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    if final.exists():  # an earlier attempt at the same run came this far
        final.rename(final.with_name(f".{final.name}.replaced.part"))
    part.rename(final)
    _sync(final.parent)
    for left in (*final.parent.glob(".step_*.part"), *_beyond(final.parent, run.config.checkpoint.keep)):
        shutil.rmtree(left)
    return facts["bytes"]


def _beyond(home: Path, keep: int) -> list[Path]:
    """All checkpoints but the `keep` that were written last."""
    whole = [path for path in home.glob("step_*") if (path / MANIFEST).exists()]
    return sorted(whole, key=lambda path: (path / MANIFEST).stat().st_mtime_ns)[:-keep]


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_first_rank(action: Callable[[], Result]) -> Result:
    """Do something with files once, and fail everywhere when it fails."""
    said: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            said[0] = action()
        except OSError as error:
            said[1] = str(error)
    dist.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise CheckpointError(said[1])
    return said[0]


def _reason(error: BaseException) -> str:
    """One line out of what the writers of all ranks said."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _give_up(part: Path, error: BaseException) -> str:
    """Remove what was written, which on a full disk would keep the log from being closed, and say why."""
    full = _FULL in _reason(error) or shutil.disk_usage(part.parent).free < 1 << 20
    shutil.rmtree(part, ignore_errors=True)
    return _FULL if full else _reason(error)

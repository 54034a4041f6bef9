"""Writes and reads checkpoints of a development run: each is complete or absent, and only the last ones are kept."""

from __future__ import annotations

import errno
import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.checkpoint import CheckpointException

from harness.contract import checkpoint_manifest, file_names, files
from harness.contract.checkpoint_manifest import SCHEMA, CheckpointManifest
from harness.contract.config import Config, corpus_fingerprint, fixed_by_checkpoint
from harness.contract.ending import FULL_DISK, is_disk_full
from harness.contract.typed_json import RowError
from submission.checkpoint import sharded_state
from submission.step import Trainer

_PARTS = f".{file_names.CHECKPOINT}*.part"
Result = TypeVar("Result")


class CheckpointError(Exception):
    """A checkpoint could not be written or read; the message is one line: which, why and what to do.

    Args:
        number: errno, where the operating system reported one.
    """

    def __init__(self, message: str, *, number: int | None = None):
        super().__init__(message)
        self.errno = number


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    directory: Path
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The run that a checkpoint belongs to."""

    config: Config
    arm: str
    seed: int

    def manifest(self, samples: int, *, files: Mapping[str, int]) -> CheckpointManifest:
        """Args:
        files: path below the checkpoint -> bytes.
        """
        config, arm = self.config, self.config.arms[self.arm]
        return CheckpointManifest(
            schema=SCHEMA,
            step=samples // config.batch.global_batch_size,
            samples=samples,
            seed=self.seed,
            arm=self.arm,
            recipe=arm.recipe,
            transformer_engine=arm.transformer_engine,
            fixed=fixed_by_checkpoint(config),
            corpus=corpus_fingerprint(config.data),
            layout=_layout(config),
            files=files,
            bytes=sum(files.values()),
        )


def _layout(config: Config) -> Mapping[str, Any]:
    """The settings that decide which rank draws which random numbers."""
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
    """Write `home`/step_<N> and remove all but the last `checkpoint.keep` checkpoints. All ranks call it.

    The checkpoint is written to a temporary directory and then renamed, so that an interruption or a full disk leaves
    earlier ones unchanged.

    Raises:
        CheckpointError: it could not be written; raised on every rank.
    """
    final = home / file_names.checkpoint(samples // run.config.batch.global_batch_size)
    part = home / f".{final.name}.part"
    _on_first_rank(lambda: _make_room(home, part, run.config))
    try:
        sharded_state.save(trainer, str(part), samples=samples)
    except CheckpointException as error:  # Megatron raises it on all ranks; only rank 0 has the reasons
        reason, number = _on_first_rank(functools.partial(_give_up, part, error))
        raise _not_written(final, reason, number) from None
    except Exception as error:
        reason, number = _give_up(part, error) if dist.get_rank() == 0 else (_reason(error), None)
        raise _not_written(final, reason, number) from error
    size = _on_first_rank(lambda: _publish(part, final, run, samples))
    return Written(directory=final, bytes=size)


def _not_written(final: Path, reason: str, number: int | None) -> CheckpointError:
    message = f"{final}: {reason}; it was not written, earlier ones are whole"
    return CheckpointError(message, number=number)


def read(trainer: Trainer, run: Run, directory: Path) -> int:
    """Load a checkpoint that the harness has checked to be complete; returns how many samples it was trained on.

    Raises:
        CheckpointError: it belongs to another run, or is damaged.
    """
    try:
        found = checkpoint_manifest.read(directory)
    except (OSError, RowError) as error:
        raise CheckpointError(
            f"checkpoint.resume: {directory}: not a complete checkpoint ({error}); choose another"
        ) from None
    wanted = run.manifest(found.samples, files={})
    for key in ("schema", "seed", "corpus", "fixed"):
        there, here = getattr(found, key), getattr(wanted, key)
        if there != here:
            raise CheckpointError(
                f"checkpoint.resume: {directory}: {key} in its manifest is {there}, in this run {here}; use equal ones"
            )
    try:
        return sharded_state.load(trainer, str(directory), same_layout=found.layout == wanted.layout)
    except CheckpointException as error:  # Megatron derives it from BaseException; its text fills pages
        raise CheckpointError(f"checkpoint.resume: {directory}: {_reason(error)}") from None


def _make_room(home: Path, part: Path, config: Config) -> None:
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(_PARTS):  # remains of an interrupted write
        shutil.rmtree(left)
    free, needed = shutil.disk_usage(home).free, _expected_bytes(config)
    if free < needed:
        room = f"{free / 1e6:,.0f} MB free, about {needed / 1e6:,.0f} MB needed"
        message = f"{FULL_DISK} for a checkpoint: {room}; earlier ones are whole"
        raise OSError(errno.ENOSPC, message, str(home))
    part.mkdir()


def _expected_bytes(config: Config) -> int:
    """Size of weights, FP32 main parameters and two moments."""
    return config.model.parameters * ({"bf16": 2, "fp32": 4}[config.model.dtype] + 12)


def _publish(part: Path, final: Path, run: Run, samples: int) -> int:
    sizes = {str(path.relative_to(part)): path.stat().st_size for path in part.rglob("*") if path.is_file()}
    manifest = run.manifest(samples, files=sizes)
    checkpoint_manifest.write(part, manifest)
    if final.exists():  # an earlier attempt at the same run wrote this step
        final.rename(final.with_name(f".{final.name}.replaced.part"))
    part.rename(final)
    files.sync_directory(final.parent)
    for left in (*final.parent.glob(_PARTS), *_beyond(final.parent, run.config.checkpoint.keep)):
        shutil.rmtree(left)
    return manifest.bytes


def _beyond(home: Path, keep: int) -> list[Path]:
    """All complete checkpoints except the last `keep`."""
    whole = [path for path in home.glob(f"{file_names.CHECKPOINT}*") if checkpoint_manifest.is_whole(path)]
    return sorted(whole, key=checkpoint_manifest.written_ns)[:-keep]


def _on_first_rank(action: Callable[[], Result]) -> Result:
    """Run a file operation on rank 0 only; where it fails, raise on every rank."""
    said: list[Any] = [None, None, None]
    if dist.get_rank() == 0:
        try:
            said[0] = action()
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            said[1:] = f"{where}{error.strerror or error}", error.errno
    dist.broadcast_object_list(said, src=0)
    if said[1] is not None:
        raise CheckpointError(said[1], number=said[2])
    return said[0]


def _reason(error: BaseException) -> str:
    """The first failure of any rank, as one line."""
    error = _first_failure(error)
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _first_failure(error: BaseException) -> BaseException:
    failures = error.failures if isinstance(error, CheckpointException) else None
    return next(iter(failures.values()))[0] if failures else error


def _give_up(part: Path, error: BaseException) -> tuple[str, int | None]:
    """Remove the unfinished checkpoint, so that a full disk has room to close the log; return the reason and errno."""
    full = is_disk_full(_first_failure(error)) or shutil.disk_usage(part.parent).free < 1 << 20
    shutil.rmtree(part, ignore_errors=True)
    return (FULL_DISK, errno.ENOSPC) if full else (_reason(error), None)

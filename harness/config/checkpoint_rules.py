"""Rules about checkpoints: only development runs write them, and a run resumes only from one that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from harness.base.paths import in_repository
from harness.base.text import printable
from harness.contract import checkpoint_manifest, file_names
from harness.contract.build import ConfigProblem
from harness.contract.checkpoint_manifest import SCHEMA, CheckpointManifest
from harness.contract.config import Config, corpus_fingerprint, fixed_by_checkpoint
from harness.contract.typed_json import NoJson, RowError

_MANIFEST = file_names.CHECKPOINT_MANIFEST


def notes(config: Config) -> list[str]:
    """Notes about checkpoints for `plan`."""
    said, settings = [], config.checkpoint
    if settings.every_steps:
        size = config.model.parameters * (12 + {"bf16": 2, "fp32": 4}[config.model.dtype])
        said.append(
            f"checkpoint: every {settings.every_steps} steps about {size / 1e9:,.2f} GB, written inside the timed run; "
            f"the last {settings.keep} stay in {settings.directory or 'the attempt'}"
        )
    if settings.resume:
        found = _manifest(config)
        said.append(
            f"checkpoint: resumes after step {found.step} ({found.samples:,} samples) of an "
            f"{printable(found.arm)} run, seed {found.seed}; such a run is not a result"
        )
    return said


def _division(config: Config) -> None:
    if config.system.division != "closed":
        return
    for key, none in (("every_steps", "0"), ("resume", "nothing")):
        if found := getattr(config.checkpoint, key):
            allowed = f"{none} in the closed division, checkpoints are for development"
            raise ConfigProblem(f"checkpoint.{key}", str(found), f"{allowed} (--set system.division=open)")


def _resumable(config: Config) -> None:
    if config.checkpoint.resume:
        found = _manifest(config)
        _same_run(config, found)
        _same_training(config, found)


def _manifest(config: Config) -> CheckpointManifest:
    """The manifest of a whole checkpoint; otherwise ConfigProblem."""
    directory = Path(in_repository(config.checkpoint.resume))
    if not directory.is_dir():
        raise _problem(config, "no such directory")
    if not checkpoint_manifest.is_whole(directory):
        children = directory.glob(f"{file_names.CHECKPOINT}*")
        inside = sorted(child.name for child in children if checkpoint_manifest.is_whole(child))
        if inside:
            raise _problem(config, f"a directory of checkpoints; the last is {directory / inside[-1]}")
        raise _problem(config, f"a directory without {_MANIFEST}: incomplete, or of another program")
    try:
        found = checkpoint_manifest.read(directory)
    except NoJson:
        raise _problem(config, f"a {_MANIFEST} that is not JSON") from None
    except RowError as error:
        raise _problem(config, f"a {_MANIFEST} of another version ({printable(error)})") from None
    if found.schema != SCHEMA:
        raise _problem(config, f"a {_MANIFEST} of another version")
    for name, size in found.files.items():
        file = directory / name
        if not file.is_file() or file.stat().st_size != size:
            there = f"{file.stat().st_size} bytes" if file.is_file() else "missing"
            raise _problem(
                config, f"an incomplete checkpoint: {printable(name)} is {there}; it must have {size} bytes"
            )
    return found


def _same_run(config: Config, found: CheckpointManifest) -> None:
    """The resumed run must have the checkpoint's seed and corpus, which decide the order of the data."""
    seed, runs = found.seed, config.runs
    if runs.seed != seed:
        said = "null" if runs.seed is None else str(runs.seed)
        raise ConfigProblem(
            "runs.seed", said, f"{seed}, the checkpoint's (--set runs.seed={seed} --set runs.count=1)"
        )
    if runs.count != 1 or (len(runs.arms) > 1 and not runs.paired_seeds):
        key, value = ("count", runs.count) if runs.count != 1 else ("paired_seeds", "false")
        needed = "1" if key == "count" else "true, or a single arm"
        raise ConfigProblem(
            f"runs.{key}", str(value), f"{needed} with checkpoint.resume: other runs have other seeds"
        )
    data = dataclasses.replace(config.data, directory=in_repository(config.data.directory))
    if not (Path(data.directory) / f"{data.train_prefix}.bin").exists():
        return  # The check of the data names a missing corpus, or builds it; the training compares again.
    if corpus_fingerprint(data) != found.corpus:
        allowed = f"the corpus of the checkpoint, {printable(found.corpus)} (bytes, SHA-256 of the first MiB)"
        raise ConfigProblem("data.directory", f"{data.directory} with {corpus_fingerprint(data)}", allowed)


def _same_training(config: Config, found: CheckpointManifest) -> None:
    mine = fixed_by_checkpoint(config)
    for path in sorted(mine.keys() | found.fixed.keys()):
        if mine.get(path) != found.fixed.get(path):
            allowed = f"{printable(found.fixed.get(path))}, the checkpoint's ({config.checkpoint.resume})"
            raise ConfigProblem(printable(path), str(mine.get(path)), allowed)
    for name in config.runs.arms:
        mode = config.arms[name].transformer_engine
        if mode != found.transformer_engine:
            allowed = (
                f"{printable(found.transformer_engine)}, the checkpoint's: other linears keep other state"
            )
            raise ConfigProblem(f"arms.{name}.transformer_engine", mode, allowed)
    if found.step >= config.schedule.max_steps:
        raise _problem(config, f"step {found.step} of {config.schedule.max_steps}, nothing left to train")


def _problem(config: Config, found: str) -> ConfigProblem:
    allowed = "a whole checkpoint, step_<N> below a run's checkpoints/ directory"
    return ConfigProblem("checkpoint.resume", f"{config.checkpoint.resume}: {found}", allowed)


RULES: tuple[Callable[[Config], None], ...] = (_division, _resumable)

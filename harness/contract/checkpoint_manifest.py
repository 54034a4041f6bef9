"""fourmark.json, the manifest of a checkpoint. It is written last: a directory without it is not a whole checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contract import file_names, files, typed_json

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointManifest:
    """Args:
    samples: sequences trained on; `step` optimizer steps.
    fixed: dotted key -> value, for every setting that a resumed run must share.
    corpus: fingerprint of the training tokens.
    layout: the settings that decide which rank draws which random numbers.
    files: path below the checkpoint -> size in bytes; `bytes` is their sum.
    """

    schema: int
    step: int
    samples: int
    seed: int
    arm: str
    recipe: str = ""
    transformer_engine: str
    fixed: Mapping[str, Any]
    corpus: str
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, int]
    bytes: int = 0


def write(directory: Path, manifest: CheckpointManifest) -> None:
    files.replace_json(directory / file_names.CHECKPOINT_MANIFEST, typed_json.to_plain(manifest))


def read(directory: Path) -> CheckpointManifest:
    """Read the manifest of a checkpoint.

    Raises:
        OSError: no checkpoint.
        RowError: a manifest of another version.
    """
    text = (directory / file_names.CHECKPOINT_MANIFEST).read_bytes()
    return typed_json.from_text(CheckpointManifest, text)


def is_whole(directory: Path) -> bool:
    """Whether the manifest exists, which is written after everything else."""
    return (directory / file_names.CHECKPOINT_MANIFEST).exists()


def written_ns(directory: Path) -> int:
    """When a whole checkpoint was written, in nanoseconds of its file system's clock."""
    return (directory / file_names.CHECKPOINT_MANIFEST).stat().st_mtime_ns

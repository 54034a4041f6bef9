"""fourmark.json: what a checkpoint is made of; written last: a directory without it is no whole checkpoint."""

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
    fixed: dotted key -> value of all that a resumed run must share.
    corpus: fingerprint of the training tokens.
    layout: what decides which rank draws which random numbers.
    files: path below the checkpoint -> bytes; `bytes` is their sum.
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
    """What a checkpoint says of itself.

    Raises:
        OSError: no checkpoint.
        RowError: a manifest of another version.
    """
    text = (directory / file_names.CHECKPOINT_MANIFEST).read_bytes()
    return typed_json.from_text(CheckpointManifest, text)


def is_whole(directory: Path) -> bool:
    """Whether the manifest is there, which is written when everything else is."""
    return (directory / file_names.CHECKPOINT_MANIFEST).exists()


def written_ns(directory: Path) -> int:
    """When a whole checkpoint was written, by the clock of its file system."""
    return (directory / file_names.CHECKPOINT_MANIFEST).stat().st_mtime_ns

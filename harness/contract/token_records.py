"""What the builders of tokens say: the corpus's manifest.json, and the lines of a build of raw C4 on stdout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import file_names, files, typed_json


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFile:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Args:
    sequences: of the corpus's sequence length; the builder, which knows no length, leaves 0.
    """

    documents: int
    tokens: int
    sequences: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusManifest:
    """The builder prints what it knows; the harness adds lengths and files and writes it into the corpus.

    Args:
        python: version whose texts these are.
        source_sha256: digest of names and contents of all documents.
        splits, files: by name.
    """

    python: str = ""
    vocab_size: int
    source_sha256: str = ""
    splits: Mapping[str, Split]
    sequence_length: int = 0  # tokens
    files: Mapping[str, TokenFile] = dataclasses.field(default_factory=dict)


def write_manifest(directory: Path, manifest: CorpusManifest) -> None:
    files.replace_json(directory / file_names.CORPUS_MANIFEST, typed_json.to_plain(manifest))


def read_manifest(directory: Path) -> CorpusManifest:
    """The manifest of a corpus.

    Raises:
        OSError: none there.
        RowError: not a manifest.
    """
    text = (directory / file_names.CORPUS_MANIFEST).read_bytes()
    return typed_json.from_text(CorpusManifest, text)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """How far a build of raw C4 is, a line a checkpoint.

    Args:
        continued_at: documents that an interrupted build left; alone in the first line.
        fraction: of the input's bytes.
        new_tokens: since this process began; tokens_per_s: over them.
        workers: told when it has finished.
    """

    continued_at: int | None = None
    fraction: float = 0.0
    documents: int = 0
    tokens: int = 0
    new_tokens: int = 0
    tokens_per_s: float = 0.0
    workers: int = 0
    finished: bool = False


def to_line(report: BuildReport) -> str:
    """What a line does not speak of is left out of it."""
    silent = typed_json.to_plain(BuildReport())
    said = typed_json.to_plain(report)
    return json.dumps({key: value for key, value in said.items() if value != silent[key]})


def from_line(line: str) -> BuildReport:
    """A line of the builder's stdout.

    Raises:
        RowError: no such line.
    """
    return typed_json.from_text(BuildReport, line)

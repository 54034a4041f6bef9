"""Records of the token builders: the corpus's manifest.json, and the stdout lines of a build from raw C4."""

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
    sequences: number of sequences of the corpus's length; the builder does not know the length and writes 0.
    """

    documents: int
    tokens: int
    sequences: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusManifest:
    """manifest.json. The builder prints the fields that it knows; the harness adds lengths and files and writes it.

    Args:
        python: version of the Python whose texts these are.
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
    """Read the manifest of a corpus.

    Raises:
        OSError: there is none.
        RowError: not a manifest.
    """
    text = (directory / file_names.CORPUS_MANIFEST).read_bytes()
    return typed_json.from_text(CorpusManifest, text)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """Progress of a build from raw C4, one line per checkpoint.

    Args:
        continued_at: number of documents that an interrupted build had written; the only field of the first line.
        fraction: share of the input's bytes that is done.
        new_tokens: tokens since this process started; tokens_per_s: their speed.
        workers: number of processes, set in the last line.
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
    """The line, without the fields that are not set."""
    silent = typed_json.to_plain(BuildReport())
    said = typed_json.to_plain(report)
    return json.dumps({key: value for key, value in said.items() if value != silent[key]})


def from_line(line: str) -> BuildReport:
    """Read a line of the builder's stdout.

    Raises:
        RowError: another kind of line.
    """
    return typed_json.from_text(BuildReport, line)

"""What MLCommons publishes for llama31_8b: addresses, names, sizes and manifests.

The layout is that of the MLCommons R2 downloader: `<metadata>/<dataset>.uri` holds the address of the files, the
manifest `<metadata>/<dataset>.md5` their digests and names (reference README, small_llm_pretraining/nemo).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from harness.base.text import printable

METADATA = "https://training.mlcommons-storage.org/metadata"
# The script that defines this protocol. We do not run it. git show 14849b1:mlc-r2-downloader.sh | sha256sum
DOWNLOADER = {
    "script": "https://github.com/mlcommons/r2-downloader/blob/main/mlc-r2-downloader.sh",
    "commit": "14849b1399178c723fc0c0b4bcfaeb19da59c959",
    "sha256": "382b0a4fe1b139c58651d3498e0433194e5f49aa99bc9047b884eeaf2fc0bb7c",
}
TRAIN_PREFIX = "c4-train.en_6_text_document"  # training reads only shard 6 of 8
VALID_PREFIX = "c4-validation-91205-samples.en_text_document"
TRAIN_BYTES = 83_976_774_280
VALID_DOCUMENTS = 91_205
TOKEN_TYPE = "int32"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One manifest, and which of its files are wanted."""

    name: str
    folder: str  # below the data directory
    wanted: tuple[str, ...]  # names without directories

    @property
    def manifest(self) -> str:
        return f"{self.name}.md5"


@dataclass(frozen=True, slots=True)
class File:
    """A published file."""

    source: str  # path below the data set's address
    md5: str
    target: str  # path below the data directory


_C4 = "llama-3-1-8b-preprocessed-c4-dataset"
# The tokenizer's data set mirrors the whole model repository, with 30 GB of weights.
WHAT = {
    "train": Dataset(_C4, "", (f"{TRAIN_PREFIX}.bin", f"{TRAIN_PREFIX}.idx")),
    "validation": Dataset(_C4, "", (f"{VALID_PREFIX}.bin", f"{VALID_PREFIX}.idx")),
    "tokenizer": Dataset(
        "llama-3-1-8b-tokenizer",
        "tokenizer",
        ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    ),
}
_TERMS = ("LICENSE", "LICENSE.txt", "NOTICE.txt", "USE_POLICY.md")  # also fetched if the manifest lists them


class ManifestError(Exception):
    """A text is not the manifest that it should be."""


def read_manifest(text: str) -> dict[str, str]:
    """Read a manifest in md5sum's format: path -> MD5.

    Raises:
        ManifestError: another text, for example the page of a login or a proxy.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{32})[ \t]+\*?(?:\./)?(\S.*)", line.rstrip())
        path = PurePosixPath(match[2]) if match else PurePosixPath("/")
        if not match or path.is_absolute() or ".." in path.parts or not match[2].isprintable():
            raise ManifestError(
                f"line {number}: found '{printable(line, 60)}'; expected an MD5 and a relative path"
            )
        found[match[2]] = match[1].lower()
    return found


def files(dataset: Dataset, manifest: dict[str, str]) -> list[File]:
    """The wanted files of a data set, in the order of their names, and its terms of use.

    Raises:
        ManifestError: the manifest lacks a wanted file, or lists a name twice.
    """
    by_name: dict[str, list[str]] = {}
    for path in manifest:
        by_name.setdefault(PurePosixPath(path).name, []).append(path)
    missing = [name for name in dataset.wanted if name not in by_name]
    if missing:
        raise ManifestError(f"found no {', '.join(missing)} among {len(manifest)} files")
    found = []
    for name in (*dataset.wanted, *_TERMS):
        if name in dataset.wanted and len(by_name[name]) > 1:
            raise ManifestError(f"found {name} twice: {', '.join(by_name[name])}")
        for path in by_name.get(name, [])[:1]:
            found.append(File(path, manifest[path], str(PurePosixPath(dataset.folder) / name)))
    return found

"""The proxy's corpus: built from the files of every Python installation, verified against its own manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.base.errors import EnvironmentFailure, UsageError
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.contract import file_names, token_records, typed_json
from harness.contract.config import Config
from harness.contract.token_records import CorpusManifest, TokenFile
from harness.contract.typed_json import RowError
from harness.data.verify import problems_of_files, problems_of_split, sha256

_BUILD = "./run.sh data build"
_BUILDING, _LOCK = ".building", ".lock"  # both are in the corpus's directory
_WHOSE = {
    "python": "Python's standard library (a few seconds)",
    "machine": "the sources and documentation on this machine (minutes)",
}


def exists(config: Config) -> bool:
    return _manifest_path(config).exists()


def problems(config: Config, *, digests: bool, report: Callable[[str], None] | None = None) -> list[str]:
    """What is wrong, one line each. Sizes are checked before contents, which take longer.

    Raises:
        EnvironmentFailure: there is no corpus.
    """
    directory, manifest = Path(config.data.directory), _manifest(config)
    files = manifest.files
    if digests and report:
        report(f"reading {sum(file.bytes for file in files.values()):,} bytes in {directory}")
    found = [
        *_problems_of_settings(config, manifest),
        *problems_of_files(directory, files, digests=digests),
    ]
    return [*found, *_problems_of_splits(config, found)]


def build(config: Config, *, force: bool) -> bool:
    """Build the corpus in a directory inside its own, then move its files up.

    The manifest, which makes it valid, is last.

    The build is inside the directory, because a container may mount only this directory, and a mount cannot be
    replaced.

    Returns:
        False if a corpus exists already; it is kept.

    Raises:
        UsageError: the directory holds files that no build wrote.
        EnvironmentFailure: the building process failed.
    """
    directory = Path(config.data.directory)
    _refuse_foreign(directory, config)
    with _only_builder(directory):
        if exists(config) and not force:
            return False
        # a build that was killed has left this; it starts again
        fresh = directory / _BUILDING
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        tell(f"building the corpus in {directory} from {_WHOSE[config.data.corpus]}")
        _write_manifest(fresh, config, _run_builder(fresh, config))
        _replace(directory, fresh)
    return True


def summary(config: Config, *, full: bool) -> str:
    """One line about a corpus without problems."""
    manifest = _manifest(config)
    how = "verified" if full else "names, sizes and structure verified"
    size = sum(file.bytes for file in manifest.files.values())
    splits = "; ".join(
        f"{name}: {split.documents} documents, {split.tokens:,} tokens"
        for name, split in manifest.splits.items()
    )
    return f"{config.data.directory}: {len(manifest.files)} files, {size:,} bytes, {how}; {splits}"


def _run_builder(directory: Path, config: Config) -> CorpusManifest:
    command = [
        sys.executable,
        "-m",
        "submission.corpus.corpus",
        "--out",
        str(directory),
        "--of",
        config.data.corpus,
    ]
    command += ["--vocab", str(config.model.vocab_size)]
    command += ["--train-prefix", config.data.train_prefix, "--valid-prefix", config.data.valid_prefix]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise EnvironmentFailure(
            f"{directory}: building the corpus failed with exit code {process.returncode}"
        )
    return typed_json.from_text(CorpusManifest, process.stdout)


def _write_manifest(directory: Path, config: Config, built: CorpusManifest) -> None:
    length = config.model.sequence_length
    splits = {
        name: dataclasses.replace(split, sequences=(split.tokens - 1) // length)
        for name, split in built.splits.items()
    }
    files = {
        path.name: TokenFile(bytes=path.stat().st_size, sha256=sha256(path))
        for path in sorted(directory.iterdir())
    }
    manifest = dataclasses.replace(built, splits=splits, sequence_length=length, files=files)
    token_records.write_manifest(directory, manifest)


def _replace(directory: Path, fresh: Path) -> None:
    """Replace the old corpus by the new one.

    If the process dies meanwhile there is no manifest, so there is no corpus.
    """
    (directory / file_names.CORPUS_MANIFEST).unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and path != fresh:
            shutil.rmtree(path)
        elif path.name not in (_BUILDING, _LOCK):
            path.unlink()
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == file_names.CORPUS_MANIFEST):
        path.rename(directory / path.name)
    fresh.rmdir()


@contextlib.contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Lock the directory, so that two jobs that start together build one corpus.

    The lock of a dead process is released.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_foreign(directory: Path, config: Config) -> None:
    """Refuse to replace files that no build wrote: data.directory could name any directory of the user."""
    if not directory.exists():
        return
    ours = {file_names.CORPUS_MANIFEST, file_names.TOKENIZER, "cache", _BUILDING, _LOCK}
    ours |= {
        f"{name}.{end}"
        for name in (config.data.train_prefix, config.data.valid_prefix)
        for end in ("bin", "idx")
    }
    with contextlib.suppress(OSError, RowError):
        ours |= set(token_records.read_manifest(directory).files)
    foreign = sorted(path.name for path in directory.iterdir() if path.name not in ours)
    if foreign:
        raise UsageError(
            f"{directory}: found {foreign[0]}, which no build wrote; choose an empty or new data.directory"
        )


def _manifest_path(config: Config) -> Path:
    return Path(config.data.directory) / file_names.CORPUS_MANIFEST


def _manifest(config: Config) -> CorpusManifest:
    path = _manifest_path(config)
    if not path.exists():
        raise EnvironmentFailure(f"{path.parent}: found no corpus; build it with {_BUILD}")
    try:
        return token_records.read_manifest(path.parent)
    except RowError as error:
        raise EnvironmentFailure(
            f"{path}: not a manifest ({error}); build the corpus again with {_BUILD} --force"
        ) from None


def _problems_of_settings(config: Config, manifest: CorpusManifest) -> Iterator[str]:
    path, remedy = (
        _manifest_path(config),
        f"build it again with {_BUILD} --force, or choose another data.directory",
    )
    if manifest.vocab_size != config.model.vocab_size:
        yield (
            f"{path}: found a corpus of vocabulary {manifest.vocab_size}; "
            f"expected model.vocab_size = {config.model.vocab_size}: {remedy}"
        )
    for prefix in (config.data.train_prefix, config.data.valid_prefix):
        if prefix not in manifest.splits:
            yield f"{path}: found {', '.join(manifest.splits)}; expected {prefix}: {remedy}"


def _problems_of_splits(config: Config, found: list[str]) -> Iterator[str]:
    """Structure of the splits; a file that has a problem already is not named twice."""
    directory, length = Path(config.data.directory), config.model.sequence_length
    for prefix, least in (
        (config.data.train_prefix, 1),
        (config.data.valid_prefix, config.evaluation.sequences),
    ):
        files = [f"{directory / prefix}.{end}: " for end in ("bin", "idx")]
        if not any(problem.startswith(tuple(files)) for problem in found):
            yield from problems_of_split(directory / prefix, sequence_length=length, least_sequences=least)

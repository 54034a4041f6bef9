"""Command `data`: build the proxy's corpus, verify the tokens of either profile."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.config_file import resolve
from harness.corpus_files import MANIFEST, problems_of_files, problems_of_split, sha256
from harness.errors import EXIT_FAILED, EXIT_OK, EnvironmentFailure, UsageError
from harness.paths import ROOT

_C4_TRAIN_BYTES = 83_976_774_280  # c4-train.en_6_text_document.bin as MLCommons distributes it
_BUILD = "./run.sh data build"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=["build", "verify"], help="build the proxy's corpus, or check the files"
    )
    parser.add_argument("--profile", default="proxy", help="whose data (default proxy)")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument("--force", action="store_true", help="build: replace a corpus that is there")


def main(args: argparse.Namespace) -> int:
    config = resolve(args.profile, overrides=args.overrides).config
    if args.action == "build" and not build(config, force=args.force):
        _tell(f"{config.data.directory}: already built; --force replaces it")
    problems = verify(config, report=_tell)
    for problem in problems:
        print(problem)
    if not problems:
        print(_summary(config))
    return EXIT_FAILED if problems else EXIT_OK


def ensure(config: Config) -> None:
    """Make the data usable before a run: build a missing proxy corpus, check names and sizes of any other.

    Raises:
        EnvironmentFailure: missing, damaged or made for another configuration; says what to do.
    """
    if config.data.corpus == "python" and not _manifest_path(config).exists():
        build(config, force=False)
    problems = verify(config, digests=False)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EnvironmentFailure(f"{problems[0]}{more}; ./run.sh data verify says all")


def verify(config: Config, *, digests: bool = True, report: Callable[[str], None] | None = None) -> list[str]:
    """What is wrong with the data, one line each; sizes come before contents, which take longer.

    Raises:
        EnvironmentFailure: there is no data at all.
    """
    if config.data.corpus == "c4":
        return _verify_c4(config)
    directory, manifest = Path(config.data.directory), _manifest(config)
    files: dict[str, Any] = manifest["files"]
    if digests and report:
        report(f"reading {sum(file['bytes'] for file in files.values()):,} bytes in {directory}")
    problems = [
        *_problems_of_settings(config, manifest),
        *problems_of_files(directory, files, digests=digests),
    ]
    return problems or list(_problems_of_splits(config))


def build(config: Config, *, force: bool) -> bool:
    """Build the proxy's corpus beside its directory and move it into place whole.

    Returns:
        False where a corpus is already there and stays.

    Raises:
        UsageError: this data is prepared elsewhere, or the directory holds something that is not ours.
        EnvironmentFailure: the building process failed.
    """
    if config.data.corpus != "python":
        names = ", ".join(path.name for path in _c4_files(config))
        raise UsageError(
            f"data build makes the proxy's corpus only; {config.profile} reads the MLCommons-prepared C4: "
            f"put {names} into {config.data.directory} (DATADIR) and run ./run.sh data verify"
        )
    directory = Path(config.data.directory).resolve()  # behind a symlink, the directory itself is replaced
    _refuse_foreign(directory, config)
    with _only_builder(directory):
        if _manifest_path(config).exists() and not force:
            return False
        # one that a killed build left is made anew
        fresh = directory.with_name(f"{directory.name}.building")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        _tell(f"building the corpus in {directory} from Python's standard library (a few seconds)")
        _write_manifest(fresh, config, _run_builder(fresh, config))
        shutil.rmtree(directory, ignore_errors=True)
        fresh.rename(directory)
    return True


def _run_builder(directory: Path, config: Config) -> dict[str, Any]:
    command = [sys.executable, "-m", "submission.corpus", "--out", str(directory)]
    command += ["--vocab", str(config.model.vocab_size)]
    command += ["--train-prefix", config.data.train_prefix, "--valid-prefix", config.data.valid_prefix]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        raise EnvironmentFailure(
            f"{directory}: building the corpus failed with exit code {process.returncode}"
        )
    return json.loads(process.stdout)


def _write_manifest(directory: Path, config: Config, facts: dict[str, Any]) -> None:
    length = config.model.sequence_length
    for split in facts["splits"].values():
        split["sequences"] = (split["tokens"] - 1) // length
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(directory.iterdir())
    }
    document = {**facts, "sequence_length": length, "files": files}
    (directory / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _only_builder(directory: Path) -> Iterator[None]:
    """Two jobs that start at once build one corpus; the kernel drops the lock of a process that dies."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_foreign(directory: Path, config: Config) -> None:
    """Only what a build has written may be replaced: data.directory could name anybody's directory."""
    if not directory.exists():
        return
    ours = {MANIFEST, "tokenizer.json", "cache"}
    ours |= {
        f"{name}.{end}"
        for name in (config.data.train_prefix, config.data.valid_prefix)
        for end in ("bin", "idx")
    }
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        ours |= set(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"])
    foreign = sorted(path.name for path in directory.iterdir() if path.name not in ours)
    if foreign:
        raise UsageError(
            f"{directory}: found {foreign[0]}, which no build wrote; allowed: an empty or new data.directory"
        )


def _manifest_path(config: Config) -> Path:
    return Path(config.data.directory) / MANIFEST


def _manifest(config: Config) -> dict[str, Any]:
    path = _manifest_path(config)
    if not path.exists():
        raise EnvironmentFailure(f"{path.parent}: no corpus here; {_BUILD} makes it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for file in manifest["files"].values():
            file["bytes"], file["sha256"]
        manifest["vocab_size"], manifest["splits"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(
            f"{path}: not a manifest ({error!r}); {_BUILD} --force makes it anew"
        ) from None
    return manifest


def _problems_of_settings(config: Config, manifest: dict[str, Any]) -> Iterator[str]:
    path, remedy = _manifest_path(config), f"{_BUILD} --force, or another data.directory"
    if manifest["vocab_size"] != config.model.vocab_size:
        yield (
            f"{path}: found a corpus of vocabulary {manifest['vocab_size']}; "
            f"expected model.vocab_size = {config.model.vocab_size}: {remedy}"
        )
    for prefix in (config.data.train_prefix, config.data.valid_prefix):
        if prefix not in manifest["splits"]:
            yield f"{path}: found {', '.join(manifest['splits'])}; expected {prefix}: {remedy}"


def _problems_of_splits(config: Config) -> Iterator[str]:
    directory, length = Path(config.data.directory), config.model.sequence_length
    for prefix, least in (
        (config.data.train_prefix, 1),
        (config.data.valid_prefix, config.evaluation.sequences),
    ):
        yield from problems_of_split(directory / prefix, sequence_length=length, least_sequences=least)


def _c4_files(config: Config) -> list[Path]:
    directory = Path(config.data.directory)
    prefixes = (config.data.train_prefix, config.data.valid_prefix)
    return [directory / f"{prefix}.{end}" for prefix in prefixes for end in ("bin", "idx")]


def _verify_c4(config: Config) -> list[str]:
    """Names, the training file's size, and that the validation split is whole: digests of 84 GB are not published."""
    files = _c4_files(config)
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise EnvironmentFailure(
            f"{missing[0].parent}: found no {', '.join(path.name for path in missing)}; expected the "
            "MLCommons-prepared C4 (data.directory, or DATADIR)"
        )
    size = files[0].stat().st_size
    problems = (
        [] if size == _C4_TRAIN_BYTES else [f"{files[0]}: found {size:,} bytes; expected {_C4_TRAIN_BYTES:,}"]
    )
    return problems + list(
        problems_of_split(
            files[2].with_suffix(""),
            sequence_length=config.model.sequence_length,
            least_sequences=config.evaluation.sequences,
        )
    )


def _summary(config: Config) -> str:
    if config.data.corpus == "c4":
        return f"{config.data.directory}: 4 files present, sizes as expected"
    manifest = _manifest(config)
    size = sum(file["bytes"] for file in manifest["files"].values())
    splits = "; ".join(
        f"{name}: {split['documents']} documents, {split['tokens']:,} tokens"
        for name, split in manifest["splits"].items()
    )
    return f"{config.data.directory}: {len(manifest['files'])} files, {size:,} bytes, verified; {splits}"


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

"""The MLCommons-prepared C4 in a directory: checks whether its files are the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.base.errors import EnvironmentFailure
from harness.contract.config import Config
from harness.data.progress_meter import Meter
from harness.data.published import (
    TOKEN_TYPE,
    TRAIN_BYTES,
    TRAIN_PREFIX,
    VALID_DOCUMENTS,
    VALID_PREFIX,
    WHAT,
    ManifestError,
    files,
    read_manifest,
)
from harness.data.verify import md5, problems_of_index, problems_of_split, read_index

_FETCH = "./run.sh data fetch"


def token_files(config: Config) -> list[Path]:
    """The four files that a run reads: .bin and .idx for training, .bin and .idx for validation."""
    directory = Path(config.data.directory)
    prefixes = (config.data.train_prefix, config.data.valid_prefix)
    return [directory / f"{prefix}.{end}" for prefix in prefixes for end in ("bin", "idx")]


def problems(config: Config, *, full: bool, report: Callable[[str], None] | None = None) -> list[str]:
    """What is wrong, one line each: names, sizes and structure. `full` also compares every byte with the published MD5.

    Raises:
        EnvironmentFailure: files are missing; for `full`, the published manifest is missing.
    """
    tokens = token_files(config)
    missing = [path for path in tokens if not path.is_file()]
    found = [*_problems_of_names(config), *_problems_of_sizes(config, tokens, missing)]
    if missing:
        rest = "".join(f"\n{problem}" for problem in found)
        raise EnvironmentFailure(
            f"{missing[0].parent}: found no {', '.join(path.name for path in missing)}; expected the "
            f"MLCommons-prepared C4 (data.directory, or DATADIR): {_FETCH}{rest}"
        )
    if not full:
        return found
    sound = [path for path in tokens if not any(problem.startswith(f"{path}: ") for problem in found)]
    if report:
        report(f"reading {sum(path.stat().st_size for path in sound):,} bytes in {config.data.directory}")
    for path in (tokens[1], tokens[3]):
        found += problems_of_index(path) if path in sound else []
    return [*found, *_problems_of_contents(config, sound)]


def summary(config: Config, *, full: bool) -> str:
    """One line about files without a problem."""
    how = (
        "contents as published (MD5)" if full else "names, sizes and structure as published; --full reads all"
    )
    return f"{config.data.directory}: 4 files, {how}"


def _problems_of_names(config: Config) -> Iterator[str]:
    wanted = {"train_prefix": TRAIN_PREFIX, "valid_prefix": VALID_PREFIX}
    for key, name in wanted.items():
        if (found := getattr(config.data, key)) != name:
            yield f"data.{key}: found {found}; expected {name}, the only one the benchmark reads"


def _problems_of_sizes(config: Config, tokens: list[Path], missing: list[Path]) -> Iterator[str]:
    """Sizes and structure of the files that are there."""
    if tokens[0] not in missing and (size := tokens[0].stat().st_size) != TRAIN_BYTES:
        yield f"{tokens[0]}: found {size:,} bytes; expected {TRAIN_BYTES:,}"
    length = config.model.sequence_length
    for (binary, index), least in ((tokens[:2], 1), (tokens[2:], config.evaluation.sequences)):
        if binary in missing or index in missing:
            continue
        structure = list(
            problems_of_split(binary.with_suffix(""), sequence_length=length, least_sequences=least)
        )
        yield from structure
        if structure:
            continue
        if (kind := read_index(index).token_type) != TOKEN_TYPE:
            yield f"{index}: found tokens of type {kind}; expected {TOKEN_TYPE}"
        if binary == tokens[2] and (documents := read_index(index).documents) != VALID_DOCUMENTS:
            yield f"{index}: found {documents:,} documents; expected {VALID_DOCUMENTS:,}"


def _problems_of_contents(config: Config, sound: list[Path]) -> Iterator[str]:
    """Whether the files without another problem are the published ones, byte for byte."""
    directory, dataset = Path(config.data.directory), WHAT["train"]
    path = directory / dataset.manifest
    try:
        manifest = read_manifest(path.read_text(encoding="utf-8", errors="replace"))
        published = [*files(dataset, manifest), *files(WHAT["validation"], manifest)]
    except FileNotFoundError:
        raise EnvironmentFailure(
            f"{path}: found no manifest to compare with; {_FETCH} --what validation puts it there"
        ) from None
    except ManifestError as error:
        raise EnvironmentFailure(f"{path}: {error}; {_FETCH} --what validation replaces it") from None
    for file in published:
        target = directory / file.target
        if target in sound:
            yield from _problem_of_content(target, file.md5)


def _problem_of_content(path: Path, expected: str) -> Iterator[str]:
    meter, size, done = Meter(path.name), path.stat().st_size, 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        meter.show(done / size, f"of {size / 1e9:.2f} GB")

    found = md5(path, show)
    meter.close()
    if found != expected:
        yield f"{path}: found MD5 {found}; published is {expected} (content altered)"

"""Rules on an organisation's directory tree: systems/, results/ and benchmarks/ (C19)."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compliance import system_description
from compliance.benchmark import BENCHMARK
from compliance.rule import rule
from compliance.rule_input import LARGEST_FILE_BYTES, Finding
from compliance.system_description import Description

PARTS = ("systems", "results", "benchmarks")
CHECKSUMS = "SHA256SUMS"
_TOP_FILES = ("LICENSE", "LICENSE.md", "README.md", CHECKSUMS)
_OTHERS = (  # the other benchmarks of rounds 5.1, 6.0 and 6.1, from benchmark_meta.py
    "bert dlrm_dcnv2 gnn rgat gpt3 llama2_70b_lora llama31_405b retinanet stable_diffusion flux1 gpt_oss_20b "
    "deepseekv3_671b qwen35_397b_grpo dlrmv4"
)
BENCHMARKS = (BENCHMARK.name, *_OTHERS.split())
_LEFT_OVER = (".pyc", ".pyo", ".swp", ".swo", ".bak", ".orig", ".rej", ".tmp", ".part", "~")
_UNPORTABLE = re.compile(r'[\s\x00-\x1f\x7f<>:"|?*\\]')
_MOST = 50  # violations of one kind that are listed one by one


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file, a link, or a directory that is empty or unreadable; its path starts in the organisation's directory."""

    path: str
    kind: str  # file | link | empty (a directory) | closed (a directory that cannot be read) | special
    bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """The content of one organisation's directory.

    Args:
        descriptions: name of a system -> its description.
        results: name of a system -> its benchmarks.
        to_be_submitted: True before publication. The rules then require the code and complete descriptions.
    """

    organisation: str
    entries: tuple[Entry, ...]
    descriptions: Mapping[str, Description]
    results: Mapping[str, tuple[str, ...]]
    to_be_submitted: bool = False

    def error(self, path: str, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("error", path, found, expected, message)

    def warning(self, path: str, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("warning", path, found, expected, message)

    def _finding(self, severity: str, path: str, found: Any, expected: Any, message: str) -> Finding:
        return Finding(
            severity=severity, file=f"{self.organisation}/{path}", line=None, key=None,
            found=found, expected=expected, message=message,
        )  # fmt: skip


def read(organisation: Path, *, to_be_submitted: bool = False) -> Tree:
    """Reads a tree. Links are not followed."""
    root = organisation.resolve()
    files = sorted((root / "systems").glob("*.json"))
    described = {
        file.stem: system_description.read(file, f"{root.name}/systems/{file.name}") for file in files
    }
    results = {name: tuple(_directories(root / "results" / name)) for name in _directories(root / "results")}
    entries = tuple(sorted(_entries(root), key=lambda entry: entry.path))
    return Tree(
        organisation=root.name,
        entries=entries,
        descriptions=described,
        results=results,
        to_be_submitted=to_be_submitted,
    )


def _directories(place: Path) -> list[str]:
    try:
        return sorted(path.name for path in place.iterdir() if path.is_dir())
    except OSError:
        return []


def _entries(root: Path) -> Iterator[Entry]:
    closed: list[str] = []
    for place, directories, files in os.walk(root, onerror=lambda error: closed.append(str(error.filename))):
        here = Path(place).relative_to(root)
        if not directories and not files and place != str(root):
            yield Entry(path=here.as_posix(), kind="empty")
        for name in (*directories, *files):
            state = (root / here / name).lstat()
            path = (here / name).as_posix()
            if stat.S_ISLNK(state.st_mode):
                yield Entry(path=path, kind="link")
            elif not stat.S_ISDIR(state.st_mode):
                kind = "file" if stat.S_ISREG(state.st_mode) else "special"
                yield Entry(path=path, kind=kind, bytes=state.st_size)
    for name in closed:
        yield Entry(path=Path(name).relative_to(root).as_posix(), kind="closed")


@rule(
    "C19",
    source="submission_rules, System descriptions; mlperf-logging, system_desc_checker.py and result_summarizer.py.",
    breaks='no accelerator_model_name; status "available"; accelerators_per_node 8 instead of "8"; a placeholder.',
)
def descriptions(tree: Tree) -> Iterator[Finding]:
    """A system description has all fields, with values that the official tools can read."""
    for description in tree.descriptions.values():
        yield from system_description.faults(description)


@rule(
    "C19",
    source=(
        "submission_rules, Submission directory; mlperf-logging, package_checker.py (crashes without a "
        "description)."
    ),
    breaks="results/box without systems/box.json; systems/old.json without results; results/box/llama31-8b.",
)
def pairs(tree: Tree) -> Iterator[Finding]:
    """Each system in systems/ has results and each result has a system; every benchmark exists."""
    for name in sorted(set(tree.results) - set(tree.descriptions)):
        yield tree.error(
            f"results/{name}",
            "no description",
            f"systems/{name}.json",
            "the system is not described: add the file",
        )
    for name in sorted(set(tree.descriptions) - set(tree.results)):
        message = "the description has no results: delete it, or rename it like the directory of results"
        yield tree.error(f"systems/{name}.json", "no results", f"results/{name}/", message)
    for name, benchmarks in tree.results.items():
        if not benchmarks:
            message = "the system has no results: add them or delete the directory"
            yield tree.error(f"results/{name}", "empty", f"{BENCHMARK.name}/", message)
        for benchmark in benchmarks:
            if benchmark not in BENCHMARKS:
                message = "no benchmark has this name, so it is not scored: rename the directory"
                yield tree.error(f"results/{name}/{benchmark}", benchmark, BENCHMARK.name, message)


@rule(
    "C19",
    source="submission_rules, Submission directory; mlperf-logging, package_checker.py and repo_checker.py.",
    breaks='.DS_Store; __pycache__; a link; an empty power/; a 60 MiB file; "my notes.txt"; results/box.tar.gz.',
)
def layout(tree: Tree) -> Iterator[Finding]:
    """The tree holds no hidden files, links, empty directories or unexpected files."""
    told: Counter[str] = Counter()
    for entry in tree.entries:
        for finding in (*_kind(tree, entry), *_name(tree, entry), *_place(tree, entry)):
            told[finding.message] += 1
            if told[finding.message] <= _MOST:
                yield finding
    folded: dict[str, str] = {}
    for entry in tree.entries:
        first = folded.setdefault(entry.path.casefold(), entry.path)
        if first != entry.path:
            message = "names that differ only in case are the same file on some machines: rename one"
            yield tree.error(entry.path, f"{entry.path} and {first}", "one of them", message)


def _kind(tree: Tree, entry: Entry) -> Iterator[Finding]:
    if entry.kind == "link":
        message = "a link does not work on another machine: replace it by the file"
        yield tree.error(entry.path, "a symbolic link", "a file", message)
    elif entry.kind == "empty":
        message = "git drops empty directories: delete it"
        yield tree.error(entry.path, "an empty directory", "files", message)
    elif entry.kind in ("special", "closed"):
        found = "not a regular file" if entry.kind == "special" else "a directory that cannot be read"
        yield tree.error(
            entry.path, found, "a file", "the entry cannot be published: delete it or make it readable"
        )
    if entry.bytes > LARGEST_FILE_BYTES:
        found, message = (
            f"{entry.bytes >> 20} MiB",
            "results repositories refuse large files: delete it or make it smaller",
        )
        yield tree.error(entry.path, found, f"<= {LARGEST_FILE_BYTES >> 20} MiB", message)


def _name(tree: Tree, entry: Entry) -> Iterator[Finding]:
    parts = entry.path.split("/")
    if any(part.startswith(".") for part in parts):
        yield tree.error(
            entry.path, "a hidden file", "none", "the official repo_checker refuses hidden files: delete it"
        )
    elif "__pycache__" in parts or entry.path.endswith(_LEFT_OVER):
        yield tree.error(
            entry.path, "a temporary file of a program", "none", "it is not part of the submission: delete it"
        )
    elif _UNPORTABLE.search(entry.path):
        message = (
            "the official repo_checker refuses spaces, and some file systems other characters: rename it"
        )
        yield tree.error(
            entry.path, "a name with spaces or special characters", "letters, digits, . - _", message
        )


def _place(tree: Tree, entry: Entry) -> Iterator[Finding]:
    parts = entry.path.split("/")
    if parts[0] not in PARTS and entry.path not in _TOP_FILES:
        message = "an organisation's directory may only hold these three: move or delete it"
        yield tree.warning(entry.path, parts[0], "systems/, results/, benchmarks/", message)
    elif entry.kind == "empty":
        return
    elif parts[0] == "results" and len(parts) < 4:
        expected = "results/<system>/<benchmark>/result_<i>.txt"
        yield tree.error(
            entry.path, "a file", expected, "results/ may only hold result directories: move or delete it"
        )
    elif parts[0] == "systems" and (len(parts) != 2 or not entry.path.endswith(".json")):
        message = "systems/ may only hold system descriptions: move or delete it"
        yield tree.error(entry.path, "a file", "systems/<system>.json", message)


@rule(
    "C19",
    source="submission_rules, benchmarks/; training_rules, Source code; repo_checker.py.",
    breaks="no benchmarks/llama31_8b/implementations; an empty README.md; only a README.",
)
def implementations(tree: Tree) -> Iterator[Finding]:
    """The tree holds the code of a result with a README that says how to run it."""
    has_code = any(entry.path.startswith("benchmarks/") for entry in tree.entries)
    if not has_code and not tree.to_be_submitted:
        return  # some organisations publish results without code, which breaks no rule
    if not any(BENCHMARK.name in benchmarks for benchmarks in tree.results.values()):
        return
    place = f"benchmarks/{BENCHMARK.name}/implementations"
    files = [entry for entry in tree.entries if entry.path.startswith(f"{place}/") and entry.kind == "file"]
    found = sorted({entry.path.split("/")[3] for entry in files if entry.path.count("/") >= 4})
    if not found:
        message = "the code of the result is missing: add it (./run.sh check accepts published results without code)"
        yield tree.error(place, "absent", "a directory for every implementation", message)
    for name in found:
        mine = [entry for entry in files if entry.path.startswith(f"{place}/{name}/")]
        readme = [entry for entry in mine if entry.path == f"{place}/{name}/README.md"]
        if not readme or not readme[0].bytes:
            path, message = (
                f"{place}/{name}/README.md",
                "there is no description of the code: say how to produce the result",
            )
            yield tree.error(path, "absent or empty", "a README", message)
        if len(mine) < 2:
            message = "a README alone cannot reproduce a result: add code and configuration"
            yield tree.error(f"{place}/{name}", "no sources", "code and configuration", message)


@rule(
    "C19",
    source=(
        "submission_rules, <system_desc_id>.json metadata (meaningful response required). A warning, because "
        "published descriptions lack some."
    ),
    breaks="an empty host_networking; no system_type (warnings).",
)
def answers(tree: Tree) -> Iterator[Finding]:
    """A system description has a meaningful response in every field for which the rules require one."""
    for description in tree.descriptions.values() if tree.to_be_submitted else ():
        yield from system_description.unanswered(description)

"""The tree of one organisation: systems/, results/, benchmarks/, and nothing that should not be published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compliance.case import Violation
from compliance.repository import BENCHMARK
from compliance.submission import read_json

PARTS = ("systems", "results", "benchmarks")
_TOP_FILES = ("LICENSE", "LICENSE.md", "README.md")
STATUSES = (
    "Available on-premise",
    "Available cloud",
    "Research, Development, or Internal (RDI)",
    "Preview",
)
DIVISIONS = ("closed", "open")
_FIELDS = (
    "submitter division status system_name number_of_nodes host_processors_per_node host_processor_model_name "
    "host_processor_core_count host_processor_vcpu_count host_processor_frequency host_processor_caches "
    "host_processor_interconnect host_memory_capacity host_storage_type host_storage_capacity host_networking "
    "host_networking_topology host_memory_configuration accelerators_per_node accelerator_model_name "
    "accelerator_host_interconnect accelerator_frequency accelerator_on-chip_memories "
    "accelerator_memory_configuration accelerator_memory_capacity accelerator_interconnect "
    "accelerator_interconnect_topology cooling hw_notes framework other_software_stack operating_system sw_notes"
)
FIELDS = tuple(_FIELDS.split())  # all of them are required (system_desc_checker.py)
_JOINED = (
    "submitter system_name host_processor_model_name host_processor_core_count accelerator_model_name "
    "accelerators_per_node framework"
)
JOINED = tuple(_JOINED.split())  # what the result summarizer puts together as text
_NAMES = ("submitter", "system_name", "framework")
_LARGEST_BYTES = 50 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A file, a link or an empty directory, by its path inside the organisation's directory."""

    path: str
    kind: str  # file | link | outside (a link that leaves the tree or leads nowhere) | empty
    bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """What lies below one organisation's directory.

    Args:
        systems: description's name -> its JSON; None where it is none.
        results: name of a system -> its benchmarks.
    """

    organisation: str
    entries: tuple[Entry, ...]
    systems: Mapping[str, Any]
    results: Mapping[str, tuple[str, ...]]

    def error(self, path: str, found: Any, expected: Any, message: str, key: str | None = None) -> Violation:
        return self._violation("error", path, found, expected, message, key)

    def warning(
        self, path: str, found: Any, expected: Any, message: str, key: str | None = None
    ) -> Violation:
        return self._violation("warning", path, found, expected, message, key)

    def _violation(
        self, severity: str, path: str, found: Any, expected: Any, message: str, key: str | None
    ) -> Violation:
        return Violation(
            rule="C19", severity=severity, file=f"{self.organisation}/{path}", line=None, key=key,
            found=found, expected=expected, message=message,
        )  # fmt: skip


def read(organisation: Path) -> Tree:
    """Walk a tree; links are not followed."""
    root = organisation.resolve()
    entries = tuple(_entry(path, root) for path in sorted(root.rglob("*")) if _counts(path))
    described = {path.stem: read_json(path) for path in sorted((root / "systems").glob("*.json"))}
    systems = [path for path in sorted((root / "results").glob("*")) if path.is_dir()]
    results = {path.name: tuple(sorted(p.name for p in path.iterdir() if p.is_dir())) for path in systems}
    return Tree(organisation=root.name, entries=entries, systems=described, results=results)


def _counts(path: Path) -> bool:
    return path.is_symlink() or path.is_file() or not any(path.iterdir())


def _entry(path: Path, root: Path) -> Entry:
    name = path.relative_to(root).as_posix()
    if path.is_symlink():
        inside = path.exists() and path.resolve().is_relative_to(root)
        return Entry(path=name, kind="link" if inside else "outside")
    return (
        Entry(path=name, kind="empty")
        if path.is_dir()
        else Entry(path=name, kind="file", bytes=path.stat().st_size)
    )


def descriptions(tree: Tree) -> Iterator[Violation]:
    """C19: a system description has all fields, with values the tools can read.

    Source: submission_rules, System descriptions; mlperf-logging, system_desc_checker.py and result_summarizer.py.
    Breaks it: no accelerator_model_name; status "available"; accelerators_per_node 8 instead of "8"; a placeholder.
    """
    for name, fields in tree.systems.items():
        path = f"systems/{name}.json"
        if not isinstance(fields, dict):
            yield tree.error(path, "no JSON object", "a JSON object", "repair the file")
            continue
        for field in FIELDS:
            if field not in fields:
                yield tree.error(
                    path, "absent", "present", "every field is required, empty where it says nothing", field
                )
        yield from _values(tree, path, fields)


def _values(tree: Tree, path: str, fields: Mapping[str, Any]) -> Iterator[Violation]:
    for field in JOINED:
        if field in fields and not isinstance(fields[field], str):
            message = "the official summarizer joins these fields as text and crashes on anything else"
            yield tree.error(path, json.dumps(fields[field])[:80], "a JSON string", message, field)
    for field in _NAMES:
        if isinstance(fields.get(field), str) and not fields[field].strip():
            yield tree.error(path, "empty", "a name", "say who and what", field)
    for field, allowed in (("status", STATUSES), ("division", DIVISIONS)):
        if field in fields and fields[field] not in allowed:
            message = "exactly as written: 'Closed' silently switches official checks off"
            yield tree.error(path, fields[field], " | ".join(allowed), message, field)
    for field, value in fields.items():
        if isinstance(value, str) and (
            "PLACEHOLDER" in value.upper() or value.strip().upper() in ("TODO", "TBD", "FIXME")
        ):
            yield tree.error(path, value[:80], "a value", "a placeholder was never filled in", field)


def pairs(tree: Tree) -> Iterator[Violation]:
    """C19: systems/ and results/ belong together, one to one.

    Source: submission_rules, Submission directory; mlperf-logging, package_checker.py (crashes without a description).
    Breaks it: results/box without systems/box.json; systems/old.json without results; two files that differ in case.
    """
    for name in sorted(set(tree.results) - set(tree.systems)):
        yield tree.error(
            f"results/{name}", "no description", f"systems/{name}.json", "every system is described"
        )
    for name in sorted(set(tree.systems) - set(tree.results)):
        message = "a description without results: left over, or the directory has another name"
        yield tree.error(f"systems/{name}.json", "no results", f"results/{name}/", message)
    for name, benchmarks in tree.results.items():
        if not benchmarks:
            yield tree.error(f"results/{name}", "empty", f"{BENCHMARK}/", "a system without results")


def layout(tree: Tree) -> Iterator[Violation]:
    """C19: nothing hidden, linked, empty or foreign lies in the tree.

    Source: submission_rules, Submission directory; mlperf-logging, package_checker.py and repo_checker.py.
    Breaks it: .DS_Store; __pycache__; a link to /home; an empty power/; a 60 MiB file; results/box.tar.gz.
    """
    for entry in tree.entries:
        parts = entry.path.split("/")
        if entry.kind == "outside":
            yield tree.error(
                entry.path, "a link out of the tree", "a file", "the reader of the package cannot follow it"
            )
        elif entry.kind == "empty":
            yield tree.error(
                entry.path, "an empty directory", "files", "take it away: the official tools crash on some"
            )
        elif any(part.startswith(".") and part not in (".dockerignore", ".gitignore") for part in parts):
            yield tree.error(entry.path, "a hidden file", "none", "take it away before it is published")
        elif "__pycache__" in parts or entry.path.endswith((".pyc", ".swp", ".bak", "~")):
            yield tree.error(entry.path, "left over by a program", "none", "take it away")
        elif parts[0] not in PARTS and entry.path not in _TOP_FILES:
            message = "only these three belong into an organisation's directory"
            yield tree.warning(entry.path, parts[0], "systems/, results/, benchmarks/", message)
        elif parts[0] == "results" and len(parts) < 4:
            yield tree.error(
                entry.path, "a file", "results/<system>/<benchmark>/result_<i>.txt", "move it or take it away"
            )
        elif parts[0] == "systems" and (len(parts) != 2 or not entry.path.endswith(".json")):
            yield tree.error(entry.path, "a file", "systems/<system>.json", "move it or take it away")
        if entry.bytes > _LARGEST_BYTES:
            yield tree.error(
                entry.path, f"{entry.bytes >> 20} MiB", "<= 50 MiB", "results repositories refuse large files"
            )


def implementations(tree: Tree) -> Iterator[Violation]:
    """C19: the code behind a result is there, with a README that says how it was run.

    Source: submission_rules, benchmarks/; training_rules, Source code; repo_checker.py.
    Breaks it: no benchmarks/llama31_8b/implementations; an empty README.md; a README alone.
    """
    if not any(BENCHMARK in benchmarks for benchmarks in tree.results.values()):
        return
    place = f"benchmarks/{BENCHMARK}/implementations"
    files = [entry for entry in tree.entries if entry.path.startswith(f"{place}/") and entry.kind != "empty"]
    found = sorted({entry.path.split("/")[3] for entry in files if entry.path.count("/") >= 4})
    if not found:
        yield tree.error(
            place, "absent", "a directory for every implementation", "a result is submitted with its code"
        )
    for name in found:
        mine = [entry for entry in files if entry.path.startswith(f"{place}/{name}/")]
        readme = [entry for entry in mine if entry.path == f"{place}/{name}/README.md"]
        if not readme or not readme[0].bytes:
            yield tree.error(
                f"{place}/{name}/README.md", "absent or empty", "a README", "say how the result was made"
            )
        if len(mine) < 2:
            yield tree.error(
                f"{place}/{name}", "no sources", "code and configuration", "a README alone reproduces nothing"
            )


TreeRule = Callable[[Tree], Iterable[Violation]]
RULES: tuple[TreeRule, ...] = (descriptions, pairs, layout)  # of any package, parts of one included
WHOLE: tuple[TreeRule, ...] = (*RULES, implementations)

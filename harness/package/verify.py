"""Checks a submission tree by our rules, with the official tools and by its checksums."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from compliance import checker, leaks, repository
from compliance.benchmark import BENCHMARK
from compliance.official import compliance_checker, package_checker
from compliance.official.package_checker import Oracle
from compliance.rule import Rule
from compliance.rule_input import Violation
from compliance.rules import tree_rules
from compliance.rules.tree_rules import Tree
from harness.analysis.submission_loader import result_files
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.check import grouped_text, other_benchmarks
from harness.check.log_directory import chosen_for_package, examine, verdict_of
from harness.package import archive, previous
from harness.package.previous import Previous


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on one organisation's tree.

    Args:
        changed: differences from SHA256SUMS; None where there is no such file.
        previous: changes since an earlier round; None where no earlier tree was named.
    """

    organisation: Path
    ruleset: str
    violations: tuple[Violation, ...]
    asked: tuple[Oracle, ...]
    changed: tuple[str, ...] | None = None
    previous: Previous | None = None

    @property
    def word(self) -> str:
        """pass, needs review or fail."""
        return verdict_of(self.violations, ok=self.ok)

    @property
    def ok(self) -> bool:
        clean = all(violation.severity != "error" for violation in self.violations)
        return clean and all(oracle.verdict == "pass" for oracle in self.asked) and not self.changed


def organisations(tree: Path) -> list[Path]:
    """The tree itself, or the trees of several organisations below it.

    Raises:
        UsageError: there is no tree.
    """
    if not tree.is_dir():
        raise UsageError(f"{printable(tree)}: no such directory")
    found = [tree] if (tree / "results").is_dir() else list(repository.organisations(tree))
    if not found:
        allowed = "a tree with systems/, results/ and benchmarks/, or a directory of such trees"
        raise UsageError(f"{printable(tree)}: found no results/; allowed: {allowed}")
    return found


def verified(
    organisation: Path,
    ruleset: str | None,
    *,
    earlier: Path | None = None,
    quiet: Sequence[Rule[Tree]] = (),
) -> Verdict:
    """Judge one tree; nothing in it is changed.

    Args:
        earlier: a tree with this organisation's results of an earlier round, to compare with.
        quiet: rules of the tree that the caller reports itself.

    Raises:
        UsageError: an earlier tree without this organisation.
    """
    root = organisation.resolve()
    before = None if earlier is None else previous.organisation_of(earlier, root.name)
    loaded = checker.load(chosen_for_package(root, ruleset).name)
    with ThreadPoolExecutor(1) as beside_us:  # the official tools take longer than all of our checks
        asked = beside_us.submit(package_checker.ask, root, loaded.official)
        found = [*_logs(root, ruleset)]
        found += checker.check_tree(tree_rules.read(root, to_be_submitted=True), quiet=quiet)
        found += leaks.scan(root, machine_names=[platform.node()])
        compared = None if before is None else previous.compare(root, before)
        found += previous.questions(compared, root) if compared else []
        changed = archive.differences(root)
        tools = tuple(asked.result())
    once = {repr(violation): violation for violation in found}  # the check of the logs reads the tree too
    return Verdict(
        organisation=organisation,
        ruleset=loaded.name,
        violations=tuple(_located(violation, root.parent) for violation in once.values()),
        asked=tools,
        changed=None if changed is None else tuple(changed),
        previous=compared,
    )


def _logs(root: Path, ruleset: str | None) -> list[Violation]:
    if repository.result_directories(root):
        return [v for one in examine([str(root)], ruleset, skip_official=True) for v in one.violations]
    message = "add results of this benchmark, or correct the name of their directory"
    place = f"results/<system>/{BENCHMARK.name}"
    absent = tree_rules.read(root).error("results", "no results of the benchmark", place, message)
    return [absent.violation(tree_rules.pairs.id)]


def _located(violation: Violation, parent: Path) -> Violation:
    """The violation with a path that can be opened from the current directory."""
    path = Path(violation.file)
    return violation if path.is_absolute() else replace(violation, file=str(parent / path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolVerdict:
    """The verdict of one official tool."""

    verdict: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Document of `package verify --json`; the fields are its keys, in order.

    Args:
        checksums: differences from SHA256SUMS, or one line about it.
        official: version of mlperf-logging, then each tool with its verdict.
        not_checked: directories with results of other benchmarks.
        verdict: pass, needs review or fail; ok and the exit code say whether there is an error.
        previous: changes since the tree of --previous; None without it.
    """

    ok: bool
    tree: str
    ruleset: str
    checksums: str | Sequence[str]
    violations: Sequence[Violation]
    official: Mapping[str, str | ToolVerdict]
    not_checked: Sequence[str]
    verdict: str
    previous: Previous | None


def document(verdict: Verdict) -> Document:
    """The verdict as a document."""
    tools = {oracle.tool: ToolVerdict(verdict=oracle.verdict, note=oracle.note) for oracle in verdict.asked}
    return Document(
        ok=verdict.ok,
        tree=str(verdict.organisation),
        ruleset=verdict.ruleset,
        checksums=_checksums(verdict),
        violations=verdict.violations,
        official={"version": compliance_checker.version(), **tools},
        not_checked=other_benchmarks.not_checked([verdict.organisation]),
        verdict=verdict.word,
        previous=verdict.previous,
    )


def _checksums(verdict: Verdict) -> str | list[str]:
    return (
        f"no {tree_rules.CHECKSUMS}" if verdict.changed is None else list(verdict.changed) or "all as listed"
    )


def lines(verdict: Verdict) -> list[str]:
    """Lines of text: the ruleset, violations by kind, tools, checksums, verdict."""
    root = verdict.organisation.resolve()
    logs = [file for place in repository.result_directories(root) for file in result_files(place.path)]
    found = grouped_text.grouped(verdict.violations, root, logs)
    found += previous.lines(verdict.previous) if verdict.previous else []
    found += grouped_text.left_aside(other_benchmarks.not_checked([verdict.organisation]))
    found += [grouped_text.package(oracle) for oracle in verdict.asked]
    changed = [f"FAIL checksums: {printable(text)}" for text in verdict.changed or ()]
    found += changed or [f"ok   checksums: {_checksums(verdict)}"]
    tools = f"official tools: mlperf-logging {compliance_checker.version()}"
    name, counts = grouped_text.shown(str(verdict.organisation)), grouped_text.counted(verdict.violations)
    word = grouped_text.WORDS[verdict.word]
    return [*found, f"{word:<4} {name}: ruleset {verdict.ruleset}: {counts}; {tools}"]

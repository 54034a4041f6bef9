"""Command `check`: logs, campaigns, packages and whole repositories against a ruleset and the official checker."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compliance import checker, repository, rules_page
from compliance.official import compliance_checker, package_checker
from compliance.official.compliance_checker import Official
from compliance.official.package_checker import Oracle
from compliance.repository import ResultDirectory
from compliance.rule_input import Case, Violation
from compliance.rules import directory_rules, submission_rules, system_rules, tree_rules
from compliance.ruleset import NAMES, Ruleset, RulesetError
from compliance.submission import Submission, read_system
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.records import attempt
from harness.records.log_groups import Group, groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The verdict on one directory's logs."""

    directory: Path
    ruleset: str
    paths: tuple[Path, ...]
    cases: tuple[Case, ...]
    violations: tuple[Violation, ...]
    official: tuple[Official, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.errors and all(verdict.as_expected for verdict in self.official)

    @property
    def errors(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity == "error"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a log, a directory of result_<i>.txt, a campaign, a package"
    )
    parser.add_argument(
        "--ruleset", metavar="R", help=f"{' | '.join(NAMES)}; default: the benchmark's newest"
    )
    parser.add_argument(
        "--all", action="store_true", help="PATH is a results repository: a line per result, then the totals"
    )
    parser.add_argument(
        "--skip-official", action="store_true", help="our own check alone, without the official checker"
    )
    parser.add_argument("--rules", action="store_true", help="print the rule reference and stop")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    if args.rules:
        print(rules_page.page(), end="")
        return EXIT_OK
    if not args.paths:
        raise UsageError(
            "check: found no PATH; allowed: a log, a directory, a campaign, a package; or --rules"
        )
    known_ruleset(args.ruleset)
    if args.all:
        from harness.check import results_repository

        return results_repository.run(args)
    from harness.check import grouped_text

    with ThreadPoolExecutor(1) as beside_us:  # the package checker takes longer than all of ours
        asked = beside_us.submit(_ask, args)
        checked = examine(args.paths, args.ruleset, skip_official=True)
        packages = asked.result()
    if not args.skip_official:
        clean = {tree for tree, oracle in packages.items() if oracle.verdict == "pass"}
        checked = [with_official(one, clean) for one in checked]
    verdicts = list(packages.values())
    if args.json:
        print(json.dumps(document(checked, verdicts), indent=2))
    else:
        print("\n".join(line for one in checked for line in grouped_text.lines(one)))
        print("".join(grouped_text.package(oracle) for oracle in verdicts), end="")
    ok = all(one.ok for one in checked) and all(oracle.verdict != "fail" for oracle in verdicts)
    return EXIT_OK if ok else EXIT_FAILED


def _ask(args: argparse.Namespace) -> dict[Path, Oracle]:
    """The official package checker about every path that is a package."""
    trees = [path for path in map(Path, args.paths) if path.is_dir() and repository.result_directories(path)]
    name = checker.load(checker.choose_ruleset(repository.BENCHMARK, args.ruleset)).official
    if args.skip_official:
        return {}
    return {tree.resolve(): package_checker.ask(tree, name, ("package_checker",))[0] for tree in trees}


def with_official(checked: Checked, clean: Collection[Path] = ()) -> Checked:
    """With the official verdict on each log.

    Args:
        clean: packages whose ten of ten logs the official package checker has passed with --werror.
    """
    place = repository.holder(checked.directory)
    if place and place.organisation in clean:
        note = f"ruleset {checked.ruleset}: pass (package_checker --werror)"
        paths = map(str, checked.paths)
        verdicts = [Official(path=path, verdict="pass", as_expected=True, note=note) for path in paths]
    else:
        refused = {case.parsed.path for case in checked.cases if not case.parsed.complete}
        ruleset = checker.load(checked.ruleset)
        verdicts = compliance_checker.compliance_checker(checked.paths, ruleset, refused=refused)
    return replace(checked, official=tuple(verdicts))


def known_ruleset(requested: str | None) -> None:
    try:
        checker.choose_ruleset(None, requested)
    except RulesetError as error:
        raise UsageError(str(error)) from None


def examine(
    paths: Sequence[str], requested: str | None = None, *, skip_official: bool = False
) -> list[Checked]:
    """Check everything the paths name, directory by directory.

    Raises:
        UsageError: a path that is no log, a ruleset that does not exist.
    """
    known_ruleset(requested)
    before: dict[Path, list[tuple[Case, ...]]] = {}
    found: list[Checked] = []
    for group in groups(paths, lenient=True):
        checked = examined(group, requested, skip_official=skip_official)
        place = repository.holder(group.directory)
        if place and place.organisation not in before:
            checked = replace(checked, violations=(*checked.violations, *_of_tree(place)))
        found.append(beside(checked, before.setdefault(place.organisation, [])) if place else checked)
    return found


def _of_tree(place: ResultDirectory) -> list[Violation]:
    """What the organisation's tree breaks, said once for all its results."""
    whole = tree_rules.read(place.organisation)
    return [
        violation
        for rule in tree_rules.rules_of(whole)
        for violation in checker.with_section(rule, rule(whole))
    ]


def beside(checked: Checked, before: list[tuple[Case, ...]]) -> Checked:
    """With what this result shares with its organisation's earlier ones, which it joins."""
    found = checker.with_section(directory_rules.across, directory_rules.across([*before, checked.cases]))
    mine = {str(path) for path in checked.paths}
    before.append(checked.cases)
    shared = [violation for violation in found if violation.file in mine]
    return replace(checked, violations=(*checked.violations, *shared))


def examined(group: Group, requested: str | None, *, skip_official: bool = False) -> Checked:
    inside = group.kind == "results"  # there the directory says which benchmark it is, not the log
    benchmark = repository.BENCHMARK if inside else checker.benchmark_of(group.logs)
    ruleset = checker.load(checker.choose_ruleset(benchmark, requested))
    submission = submission_of(group, ruleset)
    violations = checker.check_submission(submission)
    if place := repository.holder(group.directory):
        violations += _in_package(submission, place)
    if group.kind == "campaign":
        violations += _in_campaign(submission)
    checked = Checked(
        directory=group.directory,
        ruleset=ruleset.name,
        paths=tuple(group.paths),
        cases=submission.cases,
        violations=tuple(violations),
    )
    return checked if skip_official else with_official(checked)


def _in_package(submission: Submission, place: ResultDirectory) -> list[Violation]:
    """What the files around a result directory say about it."""
    sources, factor = repository.sources(place.organisation), repository.scaling_factor(place.path)
    config = system_rules.config_exists(submission, sources)
    stale = submission_rules.scaling(submission, factor)
    return [
        *checker.with_section(system_rules.config_exists, config),
        *checker.with_section(submission_rules.scaling, stale),
    ]


def _in_campaign(submission: Submission) -> list[Violation]:
    """What the proofs of our own runs say about the precision they log."""
    found: list[Violation] = []
    for case in submission.cases:
        path = Path(case.parsed.path)
        attempts = attempt.directories(path.parent / path.stem.replace("result_", "run_"))
        try:
            proof = json.loads((attempts[-1] / "proof.json").read_bytes()) if attempts else None
        except (OSError, ValueError):
            continue  # a run without proof: package build asks for it
        found += checker.with_section(system_rules.precision_ran, system_rules.precision_ran(case, proof))
    return found


def submission_of(group: Group, ruleset: Ruleset) -> Submission:
    """The logs with their directory and, inside a package, their system description."""
    place = repository.holder(group.directory)
    return Submission(
        directory=str(group.directory),
        kind=group.kind,
        cases=tuple(checker.cases_of(group.logs, ruleset)),
        names=group.names,
        unreadable=group.unreadable,
        system=read_system(place.description) if place else None,
        organisation=place.organisation.name if place else None,
        now_ms=time.time_ns() // 1_000_000,
    )


def document(checked: Sequence[Checked], packages: Sequence[Oracle] = ()) -> dict[str, Any]:
    """The JSON that other people's scripts read (docs: design, Commands)."""
    names = _names([path for one in checked for path in one.paths])
    verdicts = {names[verdict.path]: verdict for one in checked for verdict in one.official}
    return {
        "ok": all(one.ok for one in checked) and all(oracle.verdict != "fail" for oracle in packages),
        "ruleset": ", ".join(dict.fromkeys(one.ruleset for one in checked)),
        "files": sum(len(one.paths) for one in checked),
        "violations": [asdict(violation) for one in checked for violation in one.violations],
        "official": {
            "version": compliance_checker.version(),
            "compliance_checker": {name: verdict.verdict for name, verdict in verdicts.items()},
            "compliance_checker_notes": {name: verdict.note for name, verdict in verdicts.items()},
            "package_checker": _worst([oracle.verdict for oracle in packages]),
            "package_checker_notes": [oracle.note for oracle in packages],
        },
    }


def _worst(verdicts: Sequence[str]) -> str:
    return next((verdict for verdict in ("fail", "not run", "pass") if verdict in verdicts), "not run")


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """What a file is called in the document: its name, where that is unique, else its path."""
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {str(path): path.name if unique else str(path) for path in paths}

"""Checks every result directory of a results repository, one after the other, for `check --all TREE`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compliance import checker, repository, scoring
from compliance.benchmark import BENCHMARK
from compliance.rule_input import Violation
from compliance.scoring import ScoreError
from harness.analysis.submission_loader import result_set_of
from harness.base.errors import UsageError
from harness.base.text import plural, printable
from harness.check import other_benchmarks
from harness.check.grouped_text import ORDER, WORDS, left_aside, reason, shown, word_of
from harness.check.log_directory import Checked, Earlier, beside, examined


@dataclass(frozen=True, kw_only=True, slots=True)
class Element:
    """A result directory in the JSON list of `check --all`; the fields are its keys, in order.

    Args:
        files: number of logs.
        time_to_train_min: olympic mean before normalisation, unverified.
        official_pass: number of logs that the official checker passes; None where it was not run.
        not_checked: directories with the organisation's results of other benchmarks.
    """

    directory: str
    organisation: str
    system: str
    ok: bool
    ruleset: str
    files: int
    time_to_train_min: float | None
    official_pass: int | None
    violations: Sequence[Violation]
    not_checked: Sequence[str]
    verdict: str


def checked(
    paths: Sequence[str], requested: str | None, *, skip_official: bool, rebuilt: bool = False
) -> Iterator[Checked]:
    """The verdict on every result directory below the paths, each as soon as it is known.

    Args:
        rebuilt: the logs are rebuilt from published key events (compliance/key_events.py).

    Raises:
        UsageError: a tree without results/<system>/llama31_8b.
    """
    before: list[Earlier] = []
    for name in paths:
        organisations = list(repository.organisations(Path(name)))
        places = {home: repository.result_directories(home) for home in organisations}
        if not any(places.values()):
            raise UsageError(
                f"{printable(name)}: found no results/<system>/{BENCHMARK.name} below it; "
                "allowed: a package, or a directory of packages"
            )
        for home in organisations:
            before = [_without_records(earlier) for earlier in before]
            for place in places[home]:
                found = examined(
                    result_set_of(place), requested, skip_official=skip_official, rebuilt=rebuilt
                )
                yield beside(found, home.resolve(), before)


def _without_records(earlier: Earlier) -> Earlier:
    """A checked run without its records, to save memory: a repository has hundreds of runs."""
    return replace(earlier, cases=tuple(checker.without_records(case) for case in earlier.cases))


def element(checked: Checked) -> Element:
    """The verdict on a result directory, for the JSON list."""
    passed = sum(verdict.verdict == "pass" for verdict in checked.official)
    return Element(
        directory=str(checked.directory),
        organisation=checked.directory.parts[-4] if len(checked.directory.parts) > 3 else "",
        system=checked.directory.parent.name,
        ok=checked.ok,
        ruleset=checked.ruleset,
        files=len(checked.paths),
        time_to_train_min=_minutes(checked),
        official_pass=passed if checked.official else None,
        violations=checked.violations,
        not_checked=other_benchmarks.not_checked([checked.directory.parents[2]]),
        verdict=checked.verdict,
    )


def line(element: Element) -> str:
    """The same as a line of text."""
    counted = Counter((word_of(violation), violation.rule) for violation in element.violations)
    told = [
        f"{severity} {rule} x {count}"
        for severity in ORDER
        for (mine, rule), count in sorted(counted.items())
        if mine == severity
    ]
    minutes, passed = element.time_to_train_min, element.official_pass
    score_text = "no score" if minutes is None else f"{minutes:.3f} min"
    verdicts = "" if passed is None else f", official {passed}"
    word = WORDS[element.verdict]
    head = f"{word:<4} {shown(element.directory)}: {plural(element.files, 'log')}{verdicts}, {score_text}"
    return f"{head}: {', '.join(told) or 'nothing found'}"


def answer(
    found: Iterable[Checked], paths: Sequence[str], *, as_json: bool
) -> Iterator[tuple[list[str], bool]]:
    """A line for every result as soon as it is checked, and whether it passes.

    Unchecked directories and totals come last.
    """
    done: list[Element] = []
    rulesets: set[str] = set()
    for checked in found:
        one = element(checked)
        head = [] if one.ruleset in rulesets else [reason(checked)]
        text = ("," if done else "[") + json.dumps(asdict(one), indent=1) if as_json else ""
        yield [text] if as_json else [*head, line(one)], one.ok
        rulesets.add(one.ruleset)
        # without violations, to save memory: a repository has hundreds of results
        done.append(replace(one, violations=()))
    last = [*left_aside(other_benchmarks.not_checked(paths)), _total(done)]
    yield ["]"] if as_json else last, True


def _total(elements: Sequence[Element]) -> str:
    """How many results there are, and how many pass."""
    verdicts = Counter(element.verdict for element in elements)
    logs = sum(element.files for element in elements)
    review = f"{verdicts['needs review']} need review, " if verdicts["needs review"] else ""
    counts = f"{verdicts['pass']} pass, {review}{verdicts['fail']} fail"
    return f"{plural(len(elements), 'result')}, {plural(logs, 'log')}: {counts}"


def _minutes(checked: Checked) -> float | None:
    """The official score before normalisation, unverified."""
    try:
        return scoring.official_score_s(scoring.scored_runs([case.log for case in checked.cases])) / 60
    except ScoreError:
        return None

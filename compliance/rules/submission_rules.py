"""Rules over a whole submission: C19, C20 and the reference convergence points."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from statistics import median

from compliance.benchmark import BENCHMARK
from compliance.reference_points import RcpError, reference, trimmed_mean
from compliance.rule import rule
from compliance.rule_input import Case, Finding, Submission, for_review

RESULT = re.compile(r"result_(0|[1-9][0-9]*)\.txt")
_LOG = re.compile(r"result_.*\.txt", re.DOTALL)  # what counts as a run
_NUMBER = re.compile(r"result_([0-9]{1,9})\.txt")
_POWER = "power"  # what it holds is a matter of the tree
_SWITCHES = ("package_checker_params",)
_TOOLS = ("scaling.json",)  # written by the official package checker
_DAY_MS = 86_400_000
_FASTEST_RUN, _FAST_RUN = 0.75, 0.9  # of the median run's time per sample; public sets: 0.94 and more
_DEVIATIONS = 4  # of the reference's runs; a single run that is further below is no chance


@rule(
    "C19",
    source="submission_rules, Training results; mlperf-logging, package_checker.py (an exact number of files).",
    breaks="nine files of a package; eleven; result_4.txt missing; result_1 .. result_10, result_01.txt (warnings).",
)
def numbering(submission: Submission) -> Iterator[Finding]:
    """Ten result files, result_0.txt to result_9.txt, nothing missing in between."""
    runs = submission.cases[0].ruleset.runs if submission.cases else BENCHMARK.runs
    if submission.kind in ("logs", "campaign") or not runs:
        return
    logs = sorted(name for name in submission.names if _LOG.fullmatch(name))
    numbers = sorted(int(match[1]) for name in logs if (match := _NUMBER.fullmatch(name)))
    count = len(logs)
    if count != runs:
        message = "a result has exactly ten runs; of more the rules take a window (./run.sh score)"
        report = submission.error if submission.kind == "results" else submission.warning
        yield report(None, f"{count} result files", f"{runs}", message)
    if odd := [name for name in logs if not RESULT.fullmatch(name)]:
        found = odd[0] if len(odd) == 1 else f"{odd[0]} and {len(odd) - 1} more like it"
        message = "it counts as a run; the rules name it by its plain number"
        yield submission.warning(odd[0], found, "result_<i>.txt", message)
    yield from _sequence(submission, numbers, count)


def _sequence(submission: Submission, numbers: Sequence[int], count: int) -> Iterator[Finding]:
    """Whether the numbers of `count` result files, some of which may have none, run on from 0 or 1."""
    if len(numbers) < 2:
        return
    first = min(numbers[0], 1)
    missing = sorted(set(range(first, min(numbers[-1], first + 10**6))) - set(numbers))
    if len(missing) > count - len(numbers):
        message = "a run is missing from the sequence: all runs are submitted, none is picked"
        name, expected = f"result_{missing[0]}.txt", f"result_{first} .. result_{first + count - 1}"
        yield submission.error(name, "absent", expected, message)
    elif first == 1:
        message = "convention: numbered from 1; the rules number from 0"
        yield submission.warning(None, "result_1.txt first", "result_0.txt", message)


@rule(
    "C19",
    source="submission_rules, Training results; mlperf-logging, package_checker.py (unknown files, bypasses).",
    breaks="result_3.txt.bak; Result_3.txt; an empty result; package_checker_params; notes.txt.",
)
def file_names(submission: Submission) -> Iterator[Finding]:
    """Nothing but power/ beside the result files, and every one of these a log."""
    if submission.kind == "logs":
        return
    for name in sorted(submission.names):
        yield from _name(submission, name)
    for file in submission.unreadable:
        name = file.path.rpartition("/")[2]
        yield submission.error(name, file.reason, "an MLLOG log", "a result file holds one run")


def _name(submission: Submission, name: str) -> Iterator[Finding]:
    if _LOG.fullmatch(name) or name == _POWER or (name in _TOOLS and submission.kind == "results"):
        return
    if name in _SWITCHES:
        message = "it asks for the seed and RCP checks to be left out: take it away"
        yield for_review(submission.error(name, name, "no such file", message))
    elif name.lower().startswith("result") and submission.kind != "campaign":
        message = "no result_*.txt, hence no run: rename it or take it away"
        yield submission.error(name, name, "result_<i>.txt", message)
    elif submission.kind == "results":
        message = "not part of a result: take it away"
        yield submission.error(name, name, "result_<i>.txt", message)
    elif submission.kind == "directory" and not name.startswith("."):
        message = "not part of a result: a package holds result files and power/ alone"
        yield submission.warning(name, name, "result_<i>.txt", message)


@rule(
    "C19",
    source="submission_rules, systems/; mlperf-logging, package_checker.py (crashes without it).",
    breaks="results/box without systems/box.json; a description that is no JSON object.",
)
def description(submission: Submission) -> Iterator[Finding]:
    """Every result of a package has its system description."""
    if submission.kind == "results" and submission.system is None:
        message = "add systems/<system>.json, named as the directory under results/"
        yield submission.error(None, "no system description", "a JSON object", message)


@rule(
    "C20",
    source="training_rules, Benchmark Results.",
    breaks="two aborted runs of ten; three that end above the target with status success.",
)
def failures(submission: Submission) -> Iterator[Finding]:
    """At most one run fails to converge; it counts as the slowest, whatever its clock says."""
    if len(submission.cases) < 2:
        return
    failed = [case for case in submission.cases if not case.converged and case.readable]
    for case in failed[1:]:
        message = "one run of a result may fail to converge"
        found = f"{len(failed)} of {len(submission.cases)} failed"
        stop = case.log.points.get("run_stop")
        yield case.error(stop or "run_stop", found, "at most 1", message)


@rule(
    "C16",
    source="the published sets: one system and one configuration give times per sample within 6 %.",
    breaks="the clock of one of ten runs halved; eight of its intervals cut out.",
)
def even_runs(submission: Submission) -> Iterator[Finding]:
    """No run is much faster per sample than the others of its submission."""
    timed = [(case, speed) for case in submission.cases if (speed := ms_per_sample(case)) is not None]
    if len(timed) < 3:
        return
    typical = median(speed for _, speed in timed)
    for case, speed in timed:
        if speed < _FAST_RUN * typical and case.ruleset.even_speed:
            report = case.error if speed < _FASTEST_RUN * typical else case.question
            message = "this run is faster per sample than the others: another system, or an edited clock"
            at = case.log.points["run_stop"]
            yield report(at, f"{speed:.3f} ms per sample", f"about {typical:.3f}, as the median run", message)


def ms_per_sample(case: Case) -> float | None:
    """None for a run too short to say anything (scripted)."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    return 1000 * seconds / samples if samples and seconds and samples > 0 and seconds > 10 else None


@rule(
    "rcp",
    source="training_rules, Reference Convergence Points; mlperf-logging, rcp_checker.py.",
    breaks="ten runs of 172,032 samples at batch size 32; one run of 98,304; a batch size above 128.",
)
def reference_points(submission: Submission) -> Iterator[Finding]:
    """The runs do not converge faster than the reference plausibly does."""
    cases = [case for case in submission.cases if not case.ruleset.is_scaled]
    sizes = {case.log.global_batch_size for case in cases}
    gbs = sizes.pop() if len(sizes) == 1 else None  # else: C18
    if gbs is None or gbs < 1:
        return
    at = cases[0].log.points["global_batch_size"]
    try:
        point = reference(gbs)
    except RcpError as error:
        yield for_review(cases[0].error(at, gbs, "1 .. 128", str(error)))
        return
    done = [(case, case.log.samples_at_stop or 0) for case in cases if case.converged]
    failed = len(cases) - len(done)
    lowest = point.mean_samples - _DEVIATIONS * point.deviation
    for case, samples in done:
        if samples < lowest:
            message = f"{_DEVIATIONS} standard deviations below the reference: not the same training"
            last = case.of("eval_accuracy")[-1]
            yield case.error(last, f"{samples} samples", f">= {lowest:.0f} at batch size {gbs}", message)
    if len(cases) < 3 or failed > 1 or len(cases) > cases[0].ruleset.runs:
        return  # C20, or a matter of the window that is scored
    if not all(case.readable for case in cases):
        return  # C17
    mean = trimmed_mean([*(samples for _, samples in done), *[math.inf] * failed])
    if mean < point.smallest_mean:
        enough = len(submission.cases) >= cases[0].ruleset.runs
        report = cases[0].error if enough else cases[0].question
        expected = f">= {point.smallest_mean:.2f} at batch size {gbs}"
        message = "mean samples without fewest and most: converges faster than the reference ever does"
        yield report(at, f"{mean:.1f} samples", expected, message)


@rule(
    "C2",
    source="mlperf-logging, time_ms.",
    breaks="a log of next year (warning: it may be the checking machine whose clock is wrong).",
)
def future(submission: Submission) -> Iterator[Finding]:
    """No run ends after today."""
    for case in submission.cases:
        stop = case.log.points.get("run_stop")
        if stop and submission.now_ms is not None and stop.time_ms > submission.now_ms + _DAY_MS:
            message = "the run has not happened yet: a wrong clock, there or here"
            yield case.warning(stop, stop.time_ms, f"<= {submission.now_ms} (now)", message)

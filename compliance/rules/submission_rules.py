"""Rules on a whole submission: C19, C20, C2, C16 and the reference convergence points (rcp)."""

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
_LOG = re.compile(r"result_.*\.txt", re.DOTALL)  # file names that count as a run
_NUMBER = re.compile(r"result_([0-9]{1,9})\.txt")
_POWER = "power"  # power_rules.py judges its content
_SWITCHES = ("package_checker_params",)
_TOOLS = ("scaling.json",)  # written by the official package checker
_DAY_MS = 86_400_000
_FASTEST_RUN, _FAST_RUN = (
    0.75,
    0.9,
)  # share of the median run's time per sample; public results: at least 0.94
_DEVIATIONS = 4  # standard deviations below the reference's mean that a single run cannot reach by chance


@rule(
    "C19",
    source="submission_rules, Training results; mlperf-logging, package_checker.py (an exact number of files).",
    breaks="nine or eleven result files; no result_4.txt; result_1 .. result_10 (warning); result_01.txt (warning).",
)
def numbering(submission: Submission) -> Iterator[Finding]:
    """A result has ten files, result_0.txt to result_9.txt, and none is missing."""
    runs = submission.cases[0].ruleset.runs if submission.cases else BENCHMARK.runs
    if submission.kind in ("logs", "campaign") or not runs:
        return
    logs = sorted(name for name in submission.names if _LOG.fullmatch(name))
    numbers = sorted(int(match[1]) for name in logs if (match := _NUMBER.fullmatch(name)))
    count = len(logs)
    if count != runs:
        message = (
            "a result must have exactly ten runs: ./run.sh score shows the ten to submit if there are more"
        )
        report = submission.error if submission.kind == "results" else submission.warning
        yield report(None, f"{count} result files", f"{runs}", message)
    if odd := [name for name in logs if not RESULT.fullmatch(name)]:
        found = odd[0] if len(odd) == 1 else f"{odd[0]} and {len(odd) - 1} more like it"
        message = "the file counts as a run, but its number has another form: rename it"
        yield submission.warning(odd[0], found, "result_<i>.txt", message)
    yield from _sequence(submission, numbers, count)


def _sequence(submission: Submission, numbers: Sequence[int], count: int) -> Iterator[Finding]:
    """Yields gaps in the numbers of `count` result files. The numbers start at 0 or 1; some files may have none."""
    if len(numbers) < 2:
        return
    first = min(numbers[0], 1)
    missing = sorted(set(range(first, min(numbers[-1], first + 10**6))) - set(numbers))
    if len(missing) > count - len(numbers):
        message = "a run is missing from the sequence: submit all runs, because selecting runs is prohibited"
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
    """The directory holds only result files and power/, and every result file is a log."""
    if submission.kind == "logs":
        return
    for name in sorted(submission.names):
        yield from _name(submission, name)
    for file in submission.unreadable:
        name = file.path.rpartition("/")[2]
        yield submission.error(
            name, file.reason, "an MLLOG log", "the file is not a log: a result file must hold one run"
        )


def _name(submission: Submission, name: str) -> Iterator[Finding]:
    if _LOG.fullmatch(name) or name == _POWER or (name in _TOOLS and submission.kind == "results"):
        return
    if name in _SWITCHES:
        message = "the file makes the official tools skip the seed and RCP checks: delete it"
        yield for_review(submission.error(name, name, "no such file", message))
    elif name.lower().startswith("result") and submission.kind != "campaign":
        message = (
            "the file does not count as a run, because its name is not result_*.txt: rename or delete it"
        )
        yield submission.error(name, name, "result_<i>.txt", message)
    elif submission.kind == "results":
        message = "the file is not part of a result: delete it"
        yield submission.error(name, name, "result_<i>.txt", message)
    elif submission.kind == "directory" and not name.startswith("."):
        message = "the file is not part of a result: a package may only hold result files and power/"
        yield submission.warning(name, name, "result_<i>.txt", message)


@rule(
    "C19",
    source="submission_rules, systems/; mlperf-logging, package_checker.py (crashes without it).",
    breaks="results/box without systems/box.json; a description that is not a JSON object.",
)
def description(submission: Submission) -> Iterator[Finding]:
    """Every result of a package has a system description."""
    if submission.kind == "results" and submission.system is None:
        message = "the system is not described: add systems/<system>.json with the name of the directory under results/"
        yield submission.error(None, "no system description", "a JSON object", message)


@rule(
    "C20",
    source="training_rules, Benchmark Results.",
    breaks="two aborted runs of ten; three runs that end above the target with status success.",
)
def failures(submission: Submission) -> Iterator[Finding]:
    """At most one run fails to converge. It counts as the slowest, whatever its time."""
    if len(submission.cases) < 2:
        return
    failed = [case for case in submission.cases if not case.converged and case.readable]
    for case in failed[1:]:
        message = "too many runs did not converge: only one run of a result may fail"
        found = f"{len(failed)} of {len(submission.cases)} failed"
        stop = case.log.points.get("run_stop")
        yield case.error(stop or "run_stop", found, "at most 1", message)


@rule(
    "C16",
    source="the published results: one system with one configuration has times per sample within 6 %.",
    breaks="all times of one of ten runs halved; eight intervals of a run cut out.",
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
            message = "the run is faster per sample than the others: another system ran it, or its times were edited"
            at = case.log.points["run_stop"]
            yield report(at, f"{speed:.3f} ms per sample", f"about {typical:.3f}, as the median run", message)


def ms_per_sample(case: Case) -> float | None:
    """Returns milliseconds per sample; None for a scripted run, which is too short to judge."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    return 1000 * seconds / samples if samples and seconds and samples > 0 and seconds > 10 else None


@rule(
    "rcp",
    source="training_rules, Reference Convergence Points; mlperf-logging, rcp_checker.py.",
    breaks="ten runs of 172,032 samples at batch size 32; one run of 98,304 samples; batch size 256.",
)
def reference_points(submission: Submission) -> Iterator[Finding]:
    """The runs do not converge faster than the reference can."""
    cases = [case for case in submission.cases if not case.ruleset.is_scaled]
    sizes = {case.log.global_batch_size for case in cases}
    gbs = sizes.pop() if len(sizes) == 1 else None  # C18 reports several sizes
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
            message = f"{_DEVIATIONS} standard deviations below the reference: this is not the same training"
            last = case.of("eval_accuracy")[-1]
            yield case.error(last, f"{samples} samples", f">= {lowest:.0f} at batch size {gbs}", message)
    if len(cases) < 3 or failed > 1 or len(cases) > cases[0].ruleset.runs:
        return  # C20 reports more than one failed run; of more than ten runs, the scoring window decides which count
    if not all(case.readable for case in cases):
        return  # C17 reports it
    mean = trimmed_mean([*(samples for _, samples in done), *[math.inf] * failed])
    if mean < point.smallest_mean:
        enough = len(submission.cases) >= cases[0].ruleset.runs
        report = cases[0].error if enough else cases[0].question
        expected = f">= {point.smallest_mean:.2f} at batch size {gbs}"
        message = (
            "the runs converge faster than the reference can (mean without the fewest and the most samples): "
            "train as the reference does"
        )
        yield report(at, f"{mean:.1f} samples", expected, message)


@rule(
    "C2",
    source="mlperf-logging, time_ms.",
    breaks="a log of next year (a warning, because the clock of the checking machine may be wrong).",
)
def future(submission: Submission) -> Iterator[Finding]:
    """No run ends in the future."""
    for case in submission.cases:
        stop = case.log.points.get("run_stop")
        if stop and submission.now_ms is not None and stop.time_ms > submission.now_ms + _DAY_MS:
            message = "the run lies in the future: the clock of its machine or of this machine is wrong"
            yield case.warning(stop, stop.time_ms, f"<= {submission.now_ms} (now)", message)

"""Rules over a whole submission: C19, C20 and the reference convergence points."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator

from compliance import reference_points as compliance_reference_points
from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.reference_points import RcpError
from compliance.rule_input import Case, Submission, Violation
from compliance.rules.plausibility_rules import even_runs

RESULT = re.compile(r"result_(0|[1-9][0-9]*)\.txt")
_SWITCHES = ("package_checker_params",)
_TOOLS = ("scaling.json",)  # written by the official package checker
_DAY_MS = 86_400_000
_DEVIATIONS = 4  # of the reference's runs; a single run that is further below is no chance


def numbering(submission: Submission) -> Iterator[Violation]:
    """C19: ten result files, result_0.txt to result_9.txt, nothing missing in between.

    Source: submission_rules, Training results; mlperf-logging, package_checker.py (an exact number of files).
    Breaks it: nine files of a package; eleven; result_4.txt missing; result_1 .. result_10 (warning).
    """
    runs = submission.cases[0].ruleset.runs if submission.cases else BENCHMARK.runs
    if submission.kind in ("logs", "campaign") or not runs:
        return
    numbers = sorted(int(match[1]) for name in submission.names if (match := RESULT.fullmatch(name)))
    count = len(numbers)
    if count != runs:
        message = "a result has exactly ten runs; of more the rules take a window (./run.sh score)"
        report = submission.error if submission.kind == "results" else submission.warning
        yield report("C19", None, f"{count} result files", f"{runs}", message)
    if count < 2:
        return
    first = min(numbers[0], 1)
    if missing := sorted(set(range(first, numbers[-1])) - set(numbers))[:1]:
        message = "a run is missing from the sequence: all runs are submitted, none is picked"
        name, expected = f"result_{missing[0]}.txt", f"result_{first} .. result_{first + count - 1}"
        yield submission.error("C19", name, "absent", expected, message)
    elif first == 1:
        message = "convention: numbered from 1; the rules number from 0"
        yield submission.warning("C19", "result_1.txt", "first result", "result_0.txt", message)


def file_names(submission: Submission) -> Iterator[Violation]:
    """C19: nothing but result files beside the result files, and every one of them a log.

    Source: submission_rules, Training results; mlperf-logging, package_checker.py (unknown files, bypasses).
    Breaks it: result_3.txt.bak; result_03.txt; an empty result; package_checker_params; a directory power/.
    """
    if submission.kind == "logs":
        return
    for name in sorted(submission.names):
        yield from _name(submission, name)
    for file in submission.unreadable:
        name = file.path.rpartition("/")[2]
        yield submission.error("C19", name, file.reason, "an MLLOG log", "a result file holds one run")


def _name(submission: Submission, name: str) -> Iterator[Violation]:
    if RESULT.fullmatch(name) or (name in _TOOLS and submission.kind == "results"):
        return
    if name in _SWITCHES:
        message = "it switches the official seed and RCP checks off: take it away"
        yield submission.error("C19", name, name, "no such file", message)
    elif name.lower().startswith("result") and submission.kind != "campaign":
        message = "not seen by the official tools, or seen twice: rename it or take it away"
        yield submission.error("C19", name, name, "result_<i>.txt", message)
    elif submission.kind == "results":
        message = "the official package checker expects result files alone"
        yield submission.error("C19", name, name, "result_<i>.txt", message)
    elif submission.kind == "directory" and not name.startswith("."):
        message = "not part of a result: a package holds result files alone"
        yield submission.warning("C19", name, name, "result_<i>.txt", message)


def description(submission: Submission) -> Iterator[Violation]:
    """C19: every result of a package has its system description.

    Source: submission_rules, systems/; mlperf-logging, package_checker.py (crashes without it).
    Breaks it: results/box without systems/box.json; a description that is no JSON object.
    """
    if submission.kind == "results" and submission.system is None:
        message = "add systems/<system>.json, named as the directory under results/"
        yield submission.error("C19", None, "no system description", "a JSON object", message)


def scaling(submission: Submission, factor: object) -> Iterator[Violation]:
    """C19: scaling.json is what the official tools would write for these logs.

    Source: mlperf-logging, rcp_checker.py (set_scaling); training_rules, Benchmark Results (scaling.json).
    Breaks it: the factor of earlier logs; a factor where the runs are slower than the reference.
    """
    gbs = submission.cases[0].log.global_batch_size if submission.cases else None
    done = [case.log.samples_at_stop or 0 for case in submission.cases if _converged(case)]
    if factor is None or gbs is None or len(done) < 3 or len(submission.cases) - len(done) > 1:
        return
    mean = compliance_reference_points.trimmed_mean(
        [*done, *[math.inf] * (len(submission.cases) - len(done))]
    )
    try:
        expected = compliance_reference_points.normalisation(gbs, mean)
    except RcpError:
        return  # rcp
    known = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not known or not math.isclose(float(factor), expected, rel_tol=1e-6):  # type: ignore[arg-type]
        message = "stale, or written by hand: take it away, the official package checker writes it anew"
        yield submission.error("C19", "scaling.json", factor, f"{expected:.9f}", message)


def failures(submission: Submission) -> Iterator[Violation]:
    """C20: at most one run fails to converge; it counts as the slowest, whatever its clock says.

    Source: training_rules, Benchmark Results.
    Breaks it: two aborted runs of ten; three that end above the target with status success.
    """
    if len(submission.cases) < 2:
        return
    failed = [case for case in submission.cases if not _converged(case)]
    for case in failed[1:]:
        message = "one run of a result may fail to converge"
        found = f"{len(failed)} of {len(submission.cases)} failed"
        stop = case.log.points.get("run_stop")
        yield case.error("C20", stop or "run_stop", found, "at most 1", message)


def _converged(case: Case) -> bool:
    return scoring.converged(case.log, case.ruleset.target_log_perplexity)


def reference_points(submission: Submission) -> Iterator[Violation]:
    """rcp: the runs do not converge faster than the reference plausibly does.

    Source: training_rules, Reference Convergence Points; mlperf-logging, rcp_checker.py.
    Breaks it: ten runs of 172,032 samples at batch size 32; one run of 98,304; a batch size above 128.
    """
    cases = [case for case in submission.cases if not case.ruleset.is_scaled]
    sizes = {case.log.global_batch_size for case in cases}
    gbs = sizes.pop() if len(sizes) == 1 else None  # else: C18
    if gbs is None or gbs < 1:
        return
    at = cases[0].log.points["global_batch_size"]
    try:
        reference = compliance_reference_points.reference(gbs)
    except RcpError as error:
        message = "the official RCP check fails without a reference convergence point"
        yield cases[0].error("rcp", at, gbs, "1 .. 128", f"{error}; {message}")
        return
    done = [(case, case.log.samples_at_stop or 0) for case in cases if _converged(case)]
    failed = len(cases) - len(done)
    lowest = reference.mean_samples - _DEVIATIONS * reference.deviation
    for case, samples in done:
        if samples < lowest:
            message = f"{_DEVIATIONS} standard deviations below the reference: not the same training"
            last = case.of("eval_accuracy")[-1]
            yield case.error(
                "rcp", last, f"{samples} samples", f">= {lowest:.0f} at batch size {gbs}", message
            )
    if len(cases) < 3 or failed > 1 or len(cases) > cases[0].ruleset.runs:
        return  # C20, or a matter of the window that is scored
    mean = compliance_reference_points.trimmed_mean([*(samples for _, samples in done), *[math.inf] * failed])
    if mean < reference.smallest_mean:
        enough = len(submission.cases) >= cases[0].ruleset.runs
        report = cases[0].error if enough else cases[0].warning
        expected = f">= {reference.smallest_mean:.2f} at batch size {gbs}"
        message = "mean samples without fewest and most: converges faster than the reference ever does"
        yield report("rcp", at, f"{mean:.1f} samples", expected, message)


def future(submission: Submission) -> Iterator[Violation]:
    """C2: no run ends after today.

    Source: mlperf-logging, time_ms.
    Breaks it: a log of next year (warning: it may be the checking machine whose clock is wrong).
    """
    for case in submission.cases:
        stop = case.log.points.get("run_stop")
        if stop and submission.now_ms is not None and stop.time_ms > submission.now_ms + _DAY_MS:
            message = "the run has not happened yet: a wrong clock, there or here"
            yield case.warning("C2", stop, stop.time_ms, f"<= {submission.now_ms} (now)", message)


SubmissionRule = Callable[[Submission], Iterable[Violation]]
RULES: tuple[SubmissionRule, ...] = (
    numbering,
    file_names,
    description,
    failures,
    even_runs,
    reference_points,
)

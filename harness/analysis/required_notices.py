"""Finds the differences and notices that the messaging rules require beside a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from compliance.benchmark import BENCHMARK
from harness.analysis import footnotes, run_figures
from harness.analysis.index_selection import accelerator_of
from harness.analysis.submission_loader import Submission, copies
from harness.base.text import printable

_POINTS = (
    ("division", "submission_division"),
    ("category (status of the system)", "submission_status"),
)
_RECIPE = (
    ("base learning rate", "opt_base_learning_rate"),
    ("warmup steps", "opt_learning_rate_warmup_steps"),
    ("AdamW epsilon", "opt_adamw_epsilon"),
    ("weight decay", "opt_adamw_weight_decay"),
    ("gradient accumulation steps", "gradient_accumulation_steps"),
    ("tensor parallelism", "tensor_parallelism"),
    ("pipeline parallelism", "pipeline_parallelism"),
    ("context parallelism", "context_parallelism"),
)
Fact = str | int | float | None

PRECISION = "precision of the linear layers"


def differences(a: Submission, b: Submission) -> list[str]:
    """List the differences between two submissions, one line each."""
    return [f"{what}: {a.name} {_known(x)}, {b.name} {_known(y)}" for what, x, y in _rows(a, b) if x != y]


def configuration(submissions: Sequence[Submission]) -> list[tuple[str, list[str], bool]]:
    """Return every property: its name, a cell per submission, and whether the cells differ."""
    columns = [_facts(one) for one in submissions]
    return [
        (
            what,
            [_known(column[what]) for column in columns],
            len({str(column[what]) for column in columns}) > 1,
        )
        for what in columns[0]
    ]


def confounders(a: Submission, b: Submission) -> list[str]:
    """List differences other than precision that could explain a difference in speed or convergence."""
    names = {
        "round",
        "accelerator",
        "accelerators",
        "global batch size",
        "framework",
        "evaluation interval, samples",
    }
    names |= {what for what, _ in _RECIPE}
    return [what for what, x, y in _rows(a, b) if x != y and what in names]


def _rows(a: Submission, b: Submission) -> list[tuple[str, Fact, Fact]]:
    theirs = _facts(b)
    return [(what, value, theirs[what]) for what, value in _facts(a).items()]


def _facts(one: Submission) -> dict[str, Fact]:
    return {
        "round": one.round,
        **{what: one.scalar(key) for what, key in _POINTS},
        "verification": _verification(one),
        "organisation": one.org,
        "system": one.system,
        "accelerator": accelerator_of(one.accelerator, one.system) or one.accelerator,
        "accelerators": one.accelerators,
        PRECISION: one.precision,
        "global batch size": one.global_batch_size,
        **{what: one.scalar(key) for what, key in _RECIPE},
        "evaluation interval, samples": _interval(one),
        "framework": one.framework,
        "number of runs": len(one.runs),
    }


def _verification(submission: Submission) -> str:
    if submission.round is None:
        return "never reviewed"
    if submission.reconstructed:
        return f"key events of {submission.round} read in a mirror, figures recomputed here"
    return f"logs published in {submission.round}, figures recomputed here"


def _interval(submission: Submission) -> int | None:
    """Return the samples between the last two evaluations, because the first interval may have another length."""
    samples = [one.samples for one in submission.runs[0].evaluations]
    return samples[-1] - samples[-2] if len(samples) > 1 else None


def _known(value: Fact) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 2.0 in the logs of one submission, 2 in those of another
    return "not stated" if value in (None, "") else printable(value)


def notices(submissions: Sequence[Submission]) -> list[str]:
    """Return the notices that must accompany every figure of this comparison."""
    lines = ["Unverified: recomputed from logs. Result not verified by MLCommons Association."]
    if any(submission.is_proxy for submission in submissions):
        lines.append("Proxy: a toy-scale rehearsal of the benchmark; FP8 and MXFP4 are emulated, times say nothing "
                     "about hardware.")  # fmt: skip
    for submission in submissions:
        lines += _run_notices(submission)
    lines.append("Samples to target are derived: linear between the two evaluations that bracket the target.")
    if len(submissions) > 1:
        lines.append(
            "95 % intervals: bootstrap over runs with Student's t on the logarithm of the ratio; they hold for these "
            "machines. What holds in general adds the spread between nominally equal public systems."
        )
    return [*lines, *footnotes.lines(footnotes.of(one) for one in submissions)]


def _run_notices(submission: Submission) -> list[str]:
    runs, good, lines = len(submission.runs), len(run_figures.converged(submission)), []
    if submission.left_out:
        left = ", ".join(map(printable, submission.left_out))
        lines.append(
            f"{submission.name}: of {runs + len(submission.left_out)} runs the {runs} consecutive ones with the median "
            f"score; not scored: {left}."
        )
    if reasons := [reason for run in submission.runs for reason in run.unreadable]:
        lines.append(f"{submission.name}: {len(reasons)} unreadable records, the first: {reasons[0]}.")
    lines += [
        f"{submission.name}: {' and '.join(map(printable, names))} are copies of one log."
        for names in copies(submission.runs)
    ]
    if runs < BENCHMARK.runs:
        mean = "olympic mean" if good > 2 else "plain mean"
        needs = f"a score by the rules needs {BENCHMARK.runs}"
        lines.append(f"{submission.name}: {mean} of {good} run{'s' * (good != 1)}; {needs}.")
    missed = sum(run_figures.missed(run) for run in submission.runs)
    if missed == 1 and runs > 1:
        lines.append(
            f"{submission.name}: 1 of {runs} runs did not reach the target; it counts as the slowest."
        )
    elif missed:
        lines.append(
            f"{submission.name}: {missed} of {runs} runs did not reach the target; "
            "a result may have one such run: not a valid score."
        )
    if submission.reconstructed:
        known = (
            "of most runs only the first and the last two evaluations are known, and no evaluation time"
            if submission.partial
            else "evaluation time and step time are estimates"
        )
        lines.append(
            f"{submission.name}: rebuilt from published key events, read in a third party's mirror of the results "
            f"repository; {known}."
        )
    return lines

"""Rules that compare a submission with the other files in its directory: C19."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compliance.reference_points import RcpError, normalisation, trimmed_mean
from compliance.rule import rule
from compliance.rule_input import Finding, PackagedSubmission
from compliance.runlog import number


@rule(
    "C19",
    source="mlperf-logging, rcp_checker.py (set_scaling); training_rules, Benchmark Results (scaling.json).",
    breaks="the factor of earlier logs; a factor although the runs need more samples than the reference.",
)
def scaling(packaged: PackagedSubmission) -> Iterator[Finding]:
    """scaling.json holds the factor that the official tools compute from these logs."""
    submission, factor = packaged.submission, packaged.scaling_factor
    gbs = submission.cases[0].log.global_batch_size if submission.cases else None
    done = [case.log.samples_at_stop or 0 for case in submission.cases if case.converged]
    if factor is None or gbs is None or len(done) < 3 or len(submission.cases) - len(done) > 1:
        return
    mean = trimmed_mean([*done, *[math.inf] * (len(submission.cases) - len(done))])
    try:
        expected = normalisation(gbs, mean)
    except RcpError:
        return  # the rule rcp reports it
    told = number(factor)
    near = told is not None and 0 < told < 2 * expected  # False for an integer that exceeds any float
    if told is None or not near or not math.isclose(told, expected, rel_tol=1e-6):
        message = "the factor does not belong to these logs: delete the file, the package checker writes it"
        yield submission.error("scaling.json", factor, f"{expected:.9f}", message)

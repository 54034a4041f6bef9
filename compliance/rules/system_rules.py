"""Rules that compare the logs with the system description or with a run's proof: C10, C11, C12 and C16."""

from __future__ import annotations

import math
from collections.abc import Iterator

from compliance.rule import rule
from compliance.rule_input import Finding, ProvenRun, Submission, fastest_peak
from compliance.runlog import text
from compliance.throughput import tflops_per_accelerator

_NARROWEST_FIRST = ("mxfp4", "nvfp4", "mxfp6", "mxfp8", "fp8", "bf16")
_DISCLOSED = {"bf16": ("bfloat16", "fp32")}  # a GEMM that is not quantised runs in the parameters' format
_NOT_NATIVE = {"emulated", "reference"}
_PLACEHOLDER = "PLACEHOLDER"
_CERTAIN = 3  # multiple of the fastest known peak; used if only the log gives the number of accelerators
_NATIVE = ("fp8", "mxfp6", "mxfp4", "nvfp4", "bfloat16", "fp16", "tf32")


@rule(
    "C10",
    source="training_rules, definition of the global batch size; the system description's accelerators.",
    breaks="8 accelerators with TP 3; batch size 32 with micro batch 2, accumulation 4 and 8 accelerators without TP.",
)
def data_parallel(submission: Submission) -> Iterator[Finding]:
    """Global batch size = micro batch x accumulation x (accelerators / (TP x PP x CP))."""
    accelerators = submission.system.accelerators if submission.system else None
    for case in submission.cases[:1] if accelerators else ():
        ways = case.integers("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
        batch = case.integers("micro_batch_size", "gradient_accumulation_steps", "global_batch_size")
        if accelerators is None or not ways or not batch:
            continue
        parallel, at = math.prod(ways), case.log.points["global_batch_size"]
        if accelerators % parallel:
            message = "tensor x pipeline x context parallelism must divide the number of accelerators"
            yield case.error(at, f"{parallel} of {accelerators}", f"a divisor of {accelerators}", message)
        elif batch[2] != batch[0] * batch[1] * (accelerators // parallel):
            message = (
                f"it must be micro batch x accumulation x {accelerators // parallel} (data parallel size)"
            )
            expected = batch[0] * batch[1] * (accelerators // parallel)
            yield case.error(at, batch[2], expected, message)


@rule(
    "C11",
    source="training_rules, numerical formats; data sheets (compliance/rulesets/accelerators.yaml).",
    breaks="mxfp4 on H200; bfloat16 in the log of a run with 3,000 TFLOP/s per B200.",
)
def precision_exists(submission: Submission) -> Iterator[Finding]:
    """The accelerator has the logged precision, and the run is not faster than that precision allows."""
    system = submission.system
    for case in submission.cases if system and system.peaks else ():
        point = case.log.points.get("lowest_numerical_precision_in_linear")
        precision = text(point.value) if point else None
        if system is None or point is None or precision not in _NATIVE:
            continue
        peak, rate = system.peaks.get(precision), tflops_per_accelerator(case, system)
        if peak is None:
            message = "the accelerator does not have this format: the run was emulated or the log is wrong"
            yield case.error(point, precision, ", ".join(system.peaks), f"{system.model}: {message}")
        elif rate is not None and peak < rate <= max(system.peaks.values()):
            message = (
                f"{system.model} is not that fast: a lower precision or more accelerators ran than stated"
            )
            expected = f"<= {peak} TFLOP/s per accelerator in {precision}"
            yield case.error(point, f"{rate:.0f} TFLOP/s", expected, message)


@rule(
    "C11",
    source="mlperf-logging, common.yaml (lowest_numerical_precision_in_linear, v6.1); proof.json of our own runs.",
    breaks="mxfp4 in a log although every GEMM ran in bf16; emulated GEMMs in a run of the closed division (warning).",
)
def precision_ran(run: ProvenRun) -> Iterator[Finding]:
    """The logged precision is the narrowest format that proof.json of the run counts."""
    case, proof = run.case, run.proof
    rows = proof.get("gemms") if isinstance(proof, dict) else None
    point = case.log.points.get("lowest_numerical_precision_in_linear")
    if not isinstance(rows, list) or point is None:
        return
    formats = {str(row.get("format")) for row in rows if isinstance(row, dict)}
    ran = next((name for name in _NARROWEST_FIRST if name in formats), None)
    if ran is not None and point.value not in (allowed := _DISCLOSED.get(ran, (ran,))):
        message = "proof.json counts other formats: log the narrowest one that ran"
        yield case.error(point, point.value, " or ".join(allowed), message)
    backends = {str(row.get("backend")) for row in rows if isinstance(row, dict)}
    if not case.ruleset.is_scaled and backends & _NOT_NATIVE:
        message = (
            "emulated GEMMs ran, which the closed division does not allow: package build refuses the run"
        )
        yield case.warning(point, ", ".join(sorted(backends)), "native", message)


@rule(
    "C16",
    source="421.59 TFLOP per sequence; data sheets; the published logs reach 376 .. 2,355 TFLOP/s.",
    breaks="all times divided by ten; 8 accelerators stated although 72 ran; 184,320 samples in a minute.",
)
def throughput(submission: Submission) -> Iterator[Finding]:
    """The throughput is physically possible on the named accelerators."""
    system, fastest = submission.system, fastest_peak()
    for case in submission.cases:
        rate, peak, name = tflops_per_accelerator(case, system), 0.0, "an accelerator"
        if system is not None and system.peaks:
            peak, name = max(system.peaks.values()), system.model
        elif rate is None or case.ruleset.is_scaled:
            continue
        if rate is not None and rate > (peak or fastest):
            certain = peak or rate > _CERTAIN * fastest
            report = case.error if certain else case.warning
            message = (
                "faster than the accelerators can be: times were edited, or more accelerators ran than stated"
            )
            expected = f"<= {peak or fastest} TFLOP/s of {name}"
            at = case.log.points["run_stop"]
            yield report(at, f"{rate:.0f} TFLOP/s per accelerator", expected, message)


@rule(
    "C12",
    source="submission_rules, Training results. A warning, because 210 of 390 published logs break it.",
    breaks="submission_org AMD in Cisco's directory; SUBMISSION_ORG_PLACEHOLDER.",
)
def identity(submission: Submission) -> Iterator[Finding]:
    """The logs name the organisation that submits them and its platform."""
    owners = [submission.organisation, submission.system.submitter if submission.system else None]
    known = {owner for owner in owners if owner}
    for case in submission.cases[:1]:
        for key in ("submission_org", "submission_platform"):
            point = case.log.points.get(key)
            value = text(point.value) if point else None
            if point is None or value is None:
                continue
            if _PLACEHOLDER in value.upper():
                message = "a placeholder of the launch script was not filled in: set the name"
                yield case.warning(point, value, "a name", message)
            elif key == "submission_org" and known and value not in known:
                message = (
                    "the directory or the system description names another organisation: make them agree"
                )
                yield case.warning(point, value, " or ".join(sorted(known)), message)
    if len(known) > 1:
        message = "the submitter in the system description differs from the organisation's directory: make them agree"
        yield submission.warning(None, " / ".join(sorted(known)), "one name", message)

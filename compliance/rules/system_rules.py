"""Rules that hold the logs against the system description: C10, C11 and C12."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from compliance.rule_input import Case, Submission, Violation
from compliance.rules.plausibility_rules import tflops_per_accelerator, throughput
from compliance.rules.submission_rules import SubmissionRule
from compliance.runlog import text

_NARROWEST_FIRST = ("mxfp4", "nvfp4", "mxfp6", "mxfp8", "fp8", "bf16")
_DISCLOSED = {"bf16": ("bfloat16", "fp32")}  # not quantised: the parameters' own width
_NOT_NATIVE = {"emulated", "reference"}
_PLACEHOLDER = "PLACEHOLDER"
_NATIVE = ("fp8", "mxfp6", "mxfp4", "nvfp4", "bfloat16", "fp16", "tf32")


def data_parallel(submission: Submission) -> Iterator[Violation]:
    """C10: global batch size = micro batch x accumulation x (accelerators / (TP x PP x CP)).

    Source: training_rules, definition of the global batch size; the system description's accelerators.
    Breaks it: 8 accelerators, TP 3; batch size 32 = 2 x 4 on 8 accelerators without model parallelism.
    """
    accelerators = submission.system.accelerators if submission.system else None
    for case in submission.cases[:1] if accelerators else ():
        ways = case.integers("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
        batch = case.integers("micro_batch_size", "gradient_accumulation_steps", "global_batch_size")
        if accelerators is None or not ways or not batch:
            continue
        parallel, at = math.prod(ways), case.log.points["global_batch_size"]
        if accelerators % parallel:
            message = "tensor x pipeline x context parallelism divides the accelerators"
            yield case.error(
                "C10", at, f"{parallel} of {accelerators}", f"a divisor of {accelerators}", message
            )
        elif batch[2] != batch[0] * batch[1] * (accelerators // parallel):
            message = f"micro batch x accumulation x {accelerators // parallel} data parallel"
            expected = batch[0] * batch[1] * (accelerators // parallel)
            yield case.error("C10", at, batch[2], expected, message)


def precision_exists(submission: Submission) -> Iterator[Violation]:
    """C11: the accelerator has the logged precision, and the run is not faster than that precision allows.

    Source: training_rules, numerical formats; data sheets (compliance/rulesets/accelerators.yaml).
    Breaks it: mxfp4 on H200; bfloat16 logged for a run at 3,000 TFLOP/s per B200.
    """
    system = submission.system
    for case in submission.cases if system and system.peaks else ():
        point = case.log.points.get("lowest_numerical_precision_in_linear")
        precision = text(point.value) if point else None
        if system is None or point is None or precision not in _NATIVE:
            continue
        peak, rate = system.peaks.get(precision), tflops_per_accelerator(case, system)
        if peak is None:
            message = "the accelerator has no such format: the run was emulated or the log is wrong"
            yield case.error("C11", point, precision, ", ".join(system.peaks), f"{system.model}: {message}")
        elif rate is not None and peak < rate <= max(system.peaks.values()):
            message = f"a lower precision ran than was logged, or fewer accelerators: {system.model}"
            expected = f"<= {peak} TFLOP/s per accelerator in {precision}"
            yield case.error("C11", point, f"{rate:.0f} TFLOP/s", expected, message)


def precision_ran(case: Case, proof: object) -> Iterator[Violation]:
    """C11: the precision that is logged is the narrowest that the run's proof counted.

    Source: mlperf-logging, common.yaml (lowest_numerical_precision_in_linear, v6.1); proof.json of our own runs.
    Breaks it: mxfp4 logged where every GEMM ran in bf16; a proof of emulated GEMMs beside a closed log (warning).
    """
    rows = proof.get("gemms") if isinstance(proof, dict) else None
    point = case.log.points.get("lowest_numerical_precision_in_linear")
    if not isinstance(rows, list) or point is None:
        return
    formats = {str(row.get("format")) for row in rows if isinstance(row, dict)}
    ran = next((name for name in _NARROWEST_FIRST if name in formats), None)
    if ran is not None and point.value not in (allowed := _DISCLOSED.get(ran, (ran,))):
        message = "proof.json counts other formats than the log discloses"
        yield case.error("C11", point, point.value, " or ".join(allowed), message)
    backends = {str(row.get("backend")) for row in rows if isinstance(row, dict)}
    if not case.ruleset.is_scaled and backends & _NOT_NATIVE:
        message = "emulated GEMMs are no result of the closed division; package build refuses them"
        yield case.warning("C11", point, ", ".join(sorted(backends)), "native", message)


def identity(submission: Submission) -> Iterator[Violation]:
    """C12: the logs name the organisation and the platform that submit them.

    Source: submission_rules, Training results; differs in 210 of 390 published logs, hence a warning.
    Breaks it: submission_org AMD in a directory of Cisco; SUBMISSION_ORG_PLACEHOLDER.
    """
    owners = [submission.organisation, submission.system.submitter if submission.system else None]
    known = {owner for owner in owners if owner}
    for case in submission.cases[:1]:
        for key in ("submission_org", "submission_platform"):
            point = case.log.points.get(key)
            value = text(point.value) if point else None
            if point is None or value is None:
                continue
            if _PLACEHOLDER in value.upper():
                message = "a placeholder of the launch script was never filled in"
                yield case.warning("C12", point, value, "a name", message)
            elif key == "submission_org" and known and value not in known:
                message = "the logs name another organisation than the directory and the system description"
                yield case.warning("C12", point, value, " or ".join(sorted(known)), message)
    if len(known) > 1:
        message = "the system description's submitter is not the organisation's directory"
        yield submission.warning("C12", None, " / ".join(sorted(known)), "one name", message)


def config_exists(submission: Submission, files: Iterable[str]) -> Iterator[Violation]:
    """C11: config_filename names a file of the package.

    Source: mlperf-logging, common.yaml (config_filename, v6.1); submission_rules, benchmarks/.
    Breaks it: config_filename conf/train.yaml where benchmarks/ holds no train.yaml.
    """
    names = {name.rpartition("/")[2] for name in files}
    for case in submission.cases:
        point = case.log.points.get("config_filename")
        value = text(point.value) if point else None
        if point is not None and value and value.rpartition("/")[2] not in names:
            message = "the configuration is part of the submission: add it under benchmarks/"
            yield case.error("C11", point, value, "a file under benchmarks/", message)


RULES: tuple[SubmissionRule, ...] = (data_parallel, precision_exists, throughput, identity)

"""Steps that examine the node: the doctor, and one trial of every engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.base.text import printable
from harness.contract import attempt_rows, environment, file_names
from harness.contract.attempt_rows import AttemptConfig, EngineProbe
from harness.contract.node_answers import EngineAnswer
from harness.qualify import bench as benches
from harness.qualify import children, settings
from harness.qualify.answer import Claim, Verdict
from harness.qualify.bench import Bench
from harness.qualify.children import Child

NO_GPU = "no GPU here"
_LONGEST = 400
_VERDICTS = {"ok": Verdict.PROVEN, "fail": Verdict.FAILED}
# these errors mean that an engine is missing, not that its numbers are wrong
_ABSENT = ("NotImplementedError", "ImportError", "ModuleNotFoundError", "AttributeError")
_ATTENTION = "attention"


def doctor(bench: Bench) -> Iterator[Claim]:
    """Every finding of `doctor --quick` as a claim."""
    command = benches.module("harness", "doctor", "--quick", "--json")
    asked = Child(name="doctor", command=command, environment=environment.worker_environment(0, 0))
    (ended,) = bench.run("doctor", asked)
    document = "\n".join(ended.lines())
    if not document.startswith("{"):
        yield _no_answer("the doctor", bench, ended)
        return
    report: Mapping[str, Any] = benches.document(document)
    for row in report["findings"]:
        verdict = _VERDICTS.get(row["verdict"], Verdict.OPEN)
        if not bench.on_gpu and row["name"].startswith(("gpu", "peer access")):
            verdict = Verdict.OPEN
        yield Claim(
            claim=f"doctor: {row['name']}",
            verdict=verdict,
            found=bench.shown(row["found"]),
            expected=bench.shown(row["expected"]),
            fix=bench.shown(row["fix"]),
        )


def engines(bench: Bench) -> Iterator[Claim]:
    """Compare every engine, with every format that it takes here, with the specification."""
    config = settings.trial(bench.data, on_gpu=bench.on_gpu, ranks=bench.ranks, accelerator=bench.accelerator)
    path = bench.home / f"engines_{file_names.CONFIG}"
    attempt_rows.write_config(path, AttemptConfig(config=config))
    command = benches.module("submission.tools.preflight", "engines", "--config", path)
    asked = Child(name="engines", command=command, environment=bench.training_environment())
    (ended,) = bench.run("engines", asked)
    answer = next(benches.rows(EngineAnswer, [ended]), None)
    if answer is None:
        yield _no_answer("trying the engines", bench, ended)
        return
    gemms = [probe for probe in answer.probes if probe.what != _ATTENTION]
    yield from map(_claim, gemms)
    for what in dict.fromkeys(probe.what for probe in gemms):
        if all(probe.failure for probe in gemms if probe.what == what):
            yield Claim(
                claim=f"some engine multiplies {what}", verdict=Verdict.FAILED, found="every engine fails"
            )
    yield from _native(answer)
    yield from map(_attention, (probe for probe in answer.probes if probe.what == _ATTENTION))


def _claim(probe: EngineProbe) -> Claim:
    claim = f"{probe.engine} multiplies {probe.what} as specified"
    if not probe.failure:
        return Claim(
            claim=claim, verdict=Verdict.PROVEN, found="128 x 128 x 128, both orientations, accumulated"
        )
    absent = probe.failure.startswith(_ABSENT)
    fix = "none needed to train: runs skip this engine and report it"
    return Claim(
        claim=claim,
        verdict=Verdict.OPEN if absent else Verdict.FAILED,
        found=printable(probe.failure, _LONGEST),
        fix=fix,
    )


def _native(answer: EngineAnswer) -> Iterator[Claim]:
    """Claims about matrix units; emulation does not prove that they exist."""
    for name, prefix in (("MXFP4", "mxfp4"), ("FP8", "fp8 ")):
        right = [
            probe.engine
            for probe in answer.probes
            if probe.what.startswith(prefix) and probe.engine != "torch" and not probe.failure
        ]
        claim = f"the chip's own units multiply {name}"
        if right:
            yield Claim(
                claim=claim, verdict=Verdict.PROVEN, found=f"{answer.platform}: {', '.join(set(right))}"
            )
        else:
            why = (
                NO_GPU
                if answer.platform == "cpu"
                else f"{answer.platform} has none, or no engine computes correctly"
            )
            yield Claim(claim=claim, verdict=Verdict.OPEN, found=why)


def _attention(probe: EngineProbe) -> Claim:
    """Claims about attention kernels. A missing kernel is no failure if torch chooses a correct one."""
    claim = f"{probe.engine} attends as in FP64"
    if not probe.failure:
        return Claim(claim=claim, verdict=Verdict.PROVEN, found="output and gradients")
    chosen = probe.engine == "torch's choice"
    verdict = Verdict.FAILED if chosen or "differs by" in probe.failure else Verdict.OPEN
    return Claim(claim=claim, verdict=verdict, found=printable(probe.failure, _LONGEST))


def _no_answer(what: str, bench: Bench, ended: children.Ended) -> Claim:
    claim = f"{what} answers"
    if ended.code is None and bench.cut_off:
        return Claim(claim=claim, verdict=Verdict.OPEN, found="cut off before it did")
    found = bench.shown(f"exit status {ended.code}: {ended.last_words}")
    return Claim(claim=claim, verdict=Verdict.FAILED, found=found, fix=bench.place(ended.log))

"""Checks of the training's software on this node: versions, precision, and the speed of an all-reduce."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.base.ask_program import ask_program
from harness.base.paths import ROOT
from harness.campaign import torchrun as campaign_torchrun
from harness.contract import attempt_rows, environment, file_names
from harness.contract.attempt_rows import AttemptConfig
from harness.contract.build import build
from harness.contract.node_answers import AllReduceAnswer, PrecisionAnswer
from harness.doctor.checks import Check, Finding, Patient, Verdict, busy
from harness.machine import facts
from harness.machine.accelerators import inventory

_PACKAGES = ("torch", "megatron-core", "mlperf-logging", "triton", "transformer-engine")
# Share of one link direction that an all-reduce's bus bandwidth should reach. Large messages of NCCL's ring reach 0.8;
# a node at half of that has a link down or a switch in the way.
_GOOD_SHARE, _BAD_SHARE = 0.6, 0.3
_GLOO_GBPS = 0.05  # loopback on one machine; a lower speed means a defect
_MEBIBYTES = {"cpu": 16, "quick": 256, "full": 1024}


def checks() -> list[Check]:
    return [
        Check(name="versions", ask=versions),
        Check(name="precision", ask=precision, patience_s=60),
        Check(name="all-reduce", ask=all_reduce, patience_s=60, late="fail"),
    ]


def versions(_: Patient) -> Sequence[Finding]:
    known = {name: _version(name) for name in _PACKAGES}
    found = ", ".join(f"{name} {version}" for name, version in known.items() if version)
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==([^\s;]+)", text, re.M))
    other = [
        f"{name}=={pinned[name]}" for name, has in known.items() if has and _differs(has, pinned.get(name))
    ]
    found = f"python {platform.python_version()}, {found}"
    expected = f"{', '.join(other)} (requirements.txt)" if other else "requirements.txt"
    fix = "remove .venv and start ./run.sh again; a container's own torch is kept" if other else ""
    return [
        Finding(name="versions", verdict="warn" if other else "ok", found=found, expected=expected, fix=fix)
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _differs(has: str, pinned: str | None) -> bool:
    return pinned is not None and has.partition("+")[0] != pinned


def precision(patient: Patient) -> Sequence[Finding]:
    """Units for FP8 and FP4, and the engine that multiplies in each arm, as the kernels choose it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / file_names.CONFIG
        attempt_rows.write_config(path, AttemptConfig(config=patient.config))
        question = ["-m", "submission.tools.preflight", "precision", "--config", str(path)]
        # on a GPU a trial compiles kernels, for which a quick doctor has no time
        said, why = _ask(patient, [*question, *["--probe"] * (not (patient.gpus and patient.quick))])
    if said is None:
        fix = "read the message, then start ./run.sh test; the training would fail in the same way"
        return [
            Finding(name="precision", verdict="fail", found=why, expected="torch and kernels import", fix=fix)
        ]
    answer: PrecisionAnswer = build(PrecisionAnswer, said, "")
    arms = [_arm(patient, arm, engines) for arm, engines in answer.arms.items()]
    return [_libraries(patient, answer), _peers(answer), _probes(answer), *arms]


def _probes(answer: PrecisionAnswer) -> Finding:
    """Whether the engines and attention kernels that the arms would use compute as specified."""
    name, expected = "engines", "every engine equals the specification"
    if not answer.probed:
        fix = "start ./run.sh doctor without --quick; ./run.sh qualify tries all engines"
        return Finding(
            name=name, verdict="unknown", found="not tried, for lack of time", expected=expected, fix=fix
        )
    failed = [f"{one.engine} ({one.what}): {one.failure}" for one in answer.probes if one.failure]
    right = sorted({f"{one.engine} ({one.what})" for one in answer.probes if not one.failure})
    if not failed:
        return Finding(
            name=name, verdict="ok", found=f"tried and right: {', '.join(right)}", expected=expected
        )
    found = f"not used: {'; '.join(failed)}; right: {', '.join(right) or 'none'}"
    fix = (
        "runs use the next engine (see the backend lines); install a torch or "
        "Triton with this engine, or report the numbers"
    )
    return Finding(name=name, verdict="warn", found=found, expected=expected, fix=fix)


def _libraries(patient: Patient, answer: PrecisionAnswer) -> Finding:
    units = [name for name, has in (("FP8", answer.fp8_units), ("FP4", answer.fp4_units)) if has]
    found = f"{answer.platform}: matrix units for {', '.join(units) or 'neither FP8 nor FP4'}; "
    found += f"{answer.collectives}, {answer.devices} GPUs seen by torch {answer.torch}"
    if answer.devices == patient.gpus:
        return Finding(name="torch", verdict="ok", found=found, expected=f"{patient.gpus} GPUs")
    why = "the environment hides them" if environment.gpus_are_hidden() else answer.why_no_gpu
    found = (
        f"{patient.gpus} GPUs are here, torch can use {answer.devices}{f': {why}' if why else ''}; {found}"
    )
    fix = (
        "check CUDA_VISIBLE_DEVICES; to install a torch for this driver, remove .venv and run ./run.sh again"
    )
    return Finding(name="torch", verdict="fail", found=found, expected=f"{patient.gpus} GPUs", fix=fix)


def _peers(answer: PrecisionAnswer) -> Finding:
    apart = answer.without_peer_access
    if not apart:
        several = answer.devices > 1
        found = f"{answer.devices} GPUs can read each other's memory" if several else "only one GPU"
        return Finding(name="peer access", verdict="ok", found=found)
    return Finding(
        name="peer access",
        verdict="warn",
        found=f"none between GPUs {', '.join(apart[:8])}{' ..' if len(apart) > 8 else ''}",
        expected="between every pair",
        fix="switch IOMMU and ACS off in the BIOS, start the fabric manager, and give one container the whole node",
    )


def _arm(patient: Patient, arm: str, engines: Mapping[str, str]) -> Finding:
    found = f"{arm}: " + ", ".join(f"{gemm} {engine}" for gemm, engine in engines.items())
    if len(set(engines.values())) == 1:
        found = f"{arm}: {next(iter(engines.values()))}"
    name, expected = f"backend {arm}", "native"
    if any(engine.startswith("none") for engine in engines.values()):
        fix = f"arms.{arm}.backend: auto in benchmark.yaml"
        return Finding(name=name, verdict="fail", found=found, expected=expected, fix=fix)
    if not patient.needs_gpus or all(engine.startswith("native") for engine in engines.values()):
        expected = expected if patient.needs_gpus else "any: the proxy emulates"
        return Finding(name=name, verdict="ok", found=found, expected=expected)
    fix = "trains with the same numbers, but its speed says nothing about FP4 or FP8: take a GPU with such units"
    return Finding(name=name, verdict="warn", found=found, expected=expected, fix=fix)


def all_reduce(patient: Patient) -> Sequence[Finding]:
    """An all-reduce over all ranks of this node, with the library that training uses."""
    ranks = patient.gpus or min(2, patient.config.parallelism.gpus_per_node)
    if ranks < 2:
        return [Finding(name="all-reduce", verdict="ok", found="one rank: no all-reduce needed")]
    size = _MEBIBYTES["cpu" if not patient.gpus else "quick" if patient.quick else "full"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    question = ["-m", "submission.tools.preflight", "allreduce", "--mebibytes", str(size)]
    said, why = _ask(patient, [*torchrun, *question])
    if said is None:
        fix = "run the all-reduce by hand with NCCL_DEBUG=INFO; the training would hang or fail here"
        if not patient.gpus:
            fix = "GLOO_SOCKET_IFNAME=lo, where this host's name is not its address; the training would hang too"
        if load := busy():
            fix = f"{load}, which may have made it wait: stop other programs (ps, top) and try again; else {fix}"
        return [Finding(name="all-reduce", verdict="fail", found=why, expected="a correct sum", fix=fix)]
    return [_bandwidth(patient, build(AllReduceAnswer, said, ""))]


def _bandwidth(patient: Patient, answer: AllReduceAnswer) -> Finding:
    speed, library = answer.bus_GBps, "gloo" if not patient.gpus else "NCCL or RCCL"
    found = f"{speed:,.2f} GB/s bus bandwidth, {answer.ranks} ranks, {answer.bytes >> 20} MiB, {library}"
    if not patient.gpus:
        verdict: Verdict = "ok" if speed >= _GLOO_GBPS else "warn"
        fix = "" if verdict == "ok" else f"{busy() or 'slow memory'}: stop other programs (ps, top)"
        return Finding(
            name="all-reduce", verdict=verdict, found=found, expected=f"{_GLOO_GBPS} GB/s", fix=fix
        )
    gpus, _ = inventory(patient.root)
    known = facts.accelerator(gpus[0]["name"]) if gpus else None
    link = known.link_gb_s if known else None
    if not link:
        fix = "compare with the vendor's figure; harness/machine/facts.yaml does not list this GPU's links"
        return Finding(name="all-reduce", verdict="unknown", found=found, fix=fix)
    verdict = "ok" if speed >= _GOOD_SHARE * link else "warn" if speed >= _BAD_SHARE * link else "fail"
    fix = (
        ""
        if verdict == "ok"
        else "look for links that are down, ACS, or a busy GPU; NCCL_DEBUG=INFO shows the transport"
    )
    expected = f"{_GOOD_SHARE * link:.0f} GB/s ({_GOOD_SHARE:.0%} of one direction of its links)"
    return Finding(name="all-reduce", verdict=verdict, found=found, expected=expected, fix=fix)


def _ask(patient: Patient, arguments: Sequence[str]) -> tuple[Any, str]:
    """The last JSON line that a process of the training's software prints, or why there is none."""
    command, env = [sys.executable, *arguments], campaign_torchrun.training_environment(patient.config)
    timeout_s = (
        26.0 if patient.quick else 50.0 if patient.gpus < 2 else 140.0
    )  # a quick doctor runs two of them in its minute
    answer = ask_program(command, timeout_s=timeout_s, cwd=ROOT, env=env)
    rows = [row for row in answer.out.splitlines() if row.startswith("{")]
    if answer.why or not rows:
        return None, answer.why or "no answer"
    return json.loads(rows[-1]), ""

"""The machine that is qualified, and how many of its GPUs are used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from harness.base.errors import UsageError
from harness.contract import environment
from harness.contract.node_answers import GpuAnswer
from harness.machine import torch_gpus
from harness.machine.accelerators import Gpu, accelerators, inventory
from harness.qualify.answer import Claim, Fact, Verdict
from harness.qualify.session import Machine
from harness.records import run_environment
from harness.records.run_environment import RunEnvironment

_SETTINGS = (environment.ALLOCATOR, environment.GRAPH_REGISTER, "CUDA_DEVICE_MAX_CONNECTIONS")


def ask(wanted: int | None) -> Machine:
    """Examine this node.

    Args:
        wanted: number of GPUs to train on, without GPUs of ranks; None: all GPUs, or one rank.

    Raises:
        UsageError: torch can use fewer GPUs.
    """
    here = accelerators()
    usable = torch_gpus.ask() if here else GpuAnswer(devices=0)
    if usable.devices and wanted and wanted > usable.devices:
        raise UsageError(
            f"--gpus: found {wanted}; allowed: at most {usable.devices}, the GPUs that torch can use here"
        )
    gpus = min(usable.devices, wanted or usable.devices)
    ranks = gpus or wanted or 1
    cards = inventory()[0][:gpus] if gpus else []
    described = run_environment.describe()
    name = f"{gpus} x {cards[0]['name']}" if cards else f"{gpus} GPUs" if gpus else f"CPU ({described.cpu})"
    return Machine(
        name=name,
        gpus=gpus,
        ranks=ranks,
        inventory=cards,
        facts=tuple(_facts(described, cards, ranks, on_gpu=gpus > 0)),
        claims=tuple(_claims(here, usable)),
    )


def _claims(here: int, usable: GpuAnswer) -> Iterator[Claim]:
    """Claims about GPUs that exist and that torch cannot use."""
    claim = "torch can use the GPUs that are here"
    if not here:
        yield Claim(claim=claim, verdict=Verdict.OPEN, found="no GPU here: toy scale on the CPU")
    elif usable.devices == here:
        yield Claim(claim=claim, verdict=Verdict.PROVEN, found=f"{here} of {here}")
    else:
        hidden = "the environment hides them" if environment.gpus_are_hidden() else "it does not say why"
        found = f"{here} GPUs are here, torch can use {usable.devices}: {usable.why or hidden}"
        fix = "check CUDA_VISIBLE_DEVICES; install a torch for this driver (the vendors' containers hold one)"
        yield Claim(claim=claim, verdict=Verdict.FAILED, found=found, fix=fix)


def _facts(described: RunEnvironment, cards: list[Gpu], ranks: int, *, on_gpu: bool) -> Iterator[Fact]:
    if cards:
        names = sorted({card["name"] for card in cards})
        yield Fact(name="accelerators", value=f"{len(cards)} x {' and '.join(names)}")
        yield Fact(name="driver", value=", ".join(sorted({card["driver_version"] for card in cards})))
        memory = sorted({card["memory.total"] for card in cards})
        yield Fact(name="memory of each", value=", ".join(f"{size} MiB" for size in memory))
    yield Fact(name="ranks trained on", value=f"{ranks}")
    yield Fact(name="processor", value=f"{described.cpu}, {described.cores} cores may be used")
    yield Fact(name="system", value=re.sub(r"-with-.*", "", described.platform))
    versions = [f"python {described.python}", *(f"{name} {one}" for name, one in described.packages.items())]
    yield Fact(name="versions", value=", ".join(versions))
    if described.git:
        dirty = ", with changes" if described.git.dirty else ""
        yield Fact(name="sources", value=f"commit {described.git.commit[:12]}{dirty}")
    yield Fact(name="settings of trainings", value=_settings(on_gpu=on_gpu))


def _settings(*, on_gpu: bool) -> str:
    """Settings of memory, queues and graphs, which affect one another below sm_100."""
    made: Mapping[str, str] = environment.training_environment(threads=1, on_cpu=not on_gpu)
    said = [f"{name}={made[name]}" for name in _SETTINGS if name in made]
    return ", ".join(said)

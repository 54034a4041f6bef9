"""The data of `project`: accelerators, the configurations and measurements of public systems, fitted constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from compliance.benchmark import BENCHMARK
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.contract.build import build
from harness.contract.config import Model
from harness.machine import facts
from harness.projection.step_time import PRECISIONS, Accelerator, Constants, Setup, Work, work

PUBLIC = Path(__file__).parents[1] / "analysis" / "public"
FITTED = PUBLIC / "project.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Absolute errors of time to train and of step time on held-out systems, in percent.

    Only systems that evaluate as often as the rules ask count.
    """

    median_pct: float
    p90_pct: float
    max_pct: float
    step_median_pct: float
    step_p90_pct: float
    step_max_pct: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """Content of project.yaml; the fields are its keys, in order.

    Args:
        measured: public system -> batch size, interval, seconds of a step and an evaluation, olympic minutes, samples.
        validation: what was held out (submitter, accelerator, maker) -> errors.
        makers: maker, and maker and format -> mean signed error of the step time in percent, without the submitter.
        errors: public system -> signed errors of time to train and step time in percent, a pair for each validation.
    """

    made_by: str
    measured: Mapping[str, tuple[int | float, ...]]
    constants: Constants
    validation: Mapping[str, Validation]
    makers: Mapping[str, float]
    errors: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One public system; means over its runs.

    Args:
        minutes: olympic mean, unverified, not normalised.
        samples: interpolated samples to target.
    """

    key: str
    setup: Setup
    step_s: float
    evaluation_s: float
    minutes: float
    samples: float

    @property
    def submitter(self) -> str:
        return self.key.split("/")[1]

    @property
    def maker(self) -> str:
        return self.setup.accelerator.maker

    @property
    def keeps_the_interval(self) -> bool:
        """Whether it evaluates as often as the rules ask (C5)."""
        size = self.setup.global_batch_size
        return self.setup.interval_samples == -(-BENCHMARK.evaluation_interval_samples // size) * size


@lru_cache(maxsize=1)
def accelerators() -> dict[str, Accelerator]:
    """Accelerators by name, in the order of facts.yaml, for which the model has all figures."""
    known = (_accelerator(board) for board in facts.accelerators().values())
    return {board.name: board for board in known if board is not None}


def _accelerator(board: facts.Accelerator) -> Accelerator | None:
    """The accelerator in the units of the model; None where a figure is unknown."""
    bandwidth_gb_s, watts, network_gb_s = board.bandwidth_gb_s, board.watts, board.network_gb_s
    if bandwidth_gb_s is None or watts is None or network_gb_s is None:
        return None
    if board.link_gb_s is None or board.domain is None:
        return None
    return Accelerator(
        name=board.name,
        tflops={one: board.dense_tflops[one] for one in PRECISIONS if one in board.dense_tflops},
        memory_tb_s=bandwidth_gb_s / 1000,
        power_w=watts,
        link_gb_s=board.link_gb_s,
        domain=board.domain,
        network_gb_s=network_gb_s,
        maker=board.maker,
        source=board.sources["dense_tflops"],
    )


def ran(key: str, *, global_batch_size: int, interval_samples: int) -> Setup | None:
    """How a public system ran; None where its configuration is not recorded."""
    row = _systems().get(key)
    if row is None:
        return None
    name, count, precision, attention, tensor, context = row
    return Setup(
        accelerator=accelerators()[name],
        accelerators=count,
        global_batch_size=global_batch_size,
        precision=precision,
        attention=attention,
        tensor=tensor,
        context=context,
        interval_samples=interval_samples,
    )


@lru_cache(maxsize=1)
def _systems() -> Mapping[str, Sequence[Any]]:
    """Accelerators, their number, precision of linear layers and attention, tensor and context parallel size."""
    rows: Mapping[str, Sequence[Any]] = _yaml(PUBLIC / "project_systems.yaml")
    return rows


@lru_cache(maxsize=1)
def fitted() -> Fitted:
    """project.yaml: constants, measurements and validation."""
    made: Fitted = build(Fitted, _yaml(FITTED), "")
    return made


def measurements(measured: Mapping[str, Sequence[float]]) -> list[Measured]:
    """The public systems of a project.yaml, from their rows."""
    found = []
    for key, (size, interval, step_s, evaluation_s, minutes, samples) in measured.items():
        setup = ran(key, global_batch_size=int(size), interval_samples=int(interval))
        if setup is not None:
            times = {"step_s": step_s, "evaluation_s": evaluation_s, "minutes": minutes}
            found.append(Measured(key=key, setup=setup, samples=samples, **times))
    return found


@lru_cache(maxsize=1)
def load() -> Work:
    """Arithmetic of the benchmark's model."""
    return work(model())


def model() -> Model:
    return resolve(BENCHMARK_PROFILE, aliases={}).config.model


def attention_of(precision: str) -> str:
    """Precision of attention in the public submissions: FP8 with NVFP4, otherwise BF16."""
    return "fp8" if precision == "nvfp4" else "bf16"


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))

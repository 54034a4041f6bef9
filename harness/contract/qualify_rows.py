"""Answers of the processes that `qualify` starts: trial.json of a training, JSON lines of the kernels' tools.

kernels imports nothing of ours, so its tools print these fields themselves; tests check that they are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import file_names, files, typed_json
from harness.contract.attempt_rows import EngineProbe, ReplayedGraph


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialAnswer:
    """A few steps of the real executor on this machine. The file is written again whenever there is more to report.

    Args:
        stage: what the trial did when this was written; `done` at the end.
        loss, step_s: values of every timed step, in order; evaluation_loss is measured after them.
        peak_bytes, reserved_bytes: of the accelerator's memory, by tensors and by torch's allocator; None on a CPU.
        gemms: GEMM -> backend and engine, from the proof; `proven` when its counts are those of recipe and steps.
        graphs: the CUDA graphs that trained steps, from the proof.
        calls: kinds of work on the accelerator in one step -> how many; waits: calls that waited for it -> how many;
            busiest: kernels launched most often. None where the profiler saw nothing.
        sync_sites: lines that made the host wait in one step -> how often, as torch's synchronisation warnings say.
        sync_failure: where a step stopped when waiting was an error; empty where it did not; None where it was not
            tried.
        trouble: what went wrong without ending the trial.
    """

    stage: str = "starting"
    device: str = ""
    platform: str = ""
    ranks: int = 1
    build_s: float = math.nan
    warm_up_s: float = math.nan
    loss: tuple[float, ...] = ()
    step_s: tuple[float, ...] = ()
    evaluation_loss: float = math.nan
    evaluation_s: float = math.nan
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    gemms: Mapping[str, str] | None = None
    attention: str = ""
    probes: tuple[EngineProbe, ...] = ()
    proven: bool = False
    graphs: tuple[ReplayedGraph, ...] = ()
    calls: Mapping[str, int] | None = None
    waits: Mapping[str, int] | None = None
    busiest: Mapping[str, int] | None = None
    sync_sites: Mapping[str, int] | None = None
    sync_failure: str | None = None
    trouble: tuple[str, ...] = ()

    @property
    def launches(self) -> int | None:
        """Number of kernels, copies and fills of one step."""
        return None if self.calls is None else sum(self.calls.values())


def write_trial(attempt: Path, answer: TrialAnswer) -> None:
    files.replace_json(attempt / file_names.TRIAL, typed_json.to_plain(answer), sync=False)


def read_trial(attempt: Path) -> TrialAnswer | None:
    """Read the trial; None before it has written anything."""
    return typed_json.read(TrialAnswer, attempt / file_names.TRIAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRow:
    """One kernel with one quantizer against the specification, or one engine's products.

    Args:
        of: number of rows that all slices together print.
        moved: number of elements that differ because the order of a sum is not fixed.
        difference: the first difference and its place; None where there is none.
        seconds: duration, compilation included.
    """

    twin: str
    what: str
    of: int
    cases: int
    elements: int
    moved: int = 0
    difference: str | None = None
    seconds: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRow:
    """One measurement.

    Args:
        group: copy | quantise | matrix | product.
        share: fraction of the copy's bytes per second, or of the BF16 matrix rate; None for these two themselves.
    """

    group: str
    what: str
    time_s: float
    moved_bytes: int = 0
    flops: int = 0
    share: float | None = None

"""metrics.jsonl: one line per optimizer step, evaluation, checkpoint, slow rank and unused engine, marked by `kind`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.contract import typed_json
from harness.contract.typed_json import RowError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRow:
    """An optimizer step. A figure that was not written is NaN.

    Args:
        samples: sequences trained on, those of this step included.
        loss: mean over the tokens of the step; lr: learning rate.
        step_s: seconds of the step.
    """

    step: int = 0
    samples: int = 0
    loss: float = math.nan
    lr: float = math.nan
    gradient_norm: float = math.nan
    step_s: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRow:
    """An evaluation.

    Args:
        loss: validation log perplexity.
        elapsed_s: seconds since run_start.
    """

    step: int = 0
    samples: int = 0
    loss: float = math.nan
    elapsed_s: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """A checkpoint that was saved, or that was loaded before the run started.

    Args:
        what: saved | resumed from.
        bytes: size of all its files; None where it was loaded.
    """

    what: str = ""
    step: int = 0
    samples: int = 0
    seconds: float = math.nan
    bytes: int | None = None
    directory: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StragglerRow:
    """A rank that was slow at the last two evaluations.

    Args:
        ratio: its time divided by the median of the ranks of its pipeline stage.
        pass_s: mean seconds of its forward passes.
    """

    step: int = 0
    samples: int = 0
    rank: int
    ratio: float
    pass_s: float = math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRow:
    """An engine that was not used, because it failed or multiplied wrongly in a trial before the first step."""

    engine: str = ""
    what: str = ""
    failure: str = ""


MetricsRow = TrainRow | EvaluationRow | CheckpointRow | StragglerRow | EngineRow
_KINDS: Mapping[str, type[MetricsRow]] = {
    "train": TrainRow,
    "eval": EvaluationRow,
    "checkpoint": CheckpointRow,
    "straggler": StragglerRow,
    "engine": EngineRow,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_line(row: MetricsRow) -> str:
    """The row with its line end."""
    return json.dumps({"kind": _NAMES[type(row)], **typed_json.to_plain(row)}) + "\n"


def from_plain(value: object) -> MetricsRow | None:
    """The row of a line's JSON; None for an unknown kind, and for anything that is not a row."""
    kind = _KINDS.get(str(value.get("kind"))) if isinstance(value, Mapping) else None
    try:
        return None if kind is None else typed_json.from_plain(kind, value)
    except RowError:
        return None


def from_lines(text: bytes) -> Iterator[MetricsRow]:
    """The rows of whole lines; a line that is not a row is skipped."""
    for value in typed_json.lines(text):
        if (row := from_plain(value)) is not None:
            yield row


def read(path: Path) -> Iterator[MetricsRow]:
    """The rows of a file, whose last line may be incomplete; empty where the file is missing."""
    try:
        text = path.read_bytes()
    except OSError:
        return
    yield from from_lines(text)

"""Files between `study replay` and the process that computes gradients: cells in, Gram matrices out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.contract import files, typed_json

ASKED, GRAMS = "replay.json", "grams.npz"


class Gemms(Enum):
    WGRAD = "wgrad"  # only Wgrad is quantised, from the exact operands
    ALL = "all"  # Fprop, Dgrad and Wgrad are quantised


class Quantised(Enum):
    """Operands of Wgrad."""

    BOTH = "both"
    DY = "dy"
    X = "x"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayCell:
    """One way to compute the weight gradients of a micro batch.

    Args:
        arm: the arm whose recipe quantises the operands.
        operand: which operands are quantised where gemms is WGRAD.
    """

    name: str
    arm: str
    gemms: Gemms = Gemms.WGRAD
    operand: Quantised = Quantised.BOTH


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayAsked:
    """What to compute.

    Args:
        train_steps: optimizer steps before the replay, by the arm of config.json; 0 with a checkpoint.
        checkpoint: directory of a checkpoint; None: train.
        batches: micro batches, each with an exact gradient and one for every cell.
    """

    cells: tuple[ReplayCell, ...]
    batches: int
    train_steps: int = 0
    checkpoint: str | None = None


def write_asked(directory: Path, asked: ReplayAsked) -> None:
    files.replace_json(directory / ASKED, typed_json.to_plain(asked))


def read_asked(directory: Path) -> ReplayAsked:
    """Raises:
    OSError: no such file.
    RowError: a file of another shape.
    """
    return typed_json.from_text(ReplayAsked, (directory / ASKED).read_text(encoding="utf-8"))

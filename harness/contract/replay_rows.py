"""Files between `study replay`, `forward` and `fork`, and the process that measures: cells in, arrays out."""

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
    """The operands that are quantised in the GEMMs that the recipe quantises."""

    BOTH = "both"
    DY = "dy"
    X = "x"
    W = "w"


class Measured(Enum):
    GRADIENTS = "gradients"  # the exact gradient and every cell's error, batch by batch
    FORWARD = "forward"  # only the losses of forward passes
    FORKS = "forks"  # short trainings from the same state, a cell each


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayCell:
    """One way to compute the weight gradients of a micro batch.

    Args:
        arm: the arm whose recipe quantises the operands.
        operand: which operands are quantised; the others stay exact.
        draw: which random signs and roundings, where gemms is WGRAD.
    """

    name: str
    arm: str
    gemms: Gemms = Gemms.WGRAD
    operand: Quantised = Quantised.BOTH
    draw: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayAsked:
    """What to compute.

    Args:
        train_steps: optimizer steps before the replay, by the arm of config.json; 0 with a checkpoint.
        checkpoint: directory of a checkpoint; None: train.
        batches: micro batches, each measured exactly and for every cell; for FORKS the number of forks.
        fork_steps: optimizer steps of a fork.
        outlier_factor: every 64th channel of the inputs of QKV and fc1 is multiplied by it, and their weights divided,
            which leaves the exact model as it is; 1: no change.
    """

    cells: tuple[ReplayCell, ...]
    batches: int
    train_steps: int = 0
    checkpoint: str | None = None
    measured: Measured = Measured.GRADIENTS
    fork_steps: int = 0
    outlier_factor: float = 1.0


def write_asked(directory: Path, asked: ReplayAsked) -> None:
    files.replace_json(directory / ASKED, typed_json.to_plain(asked))


def read_asked(directory: Path) -> ReplayAsked:
    """Raises:
    OSError: no such file.
    RowError: a file of another shape.
    """
    return typed_json.from_text(ReplayAsked, (directory / ASKED).read_text(encoding="utf-8"))

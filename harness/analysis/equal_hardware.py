"""Compares a submission with public systems of equal hardware: seconds per sample, and samples to the target.

A reviewer should look at figures outside their band: the machine or its clock may differ from the description, or the
submission is simply better. The margins around the band are calibrated on the public index: no system there lies
outside the band of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from compliance.accelerator_names import known_name
from compliance.runlog import RunLog
from harness.analysis import public_index, run_figures
from harness.analysis.public_index import Entry
from harness.base.text import printable
from harness.machine import facts

SPEED_MARGIN = 1.25  # factor beyond the slowest or the fastest; public systems against their peers: 1.193
SAMPLES_MARGIN = 1.1  # the same for samples to target; public systems: 1.085
_FEWEST_PEERS = 2  # peers; fewer form no band
_FEWEST_RUNS = 3  # runs of a submission, whose mean is compared


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A public system: its key in the index, the precision it disclosed, and its mean of a quantity."""

    name: str
    precision: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """One quantity of a submission, and that of its peers.

    Args:
        quantity: name with unit.
        peers: at least one, sorted by value.
        margin: factor around the band.
    """

    quantity: str
    value: float
    peers: tuple[Peer, ...]
    margin: float

    @property
    def band(self) -> tuple[float, float]:
        """The lowest and highest value of the peers."""
        return self.peers[0].value, self.peers[-1].value

    @property
    def text(self) -> str:
        """The band in words."""
        low, high = self.band
        return (
            f"{low:.6g} .. {high:.6g} ({len(self.peers)} public systems), within a factor of {self.margin:g}"
        )

    @property
    def outside(self) -> bool:
        """Whether the value lies outside the band by more than the margin; one peer forms no band."""
        low, high = self.band
        return len(self.peers) >= _FEWEST_PEERS and not low / self.margin <= self.value <= high * self.margin


def against(
    runs: Sequence[RunLog], *, hardware: str, accelerators: int | None, target: float
) -> list[Against]:
    """Return the quantities that can be compared with public systems of equal hardware; empty if there are none.

    Args:
        hardware: text that names the accelerator.
        accelerators: their number in the system.
    """
    name = known_name(hardware, facts.accelerators())
    if name is None or accelerators is None:
        return []
    peers = [one for one in _of_hardware(name, accelerators) if not _same(one, runs)]
    size = runs[0].global_batch_size if runs else None
    speeds = [(one, _seconds_per_sample(_runs(one))) for one in peers]
    samples = [(one, _to_target(_runs(one), target)) for one in peers if one.global_batch_size == size]
    found = (
        _against("seconds per sample", _seconds_per_sample(runs), speeds, SPEED_MARGIN),
        _against(
            f"samples to target at batch size {size}", _to_target(runs, target), samples, SAMPLES_MARGIN
        ),
    )
    return [one for one in found if one is not None]


def _against(
    quantity: str, value: float | None, peers: Sequence[tuple[Entry, float | None]], margin: float
) -> Against | None:
    known = sorted(
        (
            Peer(name=printable(one.key), precision=printable(one.precision), value=figure)
            for one, figure in peers
            if figure is not None
        ),
        key=lambda peer: peer.value,
    )
    if value is None or not known:
        return None
    return Against(quantity=quantity, value=value, peers=tuple(known), margin=margin)


def _of_hardware(name: str, accelerators: int) -> list[Entry]:
    """Return public systems with the same accelerator and number; the accelerator may be in the system's name."""

    def wanted(one: Mapping[str, object]) -> bool:
        text = str(one.get("accelerator") or str(one.get("system")).replace("_", " "))
        return one.get("accelerators") == accelerators and known_name(text, facts.accelerators()) == name

    return public_index.read(wanted=wanted)


def _same(one: Entry, runs: Sequence[RunLog]) -> bool:
    """Whether the entry was made from these runs: seeds and milliseconds agree."""
    mine = {(run.seed, round(1000 * run.duration_s)) for run in runs if run.duration_s is not None}
    return any((run.seed, run.run_ms) in mine for run in one.runs)


def _runs(one: Entry) -> Sequence[RunLog]:
    return public_index.submission(one).runs


def _seconds_per_sample(runs: Sequence[RunLog]) -> float | None:
    """Return the mean over the runs, including evaluations."""
    found = [
        run.duration_s / run.samples_at_stop
        for run in runs
        if run.duration_s and run.samples_at_stop and run.samples_at_stop > 0 and run.duration_s > 0
    ]
    return fmean(found) if len(found) >= _FEWEST_RUNS else None


def _to_target(runs: Sequence[RunLog], target: float) -> float | None:
    """Mean of the interpolated samples to the target."""
    found = [value for run in runs if (value := run_figures.interpolated(run, target)) is not None]
    return fmean(found) if len(found) >= _FEWEST_RUNS else None

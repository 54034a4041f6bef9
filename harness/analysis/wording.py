"""Writes differences in words, such as "12.6 % less time than B (9.0 to 15.9 % less)"."""

from __future__ import annotations

from dataclasses import dataclass

from harness.analysis.intervals import Ratio

_LARGE = 2.0  # larger ratios are written as a factor


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """The words for a ratio below 1, a ratio above 1, and a large ratio.

    Args:
        less, more: such as "less time", "more time"; an interval uses only the first word.
        times: the words after "2.3 times", such as "as long".
    """

    less: str
    more: str
    times: str


TIME = Words(less="less time", more="more time", times="as long")
SAMPLES = Words(less="fewer samples", more="more samples", times="as many samples")
SPEED = Words(
    less="fewer samples per second", more="more samples per second", times="as many samples per second"
)
SHORTER = Words(less="shorter", more="longer", times="as long")
LOWER = Words(less="lower", more="higher", times="as high")
FEWER = Words(less="fewer", more="more", times="as many")


def change(ratio: Ratio, words: Words, other: str = "") -> str:
    """Write the ratio of A to B, with its 95 % interval if there is one.

    Args:
        other: B's name; it is left out if empty.
    """
    if ratio.ratio >= _LARGE:
        as_other = f" as {other}" if other else ""
        bounds = "" if ratio.ci95 is None else f" ({ratio.ci95[0]:.1f} to {ratio.ci95[1]:.1f} times)"
        return f"{ratio.ratio:.1f} times {words.times}{as_other}{bounds}"
    percent = 100 * (ratio.ratio - 1)
    than = f" than {other}" if other else ""
    text = f"{abs(percent):.1f} % {words.less if percent < 0 else words.more}{than}"
    return text if ratio.ci95 is None else f"{text} ({interval(*ratio.ci95, words)})"


def interval(low: float, high: float, words: Words) -> str:
    """Write the bounds of a ratio; the smaller change is first if both have one direction."""
    less, more = words.less.split()[0], words.more.split()[0]
    changes = [100 * (bound - 1) for bound in (low, high)]
    if low > 1 or high < 1:
        near, far = sorted(map(abs, changes))
        return f"{near:.1f} to {far:.1f} % {less if high < 1 else more}"
    return f"{abs(changes[0]):.1f} % {less} to {changes[1]:.1f} % {more}"

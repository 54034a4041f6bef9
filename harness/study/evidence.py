"""`study evidence`: what the published logs say of the samples that a four-bit format costs at 8B."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from harness.analysis import pooled, random_effects
from harness.analysis.intervals import FEWEST_RUNS
from harness.analysis.machine_spread import Quantity
from harness.analysis.pooled import Answer, Fact, Observed
from harness.analysis.submission_loader import Submission
from harness.base.text import plural
from harness.report import pooled_text
from harness.study import grid

_OF_A_GROUP = ("precision", "maker", "batch", "round")
_SHOWN = ("learning rate", "warm-up", "evaluation interval")
_CLAIMS = {  # cells of the paper's table, and whether the published systems train that recipe
    "h16-fdw": ("with a Hadamard transform", True),
    "none-fdw": ("without a transform", False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Systems of one format, maker, batch size and round.

    Args:
        facts: the properties that they share.
        also: properties in which they may differ -> their values.
        samples, low, high: samples to target, geometric mean over systems, with a 95 % interval (Hartung and Knapp);
            the interval is None for one system.
    """

    facts: Mapping[str, Fact]
    also: Mapping[str, tuple[Fact, ...]]
    systems: int
    runs: int
    unfinished: int
    samples: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What the paper reports, seen in one answer.

    Args:
        low, high: ratios of samples to the baseline's.
        samples: the same as samples, at the baseline's mean.
        tested: whether the published systems train this recipe. Those of MXFP4 have a transform.
        excluded: whether the whole claim lies outside the interval of the answer.
        bias: ratio by which what coincides with the format would have to reduce the samples, for the claim to be true.
    """

    text: str
    low: float
    high: float
    samples: tuple[float, float]
    tested: bool
    excluded: bool
    bias: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Args:
    answers: format against FP8, with the claims about it.
    left_out: systems that are in no answer, and why.
    """

    groups: tuple[Group, ...]
    answers: tuple[tuple[Answer, tuple[Claim, ...]], ...]
    left_out: tuple[tuple[str, str], ...]


def evidence(submissions: Sequence[Submission]) -> Evidence:
    """Pool samples to target by format, maker, batch size and round, and compare formats within strata."""
    found = pooled.pooled(submissions, "precision", (Quantity.SAMPLES,))
    known = [pooled.observed(one, Quantity.SAMPLES) for one in submissions]
    usable = [one for one in known if len(one.finished) >= FEWEST_RUNS]
    groups = [_group(list(alike)) for _, alike in groupby(sorted(usable, key=_key), key=_key)]
    levels = {one.name: one for one in usable}
    return Evidence(
        groups=tuple(groups),
        answers=tuple((one, _claims(one, levels)) for one in found.answers),
        left_out=found.left_out,
    )


def _key(one: Observed) -> tuple[str, ...]:
    return tuple(str(one.facts[name]).rjust(6) for name in _OF_A_GROUP)


def _group(alike: Sequence[Observed]) -> Group:
    spread = pooled.pooled_variance(alike)
    systems = [
        random_effects.System(stratum="", treated=True, **pooled.moments(one, spread)) for one in alike
    ]
    effect = random_effects.mean(systems)
    return Group(
        facts={name: alike[0].facts[name] for name in _OF_A_GROUP},
        also={name: _values(alike, name) for name in _SHOWN},
        systems=len(alike),
        runs=sum(len(one.finished) + len(one.unfinished) for one in alike),
        unfinished=sum(len(one.unfinished) for one in alike),
        samples=math.exp(effect.value if effect else systems[0].mean),
        low=math.exp(effect.low) if effect else None,
        high=math.exp(effect.high) if effect else None,
    )


def _values(alike: Sequence[Observed], name: str) -> tuple[Fact, ...]:
    return tuple(sorted({one.facts[name] for one in alike} - {None}, key=str))


def _claims(answer: Answer, observed: Mapping[str, Observed]) -> tuple[Claim, ...]:
    """Return the paper's claims about MXFP4 against FP8; it makes none about other formats."""
    if (answer.a.value, answer.b.value) != ("mxfp4", "fp8"):
        return ()
    logs = [math.log(value) for name in answer.b.systems for value in observed[name].finished]
    base, (low, high) = math.exp(sum(logs) / len(logs)), answer.ratio.ci95 or (0.0, math.inf)
    found = []
    for cell in grid.paper():
        if cell.name in _CLAIMS and cell.claimed:
            least, most = (1 + percent / 100 for percent in cell.claimed)
            found.append(
                Claim(
                    text=_CLAIMS[cell.name][0],
                    low=least,
                    high=most,
                    samples=(base * least, base * most),
                    tested=_CLAIMS[cell.name][1],
                    excluded=high < least or low > most,
                    bias=answer.ratio.ratio / least,
                )
            )
    return tuple(sorted(found, key=lambda one: one.low))


def sentences(found: Evidence) -> list[str]:
    """Return an answer per format and maker, each followed by the paper's claims about it."""
    said = []
    for answer, claims in found.answers:
        said.append(pooled_text.sentence(answer))
        said += [_claim(one) for one in claims]
    return said or ["No answer: no two formats have systems that are alike in the rest."]


def _claim(one: Claim) -> str:
    low, high = (f"{value:,.0f}" for value in one.samples)
    start = f"The paper's {_percent(one)} {one.text} would be {low} to {high} samples"
    if not one.tested:
        return f"{start}; no published system trains this recipe."
    if not one.excluded:
        return f"{start}: not excluded."
    saved = f"{100 * (1 - one.bias):.1f} %"
    return f"{start}: excluded, unless what coincides with the format saves {saved} of the samples or more."


def _percent(one: Claim) -> str:
    return f"{100 * one.low - 100:.0f} to {100 * one.high - 100:.0f} %"


def headline(found: Evidence) -> str:
    """Return the answer about MXFP4, or what is missing for one."""
    for answer, claims in found.answers:
        if claims:
            low, high = (100 * (value - 1) for value in answer.ratio.ci95 or (math.nan, math.nan))
            systems = f"{plural(len(answer.a.systems), 'system')} against {len(answer.b.systems)}"
            more = 100 * (answer.ratio.ratio - 1)
            start = f"MXFP4 needs {more:.1f} % more samples than FP8 at 8B ({low:.1f} to {high:.1f} %; {systems})."
            out = [_percent(one) for one in claims if one.tested and one.excluded]
            return f"{start} The paper reports {' and '.join(out)}." if out else start
    return "No answer about MXFP4: these systems hold no MXFP4 and FP8 that are alike in the rest."


def document(found: Evidence) -> dict[str, Any]:
    """Return what `study evidence --json` prints."""
    return {
        "headline": headline(found),
        "groups": [asdict(one) for one in found.groups],
        "answers": [
            {
                **pooled_text.row(answer),
                "claims": [asdict(one) for one in claims],
            }
            for answer, claims in found.answers
        ],
        "left_out": [{"submission": name, "why": why} for name, why in found.left_out],
    }


def text(found: Evidence) -> str:
    return json.dumps(document(found), indent=1)

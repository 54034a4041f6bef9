"""The page of `study evidence`: a forest plot of every comparison of formats, and samples to target by group."""

from __future__ import annotations

from pathlib import Path

import jinja2

from harness.analysis.pooled import Answer, Placed
from harness.contract import files
from harness.report import pooled_text
from harness.report.canvas import DARK, INK, PALETTE, canvas, short, svg
from harness.study import evidence
from harness.study.evidence import Claim, Evidence

_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "report" / "templates")


def write(path: Path, found: Evidence) -> Path:
    """Write the page and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["fact"] = pooled_text.fact
    page = environment.get_template("evidence.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        headline=evidence.headline(found),
        figures=[_forest(answer, claims, place) for place, (answer, claims) in enumerate(found.answers)],
        sentences=evidence.sentences(found),
        groups=found.groups,
        answers=[answer for answer, _ in found.answers],
        left_out=found.left_out,
        question=pooled_text.question,
    )
    files.replace_text(path, page)
    return path


def _forest(answer: Answer, claims: tuple[Claim, ...], place: int) -> tuple[str, str]:
    """Draw every system as a line, and the pooled ratio below them."""
    a, b = answer.a.value, answer.b.value
    rows = [
        *(one for one in answer.systems if one.group == b),
        *(one for one in answer.systems if one.group == a),
    ]
    title = f"{a} against {b}, {pooled_text.question(answer)}"
    with canvas(title, f"samples to target against {b}, %", height=1.3 + 0.24 * (len(rows) + 2)) as axes:
        for claim in claims:
            axes.axvspan(100 * claim.low - 100, 100 * claim.high - 100, color=PALETTE[5], alpha=0.45, lw=0)
        for row, one in enumerate(rows):
            colour = PALETTE[0] if one.group == a else INK
            _line(axes, row, one, colour)
        low, high = (100 * (value - 1) for value in answer.ratio.ci95 or (answer.ratio.ratio,) * 2)
        at, middle = -len(rows) - 0.5, 100 * (answer.ratio.ratio - 1)
        axes.fill([low, middle, high, middle], [at, at + 0.35, at, at - 0.35], color=PALETTE[1], lw=0)
        axes.axvline(0, color=INK, lw=0.8)
        names = [f"{short(one.name, 22)} ({one.group})" for one in rows]
        axes.set_yticks([*(-row for row in range(len(rows))), at], [*names, "pooled"], fontsize=8)
        axes.set_ylim(at - 0.7, 0.7)
        axes.grid(axis="y", visible=False)
        drawn = svg(axes, f"Forest plot: {pooled_text.sentence(answer)}", f"forest-{place}")
    bands = " Bands: what the paper reports." if claims else ""
    caption = f"Lines: 95 % of a system's runs. Diamond: the pooled ratio with its 95 % interval.{bands}"
    return drawn, caption


def _line(axes: object, row: int, one: Placed, colour: str) -> None:
    low, high = (100 * (value - 1) for value in one.ratio.ci95 or (one.ratio.ratio,) * 2)
    axes.plot([low, high], [-row, -row], color=colour, lw=1.4)  # type: ignore[attr-defined]
    axes.plot([100 * (one.ratio.ratio - 1)], [-row], "o", color=colour, ms=4.5)  # type: ignore[attr-defined]

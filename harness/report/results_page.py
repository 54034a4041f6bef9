"""The page of published systems: table, plots, notices. Its script sorts and filters; all can be read without it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2

from harness.analysis import forecast, pooled, public_index, scaling
from harness.analysis.pooled import Answer
from harness.analysis.public_index import Entry
from harness.analysis.scaling import Series
from harness.base.text import number, plural
from harness.contract.files import replace_text
from harness.report import index_table, pooled_text, results_plots
from harness.report.canvas import DARK, PALETTE
from harness.report.index_table import Row

_TEMPLATES = Path(__file__).parent / "templates"


def write(entries: Sequence[Entry], page: Path) -> Path:
    """Write the page of these systems; returns its path."""
    replace_text(page, render(entries))
    return page


def render(entries: Sequence[Entry]) -> str:
    """The page as text; everything that comes from logs is escaped."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number)
    script = (_TEMPLATES / "results.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rows = index_table.ordered([index_table.row(one) for one in entries], "minutes")
    answers = pooled.pooled([public_index.submission(one) for one in entries], "precision").answers
    found = scaling.series([row.figures for row in rows])
    return environment.get_template("results.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        script=script,
        digest=digest,
        headline=_headline(rows),
        rows=rows,
        figures=_figures(rows, found, answers),
        series=found,
        answers=[pooled_text.sentence(one) for one in answers],
        notices=[*index_table.notices(rows), *pooled_text.METHOD],
    )


def _headline(rows: Sequence[Row]) -> str:
    kinds = {row.model or row.figures.accelerator for row in rows}
    rounds = sorted({row.figures.round or "no round" for row in rows})
    best = next((row for row in rows if row.figures.time_to_train_normalized_min), None)
    text = (
        f"{plural(len(rows), 'published system')} with {plural(len(kinds), 'kind')} of accelerator, "
        f"round{'s' * (len(rounds) > 1)} {' and '.join(rounds)}"
    )
    if best is None:
        return f"{text}."
    minutes = number(best.figures.time_to_train_normalized_min, 2)
    return f"{text}. The fastest: {minutes} official minutes on {scaling.hardware(best.figures)} ({best.figures.org})."


def _figures(
    rows: Sequence[Row], found: Sequence[Series], answers: Sequence[Answer]
) -> list[tuple[str, str]]:
    """Plots and captions; a plot without data is left out."""
    systems = [row.figures for row in rows]
    rounds = scaling.over_rounds(systems)
    drawn: list[tuple[str, str]] = []
    if any(one.time_to_train_normalized_min and one.accelerators for one in systems):
        drawn.append(
            (
                results_plots.time_against_size(systems),
                "Dashed: no other system is both smaller and faster. Both axes are logarithmic.",
            )
        )
    if found:
        drawn.append(
            (
                results_plots.efficiency(found),
                "Time of the smallest system x its accelerators, over time x accelerators. A larger batch needs more "
                "samples, and precisions may differ within a line: the table below has both.",
            )
        )
    if rounds:
        drawn.append(
            (
                results_plots.over_rounds(rounds),
                "One sign per system; precision and software differ between rounds.",
            )
        )
    if answers:
        drawn.append(
            (
                results_plots.forest(answers),
                "Lines: 95 % intervals over systems. Hollow: not decided. The sentences below name what else differs.",
            )
        )
    drawn.append(
        (
            results_plots.bands(forecast.constants().bands),
            "Line: the median. Band: 90 % of the public runs of that batch size, of all rounds and systems.",
        )
    )
    return drawn

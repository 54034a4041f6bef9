"""The dossier as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from harness.check.log_directory import Checked
from harness.contract.files import replace_text
from harness.report import review as dossier
from harness.report import review_plots
from harness.report.canvas import DARK, PALETTE
from harness.report.review import Review

_TEMPLATES = Path(__file__).parent / "templates"


def write(checked: Sequence[Checked], page: Path) -> None:
    """Write the page about one or several submissions."""
    replace_text(page, render([dossier.of(one) for one in checked]))


def render(reviews: Sequence[Review]) -> str:
    """The page as text; everything that comes from logs is escaped."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("review.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        parts=[
            {
                "title": dossier.title(one),
                "facts": dossier.facts(one),
                "notes": [line.partition(" ") for line in one.notes],
                "figures": _figures(one, f"s{index}"),
                "sections": [(name, told(one)) for name, told in dossier.SECTIONS],
            }
            for index, one in enumerate(reviews)
        ],
    )


def _figures(review: Review, name: str) -> list[tuple[str, str]]:
    """Plots and captions; a plot without data is left out."""
    size = review.global_batch_size
    drawn: list[tuple[str | None, str]] = [
        (review_plots.timeline(review, name), "Striped: overlaps a run that started before it."),
        (
            review_plots.curves(review, name),
            f"One line per run. Grey: the range of 90 % of the public runs of batch size {size}.",
        ),
    ]
    drawn += [
        (
            review_plots.against(one, f"{name}-{index}"),
            f"{one.quantity.capitalize()}; public systems with {review.hardware}. Grey: their band; "
            f"pale: within a factor of {one.margin:g}.",
        )
        for index, one in enumerate(review.against)
    ]
    return [(figure, caption) for figure, caption in drawn if figure is not None]

"""The page of `project --html`: every projection beside the nearest public result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from harness.contract.files import replace_text
from harness.projection import estimate
from harness.projection.estimate import Projection

_REPORT = Path(__file__).parents[1] / "report" / "templates"  # the style of all pages
_PALETTE = (("#0072b2", "#3fa9f5"), ("#d55e00", "#ff8a3d"))  # light, dark


def write(rows: Sequence[Projection], page: Path) -> Path:
    """Write the page; returns its path."""
    replace_text(page, render(rows))
    return page


def render(rows: Sequence[Projection]) -> str:
    """The page as text."""
    folders = [Path(__file__).parent / "templates", _REPORT]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    longest = max(max(row.time_to_train_min, row.nearest.time_to_train_min) for row in rows)
    return environment.get_template("project.html.j2").render(
        palette=_PALETTE,
        rows=rows,
        longest=longest,
        parts=[(row, _parts(row)) for row in rows],
        public_text=estimate.public_text,
        notices=estimate.notices(rows),
    )


def _parts(row: Projection) -> list[tuple[str, float, float]]:
    """Name, milliseconds and share of every part of a step, largest first; parts of nothing are left out."""
    found = sorted(row.parts_s.items(), key=lambda part: -part[1])
    return [(name, 1000 * seconds, seconds / row.step_s) for name, seconds in found if seconds > 0]

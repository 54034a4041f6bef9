"""A qualification as a page, as JSON, and as a Markdown table for docs/measurements."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2

from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.contract import files, typed_json
from harness.qualify.answer import Qualification, Table, Verdict
from harness.qualify.bench import ATTEMPTS, PROCESSES

PAGE, DOCUMENT, TEXT = "qualify.html", "qualify.json", "qualify.md"
_ORDER = (Verdict.FAILED, Verdict.PROVEN, Verdict.OPEN)
_TITLES = {Verdict.FAILED: "Failed", Verdict.PROVEN: "Proven here", Verdict.OPEN: "Not proven here"}
_TEMPLATES = ROOT / "harness" / "report" / "templates"
# The colours of the reports. harness/report/canvas.py needs matplotlib, which a GPU node may not have.
_COLOURS = (("#0072b2", "#3fa9f5"), ("#d55e00", "#ff8a3d"), ("#009e73", "#22c79a"))


def prepare(home: Path) -> None:
    """Create the directory, and remove the files of an earlier qualification, which could be taken for this one's.

    Raises:
        UsageError: the directory holds other files.
    """
    if home.exists() and not home.is_dir():
        raise UsageError(f"--out: {home} is a file; name a directory")
    if home.is_dir() and any(home.iterdir()) and not (home / DOCUMENT).exists():
        raise UsageError(
            f"--out: found {home}, which holds other files; allowed: an empty or new directory, or one of an earlier "
            "qualification"
        )
    for name in (ATTEMPTS, PROCESSES):
        shutil.rmtree(home / name, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)


def write(home: Path, made: Qualification) -> None:
    """Replace the three files, each in one step."""
    files.replace_json(home / DOCUMENT, typed_json.to_plain(made))
    files.replace_text(home / TEXT, markdown(made))
    files.replace_text(home / PAGE, render(made))


def read(home: Path) -> Qualification | None:
    """The qualification; None where there is none, or one of another version."""
    return typed_json.read(Qualification, home / DOCUMENT)


def render(made: Qualification) -> str:
    """The page as text; everything is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("qualify.html.j2").render(
        made=made,
        palette=_COLOURS,
        groups=[(verdict, made.claims(verdict)) for verdict in _ORDER],
        titles=_TITLES,
        tables=_tables(made),
        seconds=_seconds,
    )


def markdown(made: Qualification) -> str:
    """Headline, machine, claims by verdict, and figures."""
    lines = [f"# {made.headline}", "", f"`./run.sh qualify --minutes {made.minutes:g}`, {made.began}.", ""]
    lines += _rows(("this machine", ""), [(fact.name, fact.value) for fact in made.facts])
    for verdict in _ORDER:
        rows = [
            (claim.claim, claim.found, "" if verdict is Verdict.PROVEN else claim.expected)
            for claim in made.claims(verdict)
        ]
        lines += _rows((_TITLES[verdict].lower(), "found", "expected"), rows)
    for table in _tables(made):
        lines += [table.title, "", *_rows(table.head, table.rows)]
    return "\n".join(lines)


def text(made: Qualification) -> list[str]:
    """Text for a terminal: unproven claims first, failed ones last."""
    lines = []
    for verdict in (Verdict.PROVEN, Verdict.OPEN, Verdict.FAILED):
        for claim in made.claims(verdict):
            expected = f"; expected: {claim.expected}" if claim.expected and verdict is Verdict.FAILED else ""
            fix = f"; {claim.fix}" if claim.fix and verdict is Verdict.FAILED else ""
            lines.append(f"{verdict.value:<10}  {claim.claim}: {claim.found}{expected}{fix}")
    return [*lines, made.headline]


def _tables(made: Qualification) -> list[Table]:
    return [table for answer in made.answers for table in answer.tables]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A Markdown table; empty without rows."""
    if not rows:
        return []
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]

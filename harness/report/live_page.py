"""The page of campaigns that are still training: the figures of `status`, and the loss curves so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.base.text import number
from harness.campaign import status_rows
from harness.campaign.campaign import Campaign
from harness.campaign.status_rows import CampaignRow, RunRow
from harness.contract import file_names
from harness.records.metrics import Evaluation, Tail
from harness.report.canvas import DARK, INK, PALETTE, canvas, colours, legend, svg

_TEMPLATES = Path(__file__).parent / "templates"
REFRESH_S = 10  # seconds until the browser loads the page again


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """The current state of one campaign.

    Args:
        curves: for each run the evaluations of its last attempt; empty without an attempt.
        target: log perplexity.
        report: whether its directory holds report.html.
    """

    row: CampaignRow
    curves: tuple[tuple[Evaluation, ...], ...]
    target: float
    report: bool


def read(made: Campaign) -> Live:
    """Read a campaign's files; writes nothing."""
    return Live(
        row=status_rows.describe(made),
        curves=tuple(_curve(made, run.index) for run in made.runs),
        target=made.config.evaluation.target_log_perplexity,
        report=(made.directory / file_names.REPORT).exists(),
    )


def _curve(made: Campaign, index: int) -> tuple[Evaluation, ...]:
    attempt = made.last_attempt(index)
    if attempt is None:
        return ()
    tail = Tail(attempt / file_names.METRICS)
    return tuple(tail.read())


def render(campaigns: Sequence[Live], place: str) -> str:
    """The page as text, newest job first; everything that comes from files is escaped.

    Args:
        place: the directory that is shown, for the title.
    """
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number)
    jobs: dict[str, list[Live]] = {}
    for one in campaigns:
        jobs.setdefault(one.row.job, []).append(one)
    return environment.get_template("live.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        place=place,
        refresh_s=REFRESH_S,
        jobs=[
            (stamp, arms, _plot(arms, f"j{index}"))
            for index, (stamp, arms) in enumerate(reversed(jobs.items()))
        ],
        state=_state,
    )


def _state(run: RunRow) -> str:
    return run.state if run.state != "promoted" else f"{run.outcome} ({run.reason})"


def _plot(arms: Sequence[Live], name: str) -> str | None:
    """Validation log perplexity against samples, one line per run; None before the first evaluation."""
    if not any(curve for one in arms for curve in one.curves):
        return None
    with canvas("Validation log perplexity, every run", "training sequences", "nats per token") as axes:
        for one, colour in zip(arms, colours(), strict=False):
            label: str | None = one.row.arm
            for curve in filter(None, one.curves):
                xs, ys = [point.samples for point in curve], [point.log_perplexity for point in curve]
                axes.plot(xs, ys, color=colour, alpha=0.75, lw=1.1, marker=".", ms=3.5, label=label)
                label = None
        target = arms[0].target
        axes.axhline(target, color=INK, lw=1, ls="--")
        axes.annotate(f"target {target:g}", (0.01, target), xycoords=axes.get_yaxis_transform(), va="bottom")
        axes.set_xlim(left=0)
        legend(axes, "upper right")
        return svg(axes, f"Loss curves of {', '.join(one.row.arm for one in arms)}; target {target:g}", name)

"""Shows the progress of a job on a terminal in one block, redrawn in place, with the remaining time.

Every line of it fits a terminal of 60 columns, so nothing is cut or wrapped; a run that has ended leaves one line above
the block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from harness.base.text import printable
from harness.campaign import forecast_text
from harness.campaign.forecast_text import View
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import Status
from harness.contract.config import Config
from harness.records.metrics import Tail, duration

_REDRAW_S = 0.25
_ALMOST = 0.99  # largest share of the bar before the run ends, because the crossing is only a prediction
# Columns of the block: a terminal of at least this width wraps no row. Wrapped rows could not be counted,
# because tmux narrows its pane a quarter of a second before this process learns of it.
_WIDEST = 60
_SHORTEST_BAR = 12  # columns, with the spaces around it
_LONGEST = 400  # characters of a warning that are shown


class Block:
    """The block: the job, its current run, and the progress of this run."""

    def __init__(
        self, console: Console, *, runs: int, done: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._clock = console, clock
        self._runs, self._done = runs, done
        self._began_s = self._run_began_s = clock()
        self._took_s: list[float] = []  # of the runs that ended by the rules since this block was created
        self._drawn_at_s = -math.inf
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=console,
            expand=True,
        )
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def start(self, name: str, attempt: Path, config: Config) -> None:
        self._name, self._attempt, self._config = name, attempt, config
        self._tail, self._run_began_s = Tail(attempt / file_names.METRICS), self._clock()
        self._task = self._bar.add_task(name, total=None, text="starting")
        self._draw()

    def poll(self) -> None:
        if self._clock() - self._drawn_at_s >= _REDRAW_S:
            self._draw()

    def end(self, outcome: str) -> None:
        self._tail.read()
        took_s = self._clock() - self._run_began_s
        if ended := outcome in ("success", "aborted"):
            self._done += 1
            self._took_s.append(took_s)
        self._bar.remove_task(self._task)
        self._show(Group(self._job_line(left_s=None)))
        line = f"{self._name}: {outcome}, {'' if ended else 'after '}{duration(took_s)}"
        parts = [f"{self._tail.samples:,} samples", *self._reached(None)[:1]] if ended else []
        self._console.print(Text(_fitting(line, parts, self._console.width)))

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        self._drawn_at_s = self._clock()
        self._tail.read()
        self._show(Group(*self._lines()))

    def _show(self, rows: Group) -> None:
        self._live.update(Constrain(rows, _WIDEST), refresh=True)

    def _lines(self) -> list[RenderableType]:
        tail, config = self._tail, self._config
        status = attempt_rows.read_status(self._attempt) or Status()
        speed = tail.samples_per_s
        view = forecast_text.look(
            tail.evaluations,
            config,
            samples=tail.samples,
            samples_per_s=speed,
            evaluation_s=tail.evaluation_s,
        )
        self._set_bar(view, status)
        details = [*self._reached(view), *([f"{speed:,.1f} samples/s"] if speed else [])]
        if used := forecast_text.memory(status.memory_bytes):
            details.append(used)
        forecast = [f"forecast: {forecast_text.way(view)}"] if tail.evaluations else []
        warnings = [f"warning: {one}" for one in tail.slow_now]
        warnings += [f"warning: {printable(text, _LONGEST)}" for text in tail.passed_over]
        texts = [*([", ".join(details)] if details else []), *forecast, *warnings]
        name = [] if self._set_bar(view, status) else [Text(self._name)]
        return [self._job_line(left_s=view.time_to_stop_s), *name, self._bar, *map(Text, texts)]

    def _set_bar(self, view: View, status: Status) -> bool:
        """Update the bar, and return whether the run's name has room beside it.

        The bar ends where the run is predicted to stop; without a prediction it only shows that something moves.
        """
        total = view.samples_at_stop
        share = min(self._tail.samples / total, _ALMOST) if total else None
        left = f", {duration(view.time_to_stop_s)} left" if view.time_to_stop_s is not None else ""
        text = f"{share:.0%}{left}" if share is not None else f"{self._tail.samples:,} samples"
        text = text if self._tail.samples else status.state
        beside = len(self._name) + len(text) + _SHORTEST_BAR <= min(self._console.width, _WIDEST)
        self._bar.update(
            self._task,
            description=self._name if beside else "",
            total=None if share is None else 1.0,
            completed=share or 0,
            text=text,
        )
        return beside

    def _reached(self, view: View | None) -> list[str]:
        if not self._tail.evaluations:
            return []
        last, target = self._tail.evaluations[-1], self._config.evaluation.target_log_perplexity
        band = view.band if view else None
        public = f", public runs {band.low:.3f}-{band.high:.3f}" if band else ""
        loss = f"log perplexity {last.log_perplexity:.3f} (target {target:g}{public})"
        return [loss, f"{self._tail.samples:,} samples"] if view else [loss]

    def _job_line(self, *, left_s: float | None) -> Text:
        number = min(self._done + 1, self._runs)
        elapsed_s = self._clock() - self._began_s
        parts = [f"job: run {number} of {self._runs}", f"{duration(elapsed_s)} elapsed"]
        if (job_left_s := self._job_left_s(left_s)) is not None:
            parts.append(f"about {duration(job_left_s)} left")
        return Text(", ".join(parts))

    def _job_left_s(self, run_left_s: float | None) -> float | None:
        """Predict the remaining time: each later run takes the mean of the ended runs, or else as long as this run."""
        to_come = max(self._runs - self._done - 1, 0)
        run_s = self._clock() - self._run_began_s
        if self._took_s:
            mean_s = sum(self._took_s) / len(self._took_s)
            return to_come * mean_s + (max(mean_s - run_s, 0.0) if run_left_s is None else run_left_s)
        return None if run_left_s is None else run_left_s + to_come * (run_s + run_left_s)


def _fitting(line: str, parts: Sequence[str], width: int) -> str:
    """Append as many of the parts as fit into one row; the line itself is never cut."""
    for part in parts:
        if len(line) + len(part) + 2 > width:
            break
        line = f"{line}, {part}"
    return line

"""The block on a terminal answers how long the job still takes, in every width from 60 columns on."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from harness.campaign.progress_block import Block
from harness.contract import attempt_rows
from harness.contract.attempt_rows import Status
from tests.harness.campaign.test_progress import benchmark, evaluation, train, typical
from tests.harness.scripted_harness import scripted_config

_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0  # every look at it is a second later, so that every poll draws
        return self.now


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40, legacy_windows=False)


def rows(console: Console) -> list[str]:
    """The rows that were drawn last."""
    said = console.file.getvalue().rpartition("\x1b[2K")[2]
    return [row.rstrip() for row in _CODES.sub("", said).splitlines() if row.strip()]


@pytest.fixture
def trained(tmp_path):
    """A run of the benchmark on the typical public curve, past half of the way."""
    seen = typical(81_000, 90_000, 99_000)
    lines = [evaluation(one.samples, one.log_perplexity) for one in seen]
    (tmp_path / "metrics.jsonl").write_text("".join([*lines, train(12_500, step_s=0.3)]))
    attempt_rows.write_status(tmp_path, Status(state="training", memory_bytes=80 * 2**30))
    return tmp_path


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", ["mxfp4 run 2", "fp8-te-tensorwise run 12 (attempt 2 of 3)"])
def test_nothing_is_cut_and_everything_is_said(trained, width, name):
    console = terminal(width)
    block = Block(console, runs=6, done=2, clock=Clock())
    block.start(name, trained, benchmark())
    block.poll()
    drawn = rows(console)
    text = " ".join(drawn)
    assert max(map(len, drawn)) <= width and "…" not in text
    assert "job: run 3 of 6, " in text and " elapsed, about " in text and name in text
    for said in (
        r"5\d%, \d+ \w+ left",
        r"target 3\.3, public runs",
        r"samples/s",
        r"80\.0 GiB",
        r"target near 180,798",
    ):
        assert re.search(said, text), said
    block.close()


def test_a_run_without_a_forecast_shows_its_samples_and_no_share(tmp_path):
    console = terminal(80)
    block = Block(console, runs=1, done=0, clock=Clock())
    block.start("mxfp4 run 0", tmp_path, scripted_config(tmp_path))
    assert "starting" in " ".join(rows(console))
    (tmp_path / "metrics.jsonl").write_text(train(1))
    block.poll()
    text = " ".join(rows(console))
    assert "8 samples" in text and "%" not in text and "left" not in text
    block.close()


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        ("success", "mxfp4 run 0: success, "),
        (
            "no result (lost_rank: rank 1 was killed by SIGKILL); log /x/stdout.log",
            "rank 1 was killed by SIGKILL",
        ),
    ],
)
def test_a_run_that_ended_leaves_what_happened(trained, outcome, line):
    console = terminal(120)
    block = Block(console, runs=2, done=0, clock=Clock())
    block.start("mxfp4 run 0", trained, benchmark())
    block.end(outcome)
    block.close()
    left = _CODES.sub("", console.file.getvalue())
    assert line in left and ("log /x/stdout.log" in left or outcome == "success")
    assert rows(console) == [] or not any("forecast" in row for row in rows(console)), "the block is gone"


def test_a_run_that_ended_tells_how_long_the_others_take(trained):
    console = terminal(80)
    block = Block(console, runs=3, done=0, clock=Clock())
    block.start("mxfp4 run 0", trained, benchmark())
    block.end("success")
    (trained / "metrics.jsonl").unlink()
    block.start("fp8 run 0", trained, benchmark())
    assert re.search(r"job: run 2 of 3, \d+ s elapsed, about \d+ s left", " ".join(rows(console)))
    block.close()


def test_a_terminal_of_60_columns_wraps_no_row_that_was_drawn_in_a_wider_one(trained):
    """Then rich, which goes up over as many rows as it drew, leaves none of them when a pane is made narrower."""
    console = terminal(200)
    block = Block(console, runs=3, done=0, clock=Clock())
    block.start("mxfp4 run 0", trained, benchmark())
    block.poll()
    assert max(map(len, _CODES.sub("", console.file.getvalue()).splitlines())) == 60
    console.width, drawn = 60, len(rows(console))
    console.file.truncate(0)
    block.poll()
    assert console.file.getvalue().count("\x1b[1A") == drawn - 1
    block.close()


def test_looking_often_costs_little(trained):
    block = Block(terminal(80), runs=3, done=0, clock=lambda: 100.0)
    block.start("mxfp4 run 0", trained, benchmark())
    drawn = []
    block._draw = lambda: drawn.append(1)
    for _ in range(50):
        block.poll()
    assert drawn == [], "the clock stands still: nothing is drawn again"
    block.close()

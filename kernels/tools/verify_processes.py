"""Runs `kernels verify` in several processes: most of its time is compilation, or Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from kernels.tools.verify_twins import Outcome


def run(*, device: str, seeds: int, processes: int) -> list[Outcome]:
    """Compare every implementation with the specification; one outcome for each.

    Args:
        device: "cpu" or "cuda".
        processes: that share the cases.
    """
    command = [sys.executable, "-m", "kernels.tools.verify_slices", "--device", device, "--seeds", str(seeds)]
    started = [
        subprocess.Popen(
            [*command, "--slice", str(place), "--of", str(processes)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for place in range(processes)
    ]  # fmt: skip
    ended = [(*process.communicate(), process.returncode) for process in started]
    return joined(_rows(ended))


def _rows(ended: Sequence[tuple[str, str, int]]) -> Iterator[dict[str, Any]]:
    """The rows of all processes, and one for each process that failed."""
    for out, err, code in ended:
        yield from (json.loads(line) for line in out.splitlines())
        if code:
            words = err.strip().splitlines() or [f"exit status {code}"]
            lost = {"cases": 0, "elements": 0, "moved": 0, "what": "a process that compares"}
            yield {"twin": "verify", "difference": words[-1][:300], **lost}


def joined(rows: Iterable[dict[str, Any]]) -> list[Outcome]:
    """Sum the rows of each implementation; of several differences, the first is kept."""
    found: dict[str, Outcome] = {}
    for row in rows:
        whole = found.setdefault(row["twin"], Outcome(row["twin"], 0, 0, 0, None))
        difference = None if row["difference"] is None else f"{row['what']}: {row['difference']}"
        found[row["twin"]] = replace(
            whole,
            cases=whole.cases + row["cases"],
            elements=whole.elements + row["elements"],
            moved=whole.moved + row["moved"],
            difference=whole.difference or difference,
        )
    return list(found.values())

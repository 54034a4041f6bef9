"""Writes a run's files beside the log: metrics.jsonl, status.json, proof.json, diagnostics.jsonl. One rank writes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from harness.contract import attempt_rows, diagnostics_rows, file_names, metrics_rows
from harness.contract.attempt_rows import EngineProbe, Proof, Status
from harness.contract.diagnostics_rows import Look
from harness.contract.ending import Ending
from harness.contract.metrics_rows import (
    CheckpointRow,
    EngineRow,
    EvaluationRow,
    MetricsRow,
    StragglerRow,
    TrainRow,
)
from submission.status_writer import StatusWriter

_STATUS_EVERY_S = 0.5
_RESERVE_BYTES = 1 << 18  # room for the end of the log, the last status, and torchrun's report on every rank


class Step(Protocol):
    """The figures of an optimizer step. If `is_late`, reading one waits for the accelerator."""

    @property
    def is_late(self) -> bool: ...
    @property
    def loss(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def gradient_norm(self) -> float: ...
    @property
    def step_s(self) -> float: ...


class Record:
    """Writer of an attempt's side files; on other ranks every call does nothing.

    Args:
        directory: the attempt's directory.
        writes: True only on rank 0.
        caches_cleared: whether the data files were dropped from the page cache before this run.
        max_steps: the step limit, written to status.json for progress displays.
    """

    def __init__(self, directory: Path, *, writes: bool, caches_cleared: bool, max_steps: int):
        self.caches_cleared = caches_cleared
        self._directory, self._writes, self._max_steps = directory, writes, max_steps
        self.lock = threading.RLock()  # held while a file is written, the log included
        self._step, self._written_at = 0, 0.0
        self._status_file = StatusWriter(self._write_status)
        if writes:
            _reserve_room(directory / file_names.RESERVE)
        self._metrics = (directory / file_names.METRICS).open("x", encoding="utf-8") if writes else None

    def step(self, step: int, samples: int, result: Step) -> None:
        self._step = step
        row = TrainRow(
            step=step,
            samples=samples,
            loss=result.loss,
            lr=result.learning_rate,
            gradient_norm=result.gradient_norm,
            step_s=round(result.step_s, 6),
        )
        self._line(row)
        if self._writes and time.monotonic() - self._written_at > _STATUS_EVERY_S:
            self._written_at = time.monotonic()
            self._status_file.later(self._now("training", samples))

    def evaluation(self, step: int, samples: int, log_perplexity: float, elapsed_s: float) -> None:
        row = EvaluationRow(step=step, samples=samples, loss=log_perplexity, elapsed_s=round(elapsed_s, 3))
        self._line(row)

    def checkpoints(self, directory: str) -> Path:
        """Directory of this run's checkpoints, in its attempt or in the configured `directory`."""
        attempt = self._directory.resolve()
        if not directory:
            return attempt / file_names.CHECKPOINTS
        return Path(directory).expanduser() / attempt.parent.parent.name / attempt.parent.name

    def checkpoint(
        self,
        what: str,
        directory: Path,
        *,
        step: int,
        samples: int,
        seconds: float,
        size_bytes: int | None = None,
    ) -> None:
        """Write one line to stdout and one to metrics.jsonl; `what`: "saved" or "resumed from"."""
        row = CheckpointRow(
            what=what,
            step=step,
            samples=samples,
            seconds=round(seconds, 3),
            bytes=size_bytes,
            directory=str(directory),
        )
        self._line(row)
        if self._writes:
            size = f", {size_bytes / 1e6:,.1f} MB" if size_bytes is not None else ""
            print(f"checkpoint {what} {directory}: step {step}, {samples} samples, {seconds:.1f} s{size}")

    def indexed(self, seconds: float) -> None:
        """Print the time of indexing, because one reading of the rules counts it as run time: docs/data.md."""
        if self._writes:
            print(f"index of the data set built before run_start in {seconds:.1f} s", flush=True)

    def diagnosis(self, step: int, samples: int, rows: Sequence[diagnostics_rows.Row]) -> None:
        if self._writes:
            line = diagnostics_rows.to_line(Look(step=step, samples=samples, rows=tuple(rows)))
            with (self._directory / file_names.DIAGNOSTICS).open("a", encoding="utf-8") as file:
                file.write(line)

    def stragglers(self, rows: Sequence[StragglerRow], *, step: int, samples: int) -> None:
        """Write the ranks that were slow in more than one evaluation in a row."""
        for row in rows:
            self._line(dataclasses.replace(row, step=step, samples=samples))

    def passed_over(self, probes: Sequence[EngineProbe]) -> None:
        """Write a line for every engine that failed its test; progress displays warn of it."""
        for probe in probes:
            if probe.failure:
                self._line(EngineRow(engine=probe.engine, what=probe.what, failure=probe.failure))

    def take_over(self) -> None:
        """Let this rank write, because rank 0 is lost."""
        self._writes = True

    def make_room(self) -> None:
        """Free the disk space reserved for the end of the run. After this, write only the end of the run."""
        if self._writes:
            with contextlib.suppress(OSError):
                (self._directory / file_names.RESERVE).unlink(missing_ok=True)

    def state(self, state: str, samples: int = 0) -> None:
        self._status(self._now(state, samples))

    def ended(self, ending: Ending, samples: int) -> None:
        self.make_room()
        self._status(self._now(attempt_rows.ENDED, samples).ended(ending))
        if self._metrics:
            self._metrics.close()

    def proof(self, proof: Proof) -> None:
        if self._writes:
            with self.lock:
                attempt_rows.write_proof(self._directory, proof)

    def _line(self, row: MetricsRow) -> None:
        if self._metrics:
            with self.lock:
                self._metrics.write(metrics_rows.to_line(row))
                self._metrics.flush()

    def _now(self, state: str, samples: int) -> Status:
        return Status(
            state=state,
            samples=samples,
            step=self._step,
            max_steps=self._max_steps,
            memory_bytes=_memory_bytes(),
        )

    def _status(self, status: Status) -> None:
        self._written_at = time.monotonic()
        with self.lock:
            self._status_file.now(status)

    def _write_status(self, status: Status) -> None:
        if self._writes:
            attempt_rows.write_status(self._directory, status)


def _reserve_room(path: Path) -> None:
    """Reserve room on the disk with a file that is removed at the end, so that the last lines fit on a full disk."""
    try:
        with path.open("wb") as file:
            # random, because a compressing file system would reserve no room for zeros
            file.write(os.urandom(_RESERVE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _memory_bytes() -> int:
    """Peak memory of this process: on the accelerator where there is one, else resident (Linux counts in KiB)."""
    import torch  # not at the top: some processes use this module without torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

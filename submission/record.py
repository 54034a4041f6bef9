"""What a run leaves beside its log: metrics.jsonl, status.json, proof.json. One rank writes."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from submission.watchdog.interface import Ending

_STATUS_EVERY_S = 0.5


class Record:
    """Writer of an attempt's side files; on other ranks every call does nothing.

    Args:
        directory: the attempt's directory.
        writes: True on rank 0 alone.
        caches_cleared: whether the data files were dropped from the page cache before this run.
        max_steps: the step limit, for whoever shows progress.
    """

    def __init__(self, directory: Path, *, writes: bool, caches_cleared: bool, max_steps: int):
        self.caches_cleared = caches_cleared
        self._directory, self._writes, self._max_steps = directory, writes, max_steps
        self.lock = threading.RLock()  # held while a file is written, the log included
        self._step, self._written_at = 0, 0.0
        self._metrics = (directory / "metrics.jsonl").open("x", encoding="utf-8") if writes else None

    def step(self, step: int, samples: int, result: Any, *, step_s: float) -> None:
        self._step = step
        rate = result.learning_rate
        row = {
            "step": step,
            "samples": samples,
            "loss": result.loss,
            "lr": rate,
            "gradient_norm": result.gradient_norm,
            "step_s": round(step_s, 6),
        }
        self._line({"kind": "train", **row})
        if time.monotonic() - self._written_at > _STATUS_EVERY_S:
            self.state("training", samples)

    def evaluation(self, step: int, samples: int, log_perplexity: float, elapsed_s: float) -> None:
        row = {"step": step, "samples": samples, "loss": log_perplexity, "elapsed_s": round(elapsed_s, 3)}
        self._line({"kind": "eval", **row})

    def checkpoints(self, directory: str) -> Path:
        """Where this run's checkpoints go: into its attempt, or below a configured directory, apart from other runs."""
        attempt = self._directory.resolve()
        if not directory:
            return attempt / "checkpoints"
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
        """One line on stdout and one of metrics.jsonl; `what`: saved | resumed from."""
        row = {"step": step, "samples": samples, "seconds": round(seconds, 3), "bytes": size_bytes}
        self._line({"kind": "checkpoint", "what": what, **row, "directory": str(directory)})
        if self._writes:
            size = f", {size_bytes / 1e6:,.1f} MB" if size_bytes is not None else ""
            print(f"checkpoint {what} {directory}: step {step}, {samples} samples, {seconds:.1f} s{size}")

    def diagnosis(self, step: int, samples: int, rows: list[dict[str, Any]]) -> None:
        if self._writes:
            with (self._directory / "diagnostics.jsonl").open("a", encoding="utf-8") as file:
                content = {"step": step, "samples": samples, "rows": rows}
                file.write(json.dumps(content, allow_nan=False) + "\n")

    def stragglers(self, step: int, samples: int, rows: list[dict[str, Any]]) -> None:
        """Ranks that have been slow for more than one evaluation: `rank`, `ratio` to the median, `pass_s`."""
        for row in rows:
            self._line({"kind": "straggler", "step": step, "samples": samples, **row})

    def take_over(self) -> None:
        """Write in the place of rank 0, which is gone."""
        self._writes = True

    def state(self, state: str, samples: int = 0) -> None:
        self._status({"state": state, "samples": samples, "outcome": None, "reason": None, "message": None})

    def ended(self, ending: Ending, samples: int) -> None:
        result = {"outcome": ending.outcome, "reason": ending.reason, "message": ending.message}
        self._status({"state": "ended", "samples": samples, **result})
        if self._metrics:
            self._metrics.close()

    def proof(self, content: dict[str, Any]) -> None:
        self._replace("proof.json", content)

    def _line(self, row: dict[str, Any]) -> None:
        with self.lock:
            self._write_line(row)

    def _write_line(self, row: dict[str, Any]) -> None:
        if self._metrics:
            self._metrics.write(json.dumps({key: _json_number(value) for key, value in row.items()}) + "\n")
            self._metrics.flush()

    def _status(self, content: dict[str, Any]) -> None:
        self._written_at = time.monotonic()
        place = {"step": self._step, "max_steps": self._max_steps, "memory_bytes": _memory_bytes()}
        self._replace("status.json", {**content, **place})

    def _replace(self, name: str, content: dict[str, Any]) -> None:
        """A reader never sees half a file."""
        if not self._writes:
            return
        with self.lock:
            self._write(name, content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        part = self._directory / f".{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._directory / name)


def _json_number(value: Any) -> Any:
    """NaN and infinity have no JSON; their names survive as text."""
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return str(value)
    return value


def _memory_bytes() -> int:
    """Peak of this process: of the accelerator's memory where there is one, else resident (Linux counts KiB)."""
    import torch  # here: a script in Megatron's place is imported by processes that have no use for it

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Runs a few steps of the real executor and measures loss, times, memory, launches, waits and the proof.

torchrun .. -m submission.tools.step_trial --attempt DIR --steps N reads DIR/config.json as a training does. It rewrites
DIR/trial.json (harness/contract/qualify_rows.py) after every measurement, so that a trial that is killed loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.contract import attempt_rows, file_names
from harness.contract.environment import Ranks
from harness.contract.qualify_rows import TrialAnswer, write_trial
from submission import device

if TYPE_CHECKING:
    from submission.executor import MegatronExecutor

_STEP = "the step"  # its name in the profiler's trace
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of the trace
_CALLS = ("cuda_runtime", "cuda_driver")  # the same names on ROCm
_WORKERS_S = (
    2.0  # time for the loader's workers to start, which a step of only two layers is too short to hide
)
_PACKAGES = ("submission", "kernels", "megatron")


class Trial:
    """The measurements so far; rank 0 writes them to trial.json."""

    def __init__(self, attempt: Path, *, writes: bool):
        self._attempt, self._writes, self.answer = attempt, writes, TrialAnswer()

    def tell(self, **found: Any) -> None:
        self.answer = replace(self.answer, **found)
        if self._writes:
            write_trial(self._attempt, self.answer)

    def attempt_to(self, stage: str, act: Callable[[], Mapping[str, Any]]) -> None:
        """Run one stage and record its result; an error is recorded and does not end the trial."""
        self.tell(stage=stage)
        try:
            self.tell(**act())
        except Exception as error:
            words = str(error).strip().splitlines() or ["no message"]
            text = f"{stage}: {type(error).__name__}: {words[0]} ({_place(error)})"[:400]
            self.tell(trouble=(*self.answer.trouble, text))


def run(attempt: Path, steps: int) -> None:
    """Build, warm up, train and evaluate; then profile the step and find its waits."""
    told, ranks = attempt_rows.read_config(attempt / file_names.CONFIG), Ranks.from_environment()
    trial = Trial(attempt, writes=ranks.rank == 0)
    trial.tell(ranks=ranks.world_size, stage="importing")
    device.install()
    from submission.executor import MegatronExecutor

    cache = attempt / file_names.INDEX_CACHE
    executor = MegatronExecutor(told.config, arm=told.run.arm, seed=told.run.seed, ranks=ranks, cache=cache)
    trial.tell(stage="building")
    _, seconds = _timed(executor.build)
    trial.tell(build_s=seconds, probes=tuple(executor.probes()), stage="warming up", **_names())
    _, seconds = _timed(executor.warm_up)
    trial.tell(warm_up_s=seconds, stage="indexing")
    executor.index_data()
    executor.barrier()
    executor.open_data()
    if not device.on_cpu():
        time.sleep(_WORKERS_S)
    trial.tell(stage="training")
    for _ in range(steps):
        result, seconds = _timed(executor.train_step)
        answer = trial.answer
        trial.tell(loss=(*answer.loss, result.loss), step_s=(*answer.step_s, seconds))
    trial.tell(stage="evaluating", **_memory())
    loss, seconds = _timed(executor.evaluate)
    trial.tell(evaluation_loss=loss, evaluation_s=seconds, **_memory())
    if not device.on_cpu():
        trial.attempt_to("profiling", lambda: _profiled(executor))
        trial.attempt_to("finding waits", lambda: _sites(executor))
    trial.attempt_to("proving", lambda: _proof(executor))
    if not device.on_cpu():  # last, because an error leaves ranks in the middle of a step
        trial.attempt_to("waiting is an error", lambda: _without_waits(executor))
    trial.tell(stage="done")
    if ranks.rank == 0:
        shutil.rmtree(cache, ignore_errors=True)
    if trial.answer.sync_failure:
        # other ranks may wait for this one in a collective; exit, so that torchrun ends them
        raise SystemExit(1)
    executor.close()


def _names() -> dict[str, str]:
    from kernels import architectures

    if device.on_cpu():
        return {"device": "CPU", "platform": "cpu"}
    here = torch.device("cuda", torch.cuda.current_device())
    return {"device": torch.cuda.get_device_name(here), "platform": architectures.of(here).name}


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """The result of a call, and the seconds until the accelerator has finished its work."""
    began = time.perf_counter()
    result = act()
    if not device.on_cpu():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def _memory() -> dict[str, int]:
    if device.on_cpu():
        return {}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
    }


def _profiled(executor: MegatronExecutor) -> dict[str, Any]:
    """Run one step under torch's profiler, which records what ran on the accelerator."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        with record_function(_STEP):
            executor.train_step()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        seen.export_chrome_trace(str(path))
        return counted(json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"])


def counted(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Work on the accelerator by kind, calls that waited for it inside the step, and the busiest kernels.

    Args:
        events: of a Chrome trace by torch's profiler.

    Raises:
        ValueError: the trace holds no work of an accelerator.
    """
    calls = Counter(event["cat"] for event in events if event.get("cat") in _ON_GPU)
    if not calls:
        raise ValueError("the profiler saw no work of the GPU (CUPTI or roctracer is missing, or in use)")
    spans = [
        event for event in events if event.get("name") == _STEP and event.get("cat") == "user_annotation"
    ]
    begins = min((event["ts"] for event in spans), default=0)
    ends = max((event["ts"] + event["dur"] for event in spans), default=float("inf"))
    waits = Counter(
        event["name"]
        for event in events
        if event.get("cat") in _CALLS and "Synchronize" in event["name"] and begins <= event["ts"] <= ends
    )
    kernels = Counter(event["name"][:60] for event in events if event.get("cat") == "kernel")
    return {"calls": dict(calls), "waits": dict(waits), "busiest": dict(kernels.most_common(8))}


def _sites(executor: MegatronExecutor) -> dict[str, Any]:
    """Run one step in which torch warns of every synchronisation; return the lines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _sync_debug_mode("warn"):
            executor.train_step()
    sites = Counter(
        f"{_short(one.filename)}:{one.lineno}" for one in caught if "synchroniz" in str(one.message).lower()
    )
    return {"sync_sites": dict(sites)}


def _without_waits(executor: MegatronExecutor) -> dict[str, Any]:
    """One step in which waiting for the GPU is an error."""
    try:
        with _sync_debug_mode("error"):
            executor.train_step()
    except RuntimeError as error:
        words = str(error).strip().splitlines()
        return {"sync_failure": f"{_place(error)}: {words[0] if words else 'no message'}"[:400]}
    return {"sync_failure": ""}


@contextlib.contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _proof(executor: MegatronExecutor) -> dict[str, Any]:
    proof = executor.proof()
    gemms: dict[str, set[str]] = {}
    for row in proof.gemms:
        gemms.setdefault(row.gemm, set()).add(f"{row.backend} ({row.engine})")
    ways = {gemm: " and ".join(sorted(found)) for gemm, found in gemms.items()}
    return {
        "gemms": ways,
        "attention": proof.attention or "",
        "proven": proof.verified,
        "graphs": proof.graphs,
    }


def _place(error: Exception) -> str:
    """The innermost line of this project or of Megatron in an error's traceback."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if _short(f.filename).startswith(_PACKAGES)
    ]
    mine = [f for f in frames if not f.filename.endswith("step_trial.py")]
    return f"{_short(mine[-1].filename)}:{mine[-1].lineno}" if mine else "outside this project and Megatron"


def _short(filename: str) -> str:
    """The path from the package's name on."""
    parts = Path(filename).parts
    start = next((place for place, part in enumerate(parts) if part in _PACKAGES), -2)
    return "/".join(parts[start:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="submission.tools.step_trial")
    parser.add_argument("--attempt", type=Path, required=True, help=f"directory with {file_names.CONFIG}")
    parser.add_argument("--steps", type=int, default=6, help="timed ones")
    arguments = parser.parse_args()
    device.die_with_parent()
    run(arguments.attempt, arguments.steps)


if __name__ == "__main__":
    main()

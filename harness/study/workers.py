"""Trains the runs of a study at the same time.

Each worker trains some of the cells, one rank per run, on its own core or GPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from harness.base import stderr
from harness.base.errors import EXIT_INTERRUPTED, EXIT_OK, TrainingFailed, UserError
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.campaign import campaign
from harness.campaign import process as campaign_process
from harness.campaign.process import Interrupted
from harness.campaign.runner import run_job
from harness.campaign.store import Job
from harness.contract import environment, file_names
from harness.contract.config import Config
from harness.machine import child_process
from harness.machine.accelerators import accelerators

_POLL_S = 0.5
_CLOSING_S = 60.0  # a worker first ends its training, which closes its log


def number(config: Config, asked: int | None) -> int:
    """Number of workers: as requested, otherwise one per GPU or core.

    The benchmark itself needs a whole node per run.
    """
    if asked is not None:
        return max(1, min(asked, len(config.runs.arms)))
    if not config.benchmark.is_scaled:
        return 1
    return min(accelerators() or environment.cores(), len(config.runs.arms))


def fit(config: Config, workers: int) -> Config:
    """The configuration of runs that share a machine: one rank each, with its share of the cores."""
    if workers == 1:
        return config
    share = max(1, environment.cores() // workers)
    parallel = dataclasses.replace(config.parallelism, gpus_per_node=1, threads_per_rank=share)
    return dataclasses.replace(config, parallelism=parallel)


def run(job: Job, workers: int) -> Job:
    """Train the runs that a study lacks.

    Raises:
        TrainingFailed: a worker failed; the others have finished their cells.
        Interrupted: SIGINT or SIGTERM arrived; every worker has ended.
    """
    if workers == 1 or job.finished:
        return run_job(job)
    with campaign_process.Signals() as signals, _started(job, workers) as processes, _progress(job) as show:
        while any(process.poll() is None for process in processes) and not signals.count:
            time.sleep(_POLL_S)
            show()
    if signals.count:
        raise Interrupted("interrupted")
    _require_success(job, processes)
    return dataclasses.replace(job, campaigns=tuple(campaign.load(arm.directory) for arm in job.campaigns))


def _log(job: Job, worker: int) -> Path:
    return job.directory / f"worker_{worker}.log"


@contextlib.contextmanager
def _started(job: Job, workers: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the workers; on exit all of them are ended."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for worker in range(workers):
            directories = [str(arm.directory) for arm in job.campaigns[worker::workers]]
            with _log(job, worker).open("ab") as log:
                processes.append(_start(directories, worker, log.fileno()))
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(_CLOSING_S)
            except subprocess.TimeoutExpired:
                process.kill()


def command(directories: Sequence[str]) -> list[str]:
    """Command line of a worker that trains the campaigns in these directories."""
    return [sys.executable, "-m", "harness.study.workers", *directories]


def _start(directories: Sequence[str], worker: int, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(directories),
        cwd=ROOT,
        env=environment.worker_environment(worker, accelerators()),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # so that Ctrl-C reaches only this process
        preexec_fn=child_process.die_with_this_process(),
    )


@contextlib.contextmanager
def _progress(job: Job) -> Iterator[Callable[[], None]]:
    """Show how many runs are done: a bar on a terminal, otherwise a line per run."""
    total = sum(len(arm.runs) for arm in job.campaigns)
    console = stderr.console()
    columns: list[ProgressColumn] = [
        TextColumn("study"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    columns += [TextColumn("{task.fields[left]}")]
    began, first = time.monotonic(), _done(job)
    seen = first
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=first, left="")

        def show() -> None:
            nonlocal seen
            done = _done(job)
            if done == seen:
                return
            seen = done
            left_s = (time.monotonic() - began) / (done - first) * (total - done)
            left = f"about {left_s / 60:.0f} min left"
            bar.update(task, completed=done, left=left)
            if not console.is_terminal:
                tell(f"study: {done} of {total} runs, {left}")

        yield show


def _done(job: Job) -> int:
    return sum(len(list(arm.directory.glob(file_names.RESULTS))) for arm in job.campaigns)


def _require_success(job: Job, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker, process in enumerate(processes):
        if process.returncode == EXIT_INTERRUPTED:
            raise Interrupted(f"worker {worker} was stopped by a signal")
        if process.returncode != EXIT_OK:
            lines = _log(job, worker).read_text(encoding="utf-8", errors="replace").splitlines()
            raise TrainingFailed(
                f"worker {worker}: {lines[-1] if lines else 'no output'} (all of it in {_log(job, worker)})"
            )


def main(directories: Sequence[str]) -> int:
    """Run one worker, for the campaigns in these directories."""
    campaigns = tuple(campaign.load(Path(directory)) for directory in directories)
    try:
        run_job(Job(stamp=campaigns[0].job, campaigns=campaigns))
    except UserError as error:
        tell(error)
        return error.exit_code
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs a job to its end: trains every run of every arm, each in a new attempt, and promotes each result once."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Protocol

from harness.base.errors import EnvironmentFailure, TrainingFailed, UsageError
from harness.campaign import campaign, close_attempt, nodes, process, torchrun
from harness.campaign.campaign import Campaign
from harness.campaign.nodes import Beacon
from harness.campaign.process import Interrupted
from harness.campaign.progress import Progress, for_this_terminal
from harness.campaign.store import Job
from harness.contract import file_names
from harness.contract.config import Config
from harness.contract.ending import Ending, Reason, is_disk_full
from harness.machine import gpu_errors
from harness.machine.power import recorder
from harness.machine.power.recorder import Meter
from harness.records import attempt, lock

_ATTEMPTS = 3  # a training that fails three times in a row does not fail by chance
_RESUME = "./run.sh resume continues"

Command = Callable[[Config, Path], list[str]]


class Trainer(Protocol):
    """Trains one attempt and returns the exit status."""

    def __call__(self, made: Campaign, directory: Path) -> int: ...


def run_job(
    job: Job, *, command: Command = torchrun.command, wait_s: float = lock.ORPHANS_DIE_WITHIN_S
) -> Job:
    """Train the runs that a job lacks. The arms alternate, so that a slow drift of the machine affects all of them.

    Args:
        command: builds the training's command line; tests replace Megatron by a script.
        wait_s: how long to wait for the processes of a killed harness.

    Raises:
        UsageError: another process trains this job, or this is not its first node.
        TrainingFailed: a run failed three times.
        EnvironmentFailure: the disk is full.
        Interrupted: SIGINT or SIGTERM.
    """
    here = nodes.placed(job.campaigns[0].config)
    _require_first_node(here)
    meter = recorder.prepare(here)
    directories = [arm.directory for arm in job.campaigns]
    with (
        _words_for_the_user(job),
        lock.held(directories, wait_s=wait_s) as locks,
        _progress(job) as progress,
        nodes.lit(here, job.directory.parent) as beacon,
    ):
        arms = {arm.arm: campaign.settle(_placed(campaign.load(arm.directory))) for arm in job.campaigns}
        for index in range(max(len(arm.runs) for arm in arms.values())):
            for name, arm in arms.items():
                if index < len(arm.runs) and arm.runs[index].state != "promoted":
                    trainer = _trainer(command, locks, progress, beacon, meter)
                    arms[name] = _finish_run(arm, index, trainer, progress)
    return dataclasses.replace(job, campaigns=tuple(arms.values()))


def _placed(made: Campaign) -> Campaign:
    return dataclasses.replace(made, config=nodes.placed(made.config))


def _trainer(
    command: Command, locks: Mapping[Path, int], progress: Progress, beacon: Beacon, meter: Meter
) -> Trainer:
    def watch() -> None:
        progress.poll()
        beacon.beat()

    def train(made: Campaign, directory: Path) -> int:
        with beacon.training(directory), meter.running(directory):
            return process.train(
                command(made.config, directory),
                campaign=made.directory,
                attempt=directory,
                environment=torchrun.training_environment(made.config),
                lock_descriptor=locks[made.directory],
                watch=watch,
            )

    return train


def _finish_run(made: Campaign, index: int, train: Trainer, progress: Progress) -> Campaign:
    """Start attempts at one run until one ends by the rules."""
    for failures in range(_ATTEMPTS):
        again = f" (attempt {failures + 1} of {_ATTEMPTS})" if failures else ""
        made, directory = campaign.begin_attempt(made, made.runs[index])
        progress.start(f"{made.arm} run {index}{again}", directory, made.own_config)
        began_s, code = gpu_errors.now_s(), None
        try:
            code = train(made, directory)
        finally:  # an interrupted run may have ended by the rules just before the signal
            close_attempt.close(directory, code=code)
            made = campaign.settle(made)
            progress.end(made.runs[index].outcome or _no_result(directory))
        if made.runs[index].state == "promoted":
            return made
        close_attempt.add_evidence(directory, gpu_errors.found(since_s=began_s))
        last = attempt.ending(directory)
        if last is not None and last.reason is Reason.DISK_FULL:
            raise EnvironmentFailure(f"{_where_full(directory, last)}; free disk space, then {_RESUME}")
        if last is not None and last.reason is Reason.INTERRUPTED:
            raise Interrupted("the training was stopped by a signal")
    campaign.save(made.with_run(dataclasses.replace(made.runs[index], state="failed")))
    raise TrainingFailed(_failure(made, index, directory, code))


def _no_result(directory: Path) -> str:
    """Why an attempt has no result, and where to read more."""
    last = attempt.ending(directory)
    why = f" ({last.reason}: {last.message or 'no message'})" if last is not None else ""
    return f"no result{why}; log {directory / file_names.STDOUT}"


def _where_full(directory: Path, last: Ending) -> str:
    """The directory and the training's message, which may name the file that could not be written."""
    said = f" ({last.message})" if last.message else ""
    return f"{directory}: no space left on device{said}"


def _failure(made: Campaign, index: int, directory: Path, code: int | None) -> str:
    last = attempt.ending(directory)
    why = f"exit status {code}"
    if last is not None:
        why = last.message or last.reason
    head = f"{made.arm} run {index} failed {_ATTEMPTS} times: {why}; fix the cause, then {_RESUME}"
    return f"{head}\nlast lines of {directory / file_names.STDOUT}:\n{attempt.last_words(directory)}"


def _require_first_node(config: Config) -> None:
    rank = config.launch.node_rank
    if rank:
        words = "only the first node runs this command; start ./run.sh follow on the others"
        raise UsageError(f"launch.node_rank: found {rank}; allowed: 0, {words}")


@contextlib.contextmanager
def _progress(job: Job) -> Iterator[Progress]:
    runs = [run.state == "promoted" for arm in job.campaigns for run in arm.runs]
    progress = for_this_terminal(runs=len(runs), done=sum(runs))
    try:
        yield progress
    finally:
        progress.close()


@contextlib.contextmanager
def _words_for_the_user(job: Job) -> Iterator[None]:
    """Turn an interruption or a full disk, wherever it occurs, into an error of one line."""
    # handlers for the time between runs; during a run those of process.train apply
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        raise Interrupted(f"{str(stop) or 'interrupted'}; {_RESUME} job {job.stamp}") from None
    except OSError as error:
        if not is_disk_full(error):
            raise
        where = error.filename or job.directory
        raise EnvironmentFailure(
            f"{where}: no space left on device; free disk space, then {_RESUME}"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt

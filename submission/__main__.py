"""Entry point of one rank: `torchrun .. -m submission --attempt DIR`. Short: child processes import it again."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submission.record import Record


def main() -> int:
    parser = argparse.ArgumentParser(prog="submission")
    parser.add_argument("--attempt", type=Path, required=True, help="directory with the files of an attempt")
    attempt: Path = parser.parse_args().attempt
    return exit_status(lambda: _train(attempt))


def exit_status(training: Callable[[], int]) -> int:
    """The exit status of a training. A full disk has its own, because the reason may then not fit on the disk."""
    from harness.contract.ending import EXIT_CODES, Reason, is_disk_full

    try:
        return training()
    except Exception as error:
        if not is_disk_full(error):
            raise
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return EXIT_CODES[Reason.DISK_FULL]


def _train(attempt: Path) -> int:
    from harness.contract import attempt_rows, file_names
    from harness.contract.ending import ACCIDENT, EXIT_CODES
    from harness.contract.environment import Ranks
    from harness.contract.events import Events
    from submission import caches, device, train
    from submission.record import Record
    from submission.watchdog.thread import Watchdog

    told = attempt_rows.read_config(attempt / file_names.CONFIG)
    config, arm, seed = told.config, told.run.arm, told.run.seed
    ranks = Ranks.from_environment()
    device.die_with_parent()
    _on_signals(train.Interrupted)
    cache, first = attempt / file_names.INDEX_CACHE, ranks.rank == 0

    def clean_up() -> None:
        if first:
            shutil.rmtree(cache, ignore_errors=True)

    per_node = config.parallelism.gpus_per_node
    watch = Watchdog(config.watchdog, ranks, ranks_per_node=per_node, directory=attempt, on_exit=clean_up)
    cleared = caches.clear(config) if ranks.local_rank == 0 else True
    record = Record(attempt, writes=first, caches_cleared=cleared, max_steps=config.schedule.max_steps)
    events = Events(attempt / file_names.LOG, writes=first)
    device.install()
    from submission.executor import MegatronExecutor

    with _reason_recorded(record):
        executor = MegatronExecutor(
            config, arm=arm, seed=seed, ranks=ranks, cache=cache, begins=watch.forward
        )
    try:
        ending = train.run(executor, config, events, record, watch)
    finally:
        clean_up()
    if ending.reason.is_result:  # after a failure other ranks may not answer, and closing would hang
        executor.close()
    return EXIT_CODES.get(ending.reason, ACCIDENT)


@contextlib.contextmanager
def _reason_recorded(record: Record) -> Iterator[None]:
    """Write the reason to status.json when the executor cannot be built, for example without Transformer Engine."""
    from submission.train import failed

    try:
        yield
    except Exception as error:
        record.ended(failed(error), 0)
        raise


def _on_signals(error: type[BaseException]) -> None:
    """The first SIGINT or SIGTERM ends the run wherever it is; later ones are ignored while the log is closed."""

    def handler(number: int, _: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        raise error(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handler)


if __name__ == "__main__":
    sys.exit(main())

"""Entry of one rank: `torchrun .. -m submission --attempt DIR`. Thin, because child processes import it again."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submission.record import Record

EXIT_CODES = {"target": 0, "step_limit": 1, "not_finite": 1, "interrupted": 130}
_ACCIDENT = 1


def main() -> int:
    from harness.contract.environment import Ranks
    from harness.contract.events import Events
    from submission import caches, device, run_config, train
    from submission.record import Record
    from submission.watchdog.thread import Watchdog

    parser = argparse.ArgumentParser(prog="submission")
    parser.add_argument("--attempt", type=Path, required=True, help="directory with config.json")
    attempt: Path = parser.parse_args().attempt
    config, this_run = run_config.read(attempt / "config.json")
    ranks = Ranks.from_environment()
    device.die_with_parent()
    _on_signals(train.Interrupted)
    cache, first = attempt / "index_cache", ranks.rank == 0

    def clean_up() -> None:
        if first:
            shutil.rmtree(cache, ignore_errors=True)

    per_node = config.parallelism.gpus_per_node
    watch = Watchdog(config.watchdog, ranks, ranks_per_node=per_node, directory=attempt, on_exit=clean_up)
    cleared = caches.clear(config) if ranks.local_rank == 0 else True
    record = Record(attempt, writes=first, caches_cleared=cleared, max_steps=config.schedule.max_steps)
    events = Events(attempt / "result.txt", writes=first)
    device.install()
    from submission.executor import MegatronExecutor

    arm, seed = this_run["arm"], this_run["seed"]
    with _reason_recorded(record):
        executor = MegatronExecutor(
            config, arm=arm, seed=seed, ranks=ranks, cache=cache, begins=watch.forward
        )
    try:
        ending = train.run(executor, config, events, record, watch)
    finally:
        clean_up()
    if ending.reason in EXIT_CODES and ending.reason != "interrupted":  # else peers no longer answer
        executor.close()
    return EXIT_CODES.get(ending.reason, _ACCIDENT)


@contextlib.contextmanager
def _reason_recorded(record: Record) -> Iterator[None]:
    """No Transformer Engine, no such backend: nothing has begun, and whoever started this wants to know why."""
    from submission.train import Ending

    try:
        yield
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        record.ended(Ending(outcome="aborted", reason="exception", message=message), 0)
        raise


def _on_signals(error: type[BaseException]) -> None:
    """SIGINT and SIGTERM end the run wherever it is; a second one finds the log being closed and is ignored."""

    def handler(number: int, _: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        raise error(signal.Signals(number).name)

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handler)


if __name__ == "__main__":
    sys.exit(main())

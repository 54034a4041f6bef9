"""Entry of one rank: `torchrun .. -m submission --attempt DIR`. Thin, because child processes import it again."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

EXIT_CODES = {"target": 0, "step_limit": 1, "not_finite": 1, "interrupted": 130}


def main() -> int:
    from harness.environment import Ranks
    from harness.events import Events
    from submission import caches, device, inputs, train
    from submission.record import Record

    parser = argparse.ArgumentParser(prog="submission")
    parser.add_argument("--attempt", type=Path, required=True, help="directory with config.json")
    attempt: Path = parser.parse_args().attempt
    config, this_run = inputs.read(attempt / "config.json")
    ranks = Ranks.from_environment()
    device.die_with_parent()
    _on_signals(train.Interrupted)
    cleared = caches.clear(config) if ranks.local_rank == 0 else True
    limit, first = config.schedule.max_steps, ranks.rank == 0
    record = Record(attempt, writes=first, caches_cleared=cleared, max_steps=limit)
    events = Events(attempt / "result.txt", writes=first)
    device.install()
    from submission.executor import MegatronExecutor

    arm, seed = this_run["arm"], this_run["seed"]
    cache = attempt / "index_cache"
    executor = MegatronExecutor(config, arm=arm, seed=seed, ranks=ranks, cache=cache)
    try:
        ending = train.run(executor, config, events, record)
    finally:
        if first:
            shutil.rmtree(cache, ignore_errors=True)
    if ending.reason != "interrupted":  # peers of an interrupted rank no longer answer
        executor.close()
    return EXIT_CODES[ending.reason]


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

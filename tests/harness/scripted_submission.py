"""Plays the training in the tests of the harness: the real run by the rules and the real files, without Megatron.

python -m tests.harness.scripted_submission --attempt DIR --behaviour B

B: target | step_limit | diverge | crash | die | full | full_disk | full_for_all | hang | deaf
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from harness.contract import attempt_rows, file_names
from harness.contract.config import Config
from harness.contract.ending import EXIT_CODES
from harness.contract.environment import Ranks
from harness.contract.events import Events
from submission import train
from submission.__main__ import _on_signals, exit_status
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor, ScriptedStep

STEP_S = 0.005
FILLER = "filler"


def command(behaviour: str = "target"):
    """What the tests put in place of harness.campaign.torchrun.command."""
    script = [sys.executable, "-m", "tests.harness.scripted_submission"]
    return lambda config, attempt: [*script, "--behaviour", behaviour, "--attempt", str(attempt)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempt", type=Path, required=True)
    parser.add_argument("--behaviour", default="target")
    args = parser.parse_args()
    status = exit_status(lambda: _train(args))
    if args.behaviour == "full_for_all":
        (args.attempt / FILLER).unlink()  # as files that a dying training has held
    return status


def _train(args: argparse.Namespace) -> int:
    told = attempt_rows.read_config(args.attempt / "config.json")
    config = told.config
    _on_signals(train.Interrupted)
    if args.behaviour == "deaf":  # as a rank inside a collective that never returns
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    record = Record(args.attempt, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
    events = Events(args.attempt / "result.txt", writes=True)
    step = _step(args.behaviour, args.attempt)
    executor = ScriptedExecutor(config, seed=told.run.seed, losses=_losses(args.behaviour, config), step=step)
    assert Ranks.from_environment().rank == 0
    return EXIT_CODES[train.run(executor, config, events, record).reason]


def _losses(behaviour: str, config: Config) -> list[float]:
    above = config.evaluation.target_log_perplexity + 0.5
    if behaviour == "step_limit":
        return [above] * config.schedule.max_steps
    return [above, above - 0.2, above - 0.6]


def _step(behaviour: str, attempt: Path):
    def step(number: int) -> ScriptedStep:
        time.sleep(STEP_S)
        if behaviour == "crash" and number == 2:
            raise RuntimeError("the script says crash")
        if behaviour == "full" and number == 2:
            raise OSError(28, "No space left on device")
        if behaviour == "full_for_all" and number == 2:
            (attempt / file_names.RESERVE).unlink()
        if behaviour in ("full_disk", "full_for_all") and number == 2:
            fill(attempt / FILLER)
        if behaviour == "die" and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "diverge" and number == 2:
            return ScriptedStep(loss=float("nan"))
        if behaviour in ("hang", "deaf") and number == 2:
            time.sleep(600)
        return ScriptedStep()

    return step


def fill(path: Path) -> None:
    """Write until the file system has no room for another byte.

    Raises:
        OSError: always.
    """
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        file.write(b"x")


if __name__ == "__main__":
    sys.exit(main())

"""Plays the training in the tests of the harness: the real run by the rules and the real files, without Megatron.

python -m tests.harness.scripted_submission --attempt DIR --behaviour B

B: target | step_limit | diverge | crash | die | full | hang | deaf
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from harness.contract.config import Config
from harness.contract.environment import Ranks
from harness.contract.events import Events
from submission import run_config, train
from submission.__main__ import EXIT_CODES, _on_signals
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor, ScriptedStep

STEP_S = 0.005


def command(behaviour: str = "target"):
    """What the tests put in place of harness.campaign.torchrun.command."""
    script = [sys.executable, "-m", "tests.harness.scripted_submission"]
    return lambda config, attempt: [*script, "--behaviour", behaviour, "--attempt", str(attempt)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempt", type=Path, required=True)
    parser.add_argument("--behaviour", default="target")
    args = parser.parse_args()
    config, this_run = run_config.read(args.attempt / "config.json")
    _on_signals(train.Interrupted)
    if args.behaviour == "deaf":  # as a rank inside a collective that never returns
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    record = Record(args.attempt, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
    events = Events(args.attempt / "result.txt", writes=True)
    step = _step(args.behaviour)
    executor = ScriptedExecutor(
        config, seed=this_run["seed"], losses=_losses(args.behaviour, config), step=step
    )
    assert Ranks.from_environment().rank == 0
    return EXIT_CODES[train.run(executor, config, events, record).reason]


def _losses(behaviour: str, config: Config) -> list[float]:
    above = config.evaluation.target_log_perplexity + 0.5
    if behaviour == "step_limit":
        return [above] * config.schedule.max_steps
    return [above, above - 0.2, above - 0.6]


def _step(behaviour: str):
    def step(number: int) -> ScriptedStep:
        time.sleep(STEP_S)
        if behaviour == "crash" and number == 2:
            raise RuntimeError("the script says crash")
        if behaviour == "full" and number == 2:
            raise OSError(28, "No space left on device")
        if behaviour == "die" and number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour == "diverge" and number == 2:
            return ScriptedStep(loss=float("nan"))
        if behaviour in ("hang", "deaf") and number == 2:
            time.sleep(600)
        return ScriptedStep()

    return step


if __name__ == "__main__":
    sys.exit(main())

"""A real training of the tiny model in which one rank has an accident. Runs under torchrun; see test_watchdog.py.

torchrun .. -m tests.submission.watched --attempt DIR --fault F --rank R --step N

F: sleep, spin (in a micro batch) | stop (SIGSTOP) | kill (SIGKILL) | raise | nan (loss) | gradient | slow
| deaf (holds the interpreter for ever) | slow+nan (slow from the start)
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time

SLOW_S = 0.3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--step", type=int)
    args, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    from submission import __main__ as entry
    from submission import device

    device.install()
    from submission import executor

    if int(os.environ["RANK"]) == args.rank:
        executor.assemble = _faulty(executor.assemble, args.fault, args.step)
    return entry.main()


def _faulty(assemble, fault: str, step: int):
    """assemble(), whose model meets its accident in the last micro batch of a step after the warm-up."""

    def build(config, linears, home):
        trainer = assemble(config, linears, home)
        warm_up = config.warmup.train_steps * config.micro_batches
        due, count = warm_up + step * config.micro_batches, 0

        def before(module, *_):
            nonlocal count
            if not module.training:  # an evaluation
                return
            count += 1
            if "slow" in fault and count > warm_up:
                time.sleep(SLOW_S)
            if count == due:
                FAULTS[fault.removeprefix("slow+")](trainer)

        trainer.chunks[0].register_forward_pre_hook(before)
        return trainer

    return build


def _sleep(_):
    time.sleep(600)


def _spin(_):
    while True:
        pass


def _raise(_):
    raise ValueError("the script says raise")


def _poison(trainer):
    next(trainer.chunks[0].parameters()).data.fill_(float("nan"))


def _poison_gradient(trainer):
    weight = next(trainer.chunks[0].parameters())
    weight.register_hook(lambda gradient: gradient * float("nan"))


def _hold_the_interpreter(_):
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the lock of the interpreter


FAULTS = {
    "sleep": _sleep,
    "spin": _spin,
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "raise": _raise,
    "nan": _poison,
    "gradient": _poison_gradient,
    "deaf": _hold_the_interpreter,
}


if __name__ == "__main__":
    sys.exit(main())

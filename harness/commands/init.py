"""Command `init`: writes submitter, system and preset into benchmark.yaml; asks for what the options do not give."""

from __future__ import annotations

import argparse
import sys

from harness.base import stderr
from harness.base.errors import EXIT_OK, UsageError
from harness.base.paths import BENCHMARK, PROGRAM
from harness.config import initial_values
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.machine.accelerators import accelerators, inventory

_QUESTIONS = {
    "submitter": "your organisation's name, written into every log",
    "system": "the system's name, for example 8xMI355X_mi355x-node7",
    "accelerator": "the accelerator, for example MI355X; or a preset, for example mi355x_8x8",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--submitter", metavar="ORG", help=_QUESTIONS["submitter"])
    parser.add_argument("--system", metavar="NAME", help=_QUESTIONS["system"])
    parser.add_argument("--accelerator", metavar="A", help=_QUESTIONS["accelerator"])


def main(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in _QUESTIONS}
    if (
        missing := [f"--{name}" for name, value in given.items() if value is None]
    ) and not sys.stdin.isatty():
        raise UsageError(f"init: found no terminal to ask on; add {', '.join(missing)}")
    submitter = initial_values.checked_name("--submitter", given["submitter"] or _ask("submitter"))
    system = initial_values.checked_name("--system", given["system"] or _ask("system"))
    accelerator = given["accelerator"] or _ask("accelerator", default=_accelerator_here())
    preset = initial_values.preset_for(accelerator, BENCHMARK)
    initial_values.write(BENCHMARK, submitter=submitter, system=system, preset=preset)
    print(f"{BENCHMARK}: system.submitter {submitter}, system.name {system}, preset {preset}")
    print(f"next: {PROGRAM} plan --profile {BENCHMARK_PROFILE}")
    return EXIT_OK


def _ask(name: str, default: str = "") -> str:
    shown = f" [{default}]" if default else ""
    stderr.stream().write(f"{name}{shown} ({_QUESTIONS[name]}): ")
    stderr.stream().flush()
    return sys.stdin.readline().strip() or default


def _accelerator_here() -> str:
    """The name that the driver reports of this machine's first GPU; empty without one."""
    found = inventory()[0] if accelerators() else []
    return found[0]["name"] if found else ""

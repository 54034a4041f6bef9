"""Command `main`, which ./run.sh runs without arguments: trains every arm of the profile that fits this machine."""

from __future__ import annotations

import argparse

from harness import main_job
from harness.commands.options import add_set
from harness.config.file import resolve
from harness.config.profile_choice import choose_profile, fit_proxy
from harness.machine.accelerators import accelerators


def arguments(parser: argparse.ArgumentParser) -> None:
    add_set(parser)


def main(args: argparse.Namespace) -> int:
    profile = choose_profile(None, overrides=args.overrides)
    return main_job.start(fit_proxy(resolve(profile, overrides=args.overrides).config, accelerators()), print)

"""The main job: choose the profile that fits this machine, train every arm, check, compare, report."""

from __future__ import annotations

import argparse

from harness.base.stderr import tell
from harness.campaign import store
from harness.campaign.runner import run_job
from harness.commands import upload
from harness.conclude import conclude
from harness.config import memory
from harness.config.file import resolve
from harness.config.profile_choice import choose_profile, fit_proxy, require_accelerators
from harness.contract.config import Config
from harness.data import ensure
from harness.machine import page_caches
from harness.machine.accelerators import accelerators


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")


def main(args: argparse.Namespace) -> int:
    profile, why = choose_profile(args.overrides)
    tell(f"profile: {profile}\nbecause {why}")
    return start(fit_proxy(resolve(profile, overrides=args.overrides).config, accelerators()))


def start(config: Config) -> int:
    """Everything a job is, from its data to its report; returns the exit code."""
    require_accelerators(config)
    memory.require_fit(config)
    page_caches.require(config)
    upload.require(config)
    ensure.ensure(config)
    return conclude(run_job(store.create(config)))

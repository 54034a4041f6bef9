"""Command `qualify`: tests on this node, in minutes, what this project claims of GPUs; writes one page."""

from __future__ import annotations

import argparse
import datetime
import functools
import json
from pathlib import Path

from harness.base.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from harness.base.stderr import tell
from harness.campaign import store
from harness.commands.options import add_json, positive
from harness.contract import typed_json
from harness.qualify import machine, page, session, step_list
from harness.qualify.answer import Verdict


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="time limit in minutes (default 8)")
    parser.add_argument(
        "--gpus",
        type=positive,
        metavar="N",
        help="number of GPUs to train on (default: all); on a CPU the number of ranks (default 1)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="directory of the page (default: a new one under runs/)"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    with session.Stop() as stop:
        home = (args.out or _home()).resolve()
        page.prepare(home)
        made = session.run(
            functools.partial(machine.ask, args.gpus),
            lambda found: step_list.steps(on_gpu=found.gpus > 0),
            home,
            minutes=args.minutes,
            stop=stop,
        )
    print(json.dumps(typed_json.to_plain(made), indent=1) if args.json else "\n".join(page.text(made)))
    tell(f"page: {home / page.PAGE} ({page.TEXT} and {page.DOCUMENT} beside it)")
    if stop():
        return EXIT_INTERRUPTED
    return EXIT_FAILED if made.claims(Verdict.FAILED) else EXIT_OK


def _home() -> Path:
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    return store.output_directory() / f"{now}_qualify"


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0.1 <= minutes <= 600:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: 0.1 to 600")
    return minutes

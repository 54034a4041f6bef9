"""The actions of the command `study`, beside the training of many recipes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from harness.commands import diagnose, study_evidence, study_fork, study_forward, study_replay


class _Action(NamedTuple):
    arguments: Callable[[argparse.ArgumentParser], None]
    main: Callable[[argparse.Namespace], int]
    text: str


_ACTIONS = {
    "replay": _Action(study_replay.arguments, study_replay.main, "gradient errors at fixed weights"),
    "forward": _Action(study_forward.arguments, study_forward.main, "loss of each recipe's forward pass"),
    "fork": _Action(study_fork.arguments, study_fork.main, "cost of a step under a recipe, from one state"),
    "diagnose": _Action(
        diagnose.arguments, diagnose.main, "quantisation error of every GEMM in trained runs"
    ),
    "evidence": _Action(study_evidence.arguments, study_evidence.main, "published runs at 8B, by format"),
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add every action with its options."""
    texts = "; ".join(f"{name}: {action.text}" for name, action in _ACTIONS.items())
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help=texts)
    for name, action in _ACTIONS.items():
        action.arguments(actions.add_parser(name, help=action.text))


def main(args: argparse.Namespace) -> int:
    return _ACTIONS[args.action].main(args)

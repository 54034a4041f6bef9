"""Command line: one subcommand per module, imported only when asked for: `check` never pays for `run`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Sequence

from harness.base.errors import EXIT_ENVIRONMENT, EXIT_INTERRUPTED, EXIT_OK, UserError
from harness.base.names import unknown_name
from harness.base.paths import INSTALLED, PROGRAM
from harness.base.stderr import tell

COMMANDS = {
    "main": (
        "harness.commands.main",
        "the main job (what ./run.sh does without arguments): every arm, checked, compared, reported",
    ),
    "plan": ("harness.commands.plan", "every derived number and where each value comes from; needs no GPU"),
    "doctor": (
        "harness.commands.doctor",
        "is this node fit to train? a line per check; or which of many nodes",
    ),
    "data": ("harness.commands.data", "fetch | build | verify the training data"),
    "run": ("harness.commands.run", "start campaigns: --profile, --arm, --runs, --set key=value"),
    "status": ("harness.commands.status", "how far the campaigns are"),
    "follow": (
        "harness.commands.follow",
        "on every node of a job but the first: train what that one trains",
    ),
    "launch": (
        "harness.commands.launch",
        "--emit KIND: a launch file for torchrun, Slurm, containers or Kubernetes",
    ),
    "resume": ("harness.commands.resume", "continue an interrupted campaign"),
    "check": (
        "harness.commands.check",
        "check a log, a campaign, a package or (--all) a results repository against a ruleset",
    ),
    "score": ("harness.commands.score", "run results and olympic mean"),
    "rcp": (
        "harness.commands.rcp",
        "convergence against the reference points, normalised score; plan --gbs N",
    ),
    "compare": ("harness.commands.compare", "A against the baseline B: time, speed and convergence"),
    "results": ("harness.commands.results", "published submissions: index TREE --out F, list"),
    "study": (
        "harness.commands.study",
        "the same training under many recipes, paired by seed: gaps and their intervals",
    ),
    "diagnose": (
        "harness.commands.diagnose",
        "what quantising did to every GEMM of runs that were looked at: campaigns or attempts, side by side",
    ),
    "project": (
        "harness.commands.project",
        "time to train on other hardware, with error bars and what they rest on",
    ),
    "upload": (
        "harness.commands.upload",
        "curves of runs that have stopped: --to tensorboard DIR | wandb PROJECT | mlflow URI",
    ),
    "package": ("harness.commands.package", "build a submission tree from campaigns, or verify anybody's"),
    "kernels": ("harness.commands.kernels", "verify | prove | bench | quantize: the MXFP4 kernels"),
    "bench": (
        "harness.commands.bench",
        "step-time ratios of the precision arms, and of Megatron to bare PyTorch",
    ),
    "qualify": (
        "harness.commands.qualify",
        "what is proven on this node, in minutes: engines, kernels, speed, two-layer trainings; one page",
    ),
    "test": ("harness.commands.test", "the whole test suite"),
}


TRAINING = frozenset(
    ("main", "run", "resume", "follow", "study", "kernels", "bench")
)  # commands that need torch


def _parser(command: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = importlib.import_module("harness.commands.parser").Parser(
        prog=f"{PROGRAM} {command}", description=COMMANDS[command][1]
    )
    importlib.import_module(COMMANDS[command][0]).arguments(parser)
    return parser


def _usage() -> str:
    rows = "\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())
    rows += (
        ""
        if INSTALLED
        else f"\n  {'setup':<8} make or update .venv and start nothing; commands do it by themselves when they need it"
    )
    head = f"usage: {PROGRAM} [command] [options]    no command: the main job"
    return f"{head}\n\n{rows}\n\n{PROGRAM} COMMAND --help says more.\n"


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code; a user's mistake is one line on stderr, never a traceback."""
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("main", argv)
    if argv and argv[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return EXIT_OK
    if command not in COMMANDS:
        tell(unknown_name("command", command, COMMANDS))
        return 2
    if command in TRAINING and not {"-h", "--help"} & set(rest) and importlib.util.find_spec("torch") is None:
        training = f"pipx install 'fourmark[train]', or ./run.sh {command} in a checkout"
        tell(f"{command}: found no torch; expected the packages that train: {training}")
        return EXIT_ENVIRONMENT
    module = importlib.import_module(COMMANDS[command][0])
    try:
        code: int = module.main(_parser(command).parse_args(rest))
        return code
    except UserError as error:
        tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        tell("interrupted")
        return EXIT_INTERRUPTED
    except OSError as error:
        tell(f"{error.filename or 'system'}: {error.strerror or error}")
        return EXIT_ENVIRONMENT

"""Command line: one module per subcommand. Only the module of the given command is imported, so `check` starts fast."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from harness.base.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EnvironmentFailure,
    UsageError,
    UserError,
)
from harness.base.names import unknown_name
from harness.base.paths import INSTALLED, PROGRAM
from harness.base.stderr import tell

COMMANDS = {
    "main": (
        "harness.commands.main",
        "the main job, also without arguments: trains every arm, checks, compares and reports",
    ),
    "init": (
        "harness.commands.init",
        "write your names and your system's preset into benchmark.yaml; asks, or takes them",
    ),
    "plan": (
        "harness.commands.plan",
        "show what would run, its memory, time and rule notes; --all: every setting; needs no GPU",
    ),
    "doctor": (
        "harness.commands.doctor",
        "check whether this node, or each of several nodes, is fit to train",
    ),
    "data": ("harness.commands.data", "fetch, build or verify the training data"),
    "run": ("harness.commands.run", "train: choose --profile, --preset, --arm, --runs, --set key=value"),
    "status": ("harness.commands.status", "show the progress of all campaigns"),
    "serve": ("harness.commands.serve", "show campaigns in a browser of this machine while they train"),
    "follow": (
        "harness.commands.follow",
        "join a job of several nodes; run it on every node but the first",
    ),
    "launch": (
        "harness.commands.launch",
        "write a launch file for torchrun, Slurm, containers or Kubernetes: --emit KIND",
    ),
    "resume": ("harness.commands.resume", "continue an interrupted job"),
    "check": (
        "harness.commands.check",
        "check a log, a campaign, a package or (--all) a results repository against a ruleset",
    ),
    "score": ("harness.commands.score", "compute run results and their olympic mean"),
    "rcp": (
        "harness.commands.rcp",
        "test convergence against the reference points and normalise the score; plan --gbs N",
    ),
    "compare": (
        "harness.commands.compare",
        "compare submissions with a baseline: time, speed and convergence",
    ),
    "results": ("harness.commands.results", "list published submissions, or index a results repository"),
    "study": (
        "harness.commands.study",
        "train many recipes with the same seeds and compare their losses",
    ),
    "diagnose": (
        "harness.commands.diagnose",
        "the same as study diagnose: the quantisation error of every GEMM in trained runs",
    ),
    "project": (
        "harness.commands.project",
        "predict the time to train on other hardware, with error bars",
    ),
    "upload": (
        "harness.commands.upload",
        "upload the curves of runs: --to tensorboard DIR | wandb PROJECT | mlflow URI",
    ),
    "package": ("harness.commands.package", "build a submission tree from campaigns, or verify a tree"),
    "kernels": ("harness.commands.kernels", "verify, prove or time the MXFP4 kernels, or quantise a file"),
    "bench": (
        "harness.commands.bench",
        "compare step times of the precision arms, and of Megatron with plain PyTorch",
    ),
    "qualify": (
        "harness.commands.qualify",
        "test engines, kernels, speed and short trainings on this node, in minutes; one page",
    ),
    "test": ("harness.commands.test", "run the test suite"),
    "completion": (
        "harness.commands.completion",
        "print a script with which your shell completes commands, options and names",
    ),
}


TRAINING = frozenset(
    ("main", "run", "resume", "follow", "study", "kernels", "bench")
)  # these commands need torch
LIGHT = {"study": ("evidence", "diagnose")}  # but these actions of theirs do not


def parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    """The options of one command. An action with options of its own (`rcp plan`) has a parser of its own."""
    module, text = importlib.import_module(COMMANDS[command][0]), COMMANDS[command][1]
    arguments = module.arguments
    own = getattr(module, "ACTIONS", {})
    if words and words[0] in own:
        command, (text, arguments), words = f"{command} {words[0]}", own[words[0]], words[1:]
    make: type[argparse.ArgumentParser] = importlib.import_module("harness.commands.parser").Parser
    parser = make(prog=f"{PROGRAM} {command}", description=text)
    arguments(parser)
    parser.set_defaults(every_command=COMMANDS)  # `completion` lists them; commands do not import this file
    return parser.parse_args(words)


def _usage() -> str:
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    rows += (
        ""
        if INSTALLED
        else f"\n  {'setup':<10} make or update .venv only; every command does this by itself when needed"
    )
    head = f"usage: {PROGRAM} [command] [options]    no command: the main job"
    return f"{head}\n\n{rows}\n\n{PROGRAM} COMMAND --help lists the options of a command.\n"


class _Answers:
    """Standard output that records whether anything was written to it."""

    def __init__(self, stream: TextIO):
        self._stream, self.used = stream, False

    def write(self, text: str) -> int:
        self.used = True
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. A mistake of the user prints one line on stderr, never a traceback.

    With --json it also prints {"error": ..} on stdout, if the command has not answered yet.
    """
    as_json = "--json" in (argv[: argv.index("--")] if "--" in argv else argv)
    answers = _Answers(sys.stdout)
    try:
        with contextlib.redirect_stdout(answers if as_json else sys.stdout):
            code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_left()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # rich turns a broken pipe into SystemExit
            return _reader_left()
        raise
    except UserError as error:
        problem, code = str(error), error.exit_code
    except KeyboardInterrupt:
        problem, code = "interrupted", EXIT_INTERRUPTED
    except OSError as error:
        problem, code = f"{error.filename or 'system'}: {error.strerror or error}", EXIT_ENVIRONMENT
    tell(problem)
    if as_json and not answers.used:
        print(json.dumps({"error": problem, "exit_code": code}))
    return code


def _reader_left() -> int:
    """Stop writing without an error: the reader of stdout, such as `head`, has closed it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _run(argv: Sequence[str]) -> int:
    command, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("main", argv)
    if argv and argv[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return EXIT_OK
    if command not in COMMANDS:
        raise UsageError(unknown_name("command", command, COMMANDS))
    needs_torch = command in TRAINING and not set(rest[:1]) & set(LIGHT.get(command, ()))
    if needs_torch and not {"-h", "--help"} & set(rest) and importlib.util.find_spec("torch") is None:
        training = f"pipx install 'fourmark[train]', or ./run.sh {command} in a checkout"
        raise EnvironmentFailure(
            f"{command}: torch is not installed; install the training packages: {training}"
        )
    module = importlib.import_module(COMMANDS[command][0])
    hands_over = command == "kernels"  # it parses its own options and prints its own help
    code: int = module.main(argparse.Namespace(rest=rest) if hands_over else parse(command, rest))
    return code

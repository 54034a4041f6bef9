"""Commands that train nothing need neither torch nor what comes with it, nor pandas."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.base.paths import ROOT
from harness.cli import COMMANDS
from tests.compliance.logs import compliant_log, write

HEAVY = ("torch", "triton", "megatron", "tokenizers", "transformer_engine", "pandas", "pytest", "torchao")


def without(*command, cwd):
    """Run a module in a Python that has none of these packages."""
    program = (
        "import importlib.machinery, runpy, sys\n"
        "class Without(importlib.machinery.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name.partition('.')[0] in {HEAVY!r} else super().find_spec(name, path, target)\n"
        "sys.meta_path[:] = [*(one for one in sys.meta_path if one is not importlib.machinery.PathFinder), Without]\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    call = [sys.executable, "-c", program, *map(str, command)]
    return subprocess.run(
        call, cwd=cwd, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    for name in ("a", "b"):
        (directory / name).mkdir()
        write(directory / name, *(compliant_log(run=run) for run in range(10)))
    return directory


@pytest.mark.parametrize(
    "command",
    [
        "check --skip-official a",
        "check a --html page.html",
        "score a",
        "rcp a",
        "compare a b --html comparison.html",
        "results list",
        "project 8xMI355X",
        "plan --preset mi355x_1x8",
        "launch --emit slurm --preset mi355x_8x8",
        "status",
    ],
)
def test_a_light_command_answers(command, logs):
    done = without("harness", *command.split(), cwd=logs)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_light(command, logs):
    done = without("harness", command, "--help", cwd=logs)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: ./run.sh {command} "), done.stderr


def test_the_list_of_commands_needs_the_standard_library_alone(logs):
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness", "--help"],
        cwd=logs,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and all(f"\n  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("tool", ["compliance_checker", "package_checker", "rcp_checker"])
def test_the_official_checkers_need_no_pandas(tool, logs):
    done = without(f"mlperf_logging.{tool}", "--help", cwd=logs)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr

"""What a command line says that cannot be meant."""

from __future__ import annotations

import argparse
import subprocess

import pytest

from harness import cli
from harness.base.errors import ConfigError, UsageError
from harness.campaign import launch_files, store
from harness.commands import run
from harness.commands import test as test_command
from harness.config import profile_choice
from harness.config.file import resolve
from harness.report import index_table
from harness.study import grid
from harness.study import run as study_run


def test_arms_that_are_named_one_by_one_are_all_trained(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "start", lambda config, say: seen.append(config.runs.arms) or 0)
    assert cli.main(["run", "--profile", "proxy", "--arm", "bf16", "--arm", "mxfp4", "fp8"]) == 0
    assert seen == [("bf16", "mxfp4", "fp8")]


def test_run_takes_the_profile_that_fits_the_machine_and_says_why(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(run, "start", lambda config, say: seen.append(config.profile) or 0)
    monkeypatch.setattr(profile_choice, "fitting_profile", lambda overrides: ("llama31_8b", "GPUs are here"))
    assert cli.main(["run"]) == 0 and cli.main(["run", "--profile", "proxy"]) == 0
    assert seen == ["llama31_8b", "proxy"]
    assert "because GPUs are here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [["study", "--steps", "0"], ["study", "--jobs", "-3"], ["study", "--seeds", "0"], ["run", "--runs", "0"],
     ["bench", "--repetitions", "0"], ["launch", "--emit", "slurm", "--nodes", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_none_of_something_is_refused(words, capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(words)
    assert refused.value.code == 2
    assert "allowed: a whole number of at least 1" in capsys.readouterr().err


def test_a_system_is_laid_over_the_benchmark_alone():
    with pytest.raises(
        ConfigError, match=r"--preset mi355x_1x8: found the profile proxy; allowed: llama31_8b"
    ):
        resolve("proxy", preset="mi355x_1x8", aliases={})


def test_a_launch_file_of_a_system_has_its_nodes_and_trains_by_its_preset(capsys):
    assert cli.main(["launch", "--emit", "slurm", "--preset", "mi355x_8x8"]) == 0
    text = capsys.readouterr().out
    assert "#SBATCH --nodes=8" in text and "--preset mi355x_8x8" in text
    with pytest.raises(ConfigError, match=r"--nodes 8: .*; choose a --preset with this number of nodes"):
        launch_files.render("slurm", nodes=8)


def test_names_of_published_systems_are_whole_in_a_pipe(capsys):
    assert cli.main(["results", "list"]) == 0
    assert "v5.1/AMD/MI355X_EPYC_9575F_pytorch" in capsys.readouterr().out
    assert index_table.WIDTH < 200


def test_nothing_is_concluded_from_a_study_that_has_not_run(tmp_path):
    cells = [cell for cell in grid.paper() if cell.name in ("none-f", "fp8")]
    plain = resolve("proxy", overrides=[f"runs.output={tmp_path}"], aliases={}).config
    job = store.create(study_run.study_config(plain, cells, seeds=1, steps=60))
    with pytest.raises(UsageError, match=rf"study {job.stamp}: found 2 runs left; allowed: a finished study"):
        study_run.of_jobs([job], cells)


def test_a_page_goes_into_a_directory_that_exists(tmp_path, capsys):
    for place in (tmp_path, tmp_path / "none" / "page.html"):
        assert cli.main(["compare", "--html", str(place), "--public", "v6.0/AMD/MI355X"]) == 2
        assert f"--html: found {place}; allowed: a file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_package_takes_a_round_by_its_short_name_as_check_does(tmp_path, capsys):
    """The ruleset is known: what is refused is the tree."""
    assert cli.main(["package", "verify", str(tmp_path), "--ruleset", "v6.0"]) == 2
    assert "found no results/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "selection"),
    [
        (["--slurm"], ["tests/launchers", "-m", "slurm"]),
        (["--slurm", "--docker"], ["tests/launchers", "-m", "slurm or docker"]),
    ],
)
def test_launchers_are_tested_alone(monkeypatch, words, selection):
    lines = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(test_command.subprocess, "run", lambda line, **_: lines.append(line) or done)
    assert cli.main(["test", *words]) == 0
    assert lines[0][3:] == selection


def test_the_suite_leaves_the_launchers_out(monkeypatch):
    lines = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(test_command.subprocess, "run", lambda line, **_: lines.append(line) or done)
    assert cli.main(["test", "--slow"]) == 0
    assert "not slurm and not docker" in lines[0][lines[0].index("-m", 2) + 1]
    with pytest.raises(UsageError, match="--slow cannot go"):
        test_command.main(argparse.Namespace(slow=True, slurm=True, docker=False, pytest=[]))

"""A name means the same for every command, and in every directory: a path, a campaign, a job, a published system."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.analysis import public_index, submission_loader
from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.campaign import find
from harness.study import run as study_run

FOUND = ROOT / "tests" / "harness" / "before_the_move"
STAMP = "20261128-225322"
ARMS = ("mxfp4", "fp8")
NAME = f"{STAMP}_proxy_mxfp4"
PUBLIC = "v6.0/AMD/MI355X"


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Two campaigns of one job, with one finished run each."""
    output = tmp_path_factory.mktemp("here") / "runs"
    shutil.copytree(FOUND, output)
    for file in output.rglob("*.json"):
        file.write_text(file.read_text().replace('"/campaigns"', json.dumps(str(output))))
    return output


@pytest.fixture
def output(copies, tmp_path, monkeypatch):
    """The directory of campaigns; the working directory is another one."""
    monkeypatch.setenv("LOGDIR", str(copies))
    monkeypatch.chdir(tmp_path)
    return copies


@pytest.mark.parametrize("form", ["{name}", "{output}/{name}", "runs/{name}", "{name}/"])
def test_a_campaign_is_found_by_every_way_to_write_it(output, form):
    name = form.format(output=output, name=NAME)
    assert [path.resolve() for path in find.paths([name])] == [(output / NAME).resolve()]
    assert [made.directory.name for made in find.campaigns([name])] == [NAME]
    assert find.stamp(name) == STAMP


def test_a_job_means_its_arms_with_the_baseline_last(output):
    assert [path.name for path in find.paths([STAMP])] == [f"{STAMP}_proxy_{arm}" for arm in ARMS]
    assert [job.stamp for job in find.jobs([STAMP, NAME])] == [STAMP]


def test_what_lies_in_the_working_directory_comes_first(output, tmp_path):
    (tmp_path / NAME).mkdir()
    assert find.paths([NAME]) == [Path(NAME)]


COMMANDS = {  # with `X` for the name, and their exit codes for a campaign with one short run of the proxy
    "check X --skip-official": 1,
    "score X": 0,
    "compare X": 0,
    "status X": 0,
    "rcp X": 2,  # found, and refused as a proxy
    "upload X --to mlflow somewhere": 3,  # found; the package is not installed, or the address is none
    "package build X --out tree": 1,
    "diagnose X": 2,  # found, and without measurements
}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_takes_the_name_of_a_campaign(output, line, capsys):
    if line.startswith("upload") and importlib.util.find_spec("mlflow"):
        pytest.skip("it would be uploaded")
    answers = []
    for name in (NAME, str(output / NAME)):
        assert cli.main([word if word != "X" else name for word in line.split()]) == COMMANDS[line]
        said = capsys.readouterr()
        assert "no such file" not in said.err and "no campaign" not in said.err
        answers.append((said.out + said.err).replace(str(output / NAME), "X").replace(NAME, "X"))
    assert answers[0] == answers[1]


def test_a_published_system_is_scored_and_compared_by_its_name(output, capsys):
    assert cli.main(["score", PUBLIC, "--json"]) == 0
    (scored,) = json.loads(capsys.readouterr().out)["scores"]
    assert scored["valid"] and scored["directory"].startswith(PUBLIC) and len(scored["runs"]) == 10
    assert cli.main(["rcp", PUBLIC]) == 0
    assert capsys.readouterr().out.startswith("pass ")
    assert cli.main(["compare", PUBLIC, "v5.1/AMD/MI355X", "--json"]) == 0
    by_name = capsys.readouterr().out
    assert cli.main(["compare", "--public", PUBLIC, "v5.1/AMD/MI355X", "--json"]) == 0
    assert by_name == capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "check X",
        "package build X --out tree",
        "upload X --to tensorboard x",
        "status X",
        "resume X",
        "diagnose X",
    ],
)
def test_a_command_that_needs_logs_says_so_of_a_published_system(output, line, capsys, monkeypatch):
    monkeypatch.setattr(cli, "TRAINING", frozenset())
    assert cli.main([word if word != "X" else PUBLIC for word in line.split()]) == 2
    assert f"{PUBLIC}: the published system v6.0/AMD/MI355X_EPYC" in capsys.readouterr().err


def test_a_name_that_means_nothing_is_answered_with_what_there_is(output):
    with pytest.raises(
        UsageError, match=rf"x1: no such file or directory, and no campaign in {output}; newest campa"
    ):
        find.paths(["x1"])
    with pytest.raises(UsageError, match=rf"did you mean {NAME}\?"):
        find.result_sets([f"{STAMP}_proxy_mxfp5"])
    with pytest.raises(UsageError, match=r"x1: no such file"):  # a part of one published name, too
        find.submissions(["x1"], public_index.SHIPPED)
    with pytest.raises(UsageError, match="no such file"):
        find.submissions(["../x"], Path("none.json"))


def test_a_misspelled_published_system_is_answered_with_the_right_name(output):
    with pytest.raises(UsageError, match=r"\(did you mean v6.0/AMD/MI355X_EPYC_9575F_primus\?\)"):
        find.submissions(["v6.0/AMD/MI355Y"], public_index.SHIPPED)


def test_a_study_is_found_by_a_campaign_of_it(output):
    class Plain:
        class runs:
            output = ""

    Plain.runs.output = str(output)
    with pytest.raises(UsageError, match=f"--resume: no study '{STAMP}'"):  # it is a job, and no study
        study_run.find(NAME, Plain, "--resume")


def test_paths_need_no_readable_configuration(output, monkeypatch):
    monkeypatch.setattr(find.store, "output_directory", lambda: pytest.fail("not asked"))
    path = str(output / NAME)
    assert find.paths([path]) == [Path(path)]
    assert submission_loader.load(Path(path)).name == "mxfp4"

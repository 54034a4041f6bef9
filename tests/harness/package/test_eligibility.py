"""What cannot be submitted is refused with its reasons, before or after the tree is written beside its place."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import cli
from harness.campaign import campaign, store
from tests.harness.package_campaign import (
    NativeExecutor,
    commit,
    content_tools,
    copied,
    finished,
    rewrite,
    shared,
    work_in,
)
from tests.harness.scripted_harness import scripted_config


@pytest.fixture(scope="module")
def sources():
    return shared()[0]


@pytest.fixture
def made(sources, tmp_path, monkeypatch):
    """A campaign to give a defect."""
    work_in(monkeypatch, sources)
    content_tools(monkeypatch)
    good = shared()[1]
    return copied(good, tmp_path / "runs" / good.directory.name)


@pytest.fixture
def answer(tmp_path, capsys):
    def of(made, *options):
        """Exit code, violations and errors of a build that leaves nothing behind."""
        out = tmp_path / "out"
        capsys.readouterr()  # what the scripted training said
        code = cli.main(["package", "build", str(made.directory), "--out", str(out), "--json", *options])
        assert not out.exists(), "something was left behind"
        captured = capsys.readouterr()
        document = json.loads(captured.out)
        assert document["ok"] is False and document["tree"] is None
        return code, [(v["file"], v["found"], v["expected"]) for v in document["violations"]]

    return of


def attempt_of(made, index):
    return made.run_directory(index) / "attempt_1"


def proofs(**fields):
    return lambda made: rewrite(attempt_of(made, 3) / "proof.json", **fields)


def machines(**fields):
    return lambda made: rewrite(attempt_of(made, 3) / "environment.json", **fields)


def _result_of_another(made):
    shutil.copy(made.result(4), made.result(3))


def _edited(made):
    text = made.result(3).read_text()
    made.result(3).write_text(text.replace('"value": 6.49', '"value": 6.48'))


def _seed_of_the_campaign(made):
    document = json.loads((made.directory / "campaign.json").read_text())
    document["runs"][3]["seed"] += 1
    rewrite(made.directory / "campaign.json", runs=document["runs"])


def _unfinished(made):
    document = json.loads((made.directory / "campaign.json").read_text())
    document["runs"][3]["state"] = "pending"
    rewrite(made.directory / "campaign.json", runs=document["runs"])


ROW = {"layer": "layers.0.mlp", "gemm": "wgrad", "format": "mxfp4", "backend": "emulated"}
CAMPAIGN, ATTEMPT, NONE = "", "run_3/attempt_1/", "absent, or not a JSON object"
REFUSED = {
    "one emulated GEMM": (proofs(gemms=[ROW]), ATTEMPT + "proof.json", "emulated GEMMs"),
    "a GEMM on the CPU": (proofs(gemms=[{**ROW, "backend": "reference"}]), ATTEMPT + "proof.json", "reference GEMMs"),
    "a backend nobody knows": (proofs(gemms=[{**ROW, "backend": None}]), ATTEMPT + "proof.json", "None GEMMs"),
    "a proof of nothing": (proofs(gemms=[]), ATTEMPT + "proof.json", "no verified GEMM"),
    "a proof that failed": (proofs(verified=False), ATTEMPT + "proof.json", "no verified GEMM"),
    "another precision than logged": (proofs(gemms=[{**ROW, "format": "fp8", "backend": "native"}]),
                                      "result_3.txt", "mxfp4"),
    "no proof": (lambda m: (attempt_of(m, 3) / "proof.json").unlink(), ATTEMPT + "proof.json", NONE),
    "a broken proof": (lambda m: (attempt_of(m, 3) / "proof.json").write_text("{"), ATTEMPT + "proof.json", NONE),
    "no environment": (lambda m: (attempt_of(m, 3) / "environment.json").unlink(), ATTEMPT + "environment.json", NONE),
    "a dirty tree": (machines(git={"commit": "c" * 40, "dirty": True}), CAMPAIGN, None),
    "no repository": (machines(git=None), CAMPAIGN, None),
    "another machine": (machines(cpu="another"), ATTEMPT + "environment.json", "another"),
    "another torch": (machines(packages={"torch": "1.0"}), ATTEMPT + "environment.json", {"torch": "1.0"}),
    "an edited log": (_edited, "result_3.txt", "the log of no attempt"),
    "a log twice": (_result_of_another, "result_3.txt", "the log of no attempt"),
    "a run without attempts": (lambda m: shutil.rmtree(m.run_directory(3)), "result_3.txt", "the log of no attempt"),
    "a missing result": (lambda m: m.result(3).unlink(), CAMPAIGN, "9 finished runs of 10"),
    "an unfinished run": (_unfinished, CAMPAIGN, "9 finished runs of 10"),
    "a seed that was not drawn": (_seed_of_the_campaign, "result_3.txt", None),
}  # fmt: skip


@pytest.mark.parametrize(("defect", "file", "found"), REFUSED.values(), ids=REFUSED)
def test_a_campaign_with_one_defect_is_refused_where_the_defect_is(made, answer, defect, file, found):
    defect(made)
    code, reasons = answer(campaign.load(made.directory))
    assert code == 1
    place = str(made.directory / file).rstrip("/")
    assert [told for told in reasons if told[0] == place and found in (None, told[1])], reasons


def test_the_campaign_without_a_defect_is_built(made, tmp_path):
    assert cli.main(["package", "build", str(made.directory), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("backend", ["emulated", "reference"])
def test_a_campaign_of_emulated_runs_is_no_submission(backend, sources, monkeypatch, tmp_path, answer):
    work_in(monkeypatch, sources)
    executor = type("Executor", (NativeExecutor,), {"backend": backend})
    code, reasons = answer(finished(tmp_path / "runs", executor=executor, only=1))
    assert code == 1 and [found for _, found, _ in reasons] == ["1 finished runs of 10", f"{backend} GEMMs"]


def test_a_proxy_is_no_submission(tmp_path, answer):
    made = store.create(scripted_config(tmp_path / "runs")).campaigns[0]
    code, reasons = answer(made)
    assert (code, reasons) == (1, [(str(made.directory), "llama31_8b_proxy", "llama31_8b")])


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"system__division": "open"}, "open"),
        ({"runs__seed": 7}, "runs.seed 7"),
        ({"runs__count": 1}, "1 finished runs of 1"),
    ],
)
def test_what_the_configuration_gave_away_is_told(settings, found, sources, monkeypatch, tmp_path, answer):
    work_in(monkeypatch, sources)
    made = finished(tmp_path / "runs", only="runs__count" in settings, **settings)
    code, reasons = answer(made)
    assert code == 1 and found in [told for _, told, _ in reasons]


def test_changes_that_are_not_committed_and_another_commit_are_told(
    made, sources, tmp_path, monkeypatch, answer
):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(sources, elsewhere)
    work_in(monkeypatch, elsewhere)
    (elsewhere / "run.sh").write_text("echo\n")
    code, reasons = answer(made)
    assert (code, reasons) == (1, [(str(elsewhere), "uncommitted: run.sh", "no changes")])
    commit(elsewhere)
    (code, [(place, found, _)]) = answer(made)
    assert (code, place) == (1, str(elsewhere)) and found.startswith("commit ")


LEAKS = {
    "a key": ("KEY = 'AKIA" + "ABCDEFGHIJKLMNOP'", "an AWS access key"),
    "a password": ("password: 'tr0ub4dor" + "&3'", "a password or token"),
    "a host": ("url: http://node7.cluster" + ".internal/x", "a private host name"),
    "an address": ("addr: 10.20.30" + ".40", "a private network address"),
}


@pytest.mark.parametrize(("text", "what"), LEAKS.values(), ids=LEAKS)
def test_a_secret_in_the_sources_stops_the_package_with_file_and_line(
    text, what, made, sources, tmp_path, monkeypatch, capsys
):
    leaky = tmp_path / "leaky"
    shutil.copytree(sources, leaky)
    (leaky / "submission" / "extra.py").write_text(f"# ok\n{text}\n")
    commit(leaky)
    work_in(monkeypatch, leaky)
    same = json.loads((attempt_of(made, 0) / "environment.json").read_text())["git"]
    monkeypatch.setattr("harness.package.eligibility.git", _at(same["commit"], leaky))
    assert cli.main(["package", "build", str(made.directory), "--out", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    (told,) = [line for line in out.splitlines() if f"error secret: found {what}" in line]
    assert "submission/extra.py:2" in told and "not built" in out
    assert text.split("'")[-2 if "'" in text else 0] not in out and not (tmp_path / "out").exists()


def _at(head, directory):
    """The repository, which says that it is at this commit."""
    from tests.harness.package_campaign import git

    return lambda *arguments: head if arguments[0] == "rev-parse" else git(directory, *arguments)


def test_runs_faster_than_the_reference_are_not_built(sources, monkeypatch, tmp_path, answer):
    work_in(monkeypatch, sources)
    content_tools(monkeypatch)
    quick = staticmethod(
        lambda index: [6.5 - 0.001037 * index, 5.0 - 0.0010371 * index, 3.29 - 0.001037 * index]
    )
    executor = type("Executor", (NativeExecutor,), {"losses_at": quick})
    made = finished(tmp_path / "runs", executor=executor)
    code, reasons = answer(made)
    assert code == 1 and {str(made.result(i)) for i in range(10)} <= {file for file, _, _ in reasons}

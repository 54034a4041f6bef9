from __future__ import annotations

import hashlib
import json
import tarfile

import pytest

from harness import cli
from tests.harness.package_campaign import COMMIT, NativeExecutor, fields_file, finished_campaign


@pytest.fixture(scope="module")
def campaign_directory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return finished_campaign(tmp_path_factory.mktemp("runs"), patch)


@pytest.fixture
def clean_checkout(monkeypatch):
    from harness import packaging
    from tests.harness.package_campaign import git

    monkeypatch.setattr(packaging, "_git", git)


@pytest.fixture(scope="module")
def package(campaign_directory, tmp_path_factory):
    """A package built once; the tests that change it copy it."""
    from harness import packaging
    from tests.harness.package_campaign import git

    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packaging, "_git", git)
        fields = str(fields_file(out))
        assert (
            cli.main(["package", "build", str(campaign_directory), "--out", str(out), "--fields", fields])
            == 0
        )
    return out / "Example"


def build(directory, out, *options):
    return cli.main(["package", "build", str(directory), "--out", str(out), *options])


@pytest.mark.parametrize("ruleset", ["5.1.0", "6.0.0", "6.1.0"])
def test_round_trip_every_official_tool_is_clean_under_three_rulesets(package, ruleset, capsys):
    assert cli.main(["check", str(package), "--ruleset", ruleset]) == 0
    assert cli.main(["package", "verify", str(package), "--ruleset", ruleset, "--json"]) == 0
    text = capsys.readouterr().out
    document = json.loads(text[text.index("\n{") + 1 :])
    assert document["ok"] and document["checksums"] == "all as listed"
    tools = {"package_checker", "result_summarizer", "repo_checker", "system_desc_checker"}
    assert {tool: told["verdict"] for tool, told in document["official"].items()} == dict.fromkeys(
        tools, "pass"
    )
    assert [v for v in document["violations"] if v["severity"] == "error"] == []


def test_the_tree_holds_results_description_sources_and_says_what_ran(package):
    files = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    implementation = "benchmarks/llama31_8b/implementations/fourmark_mxfp4"
    assert {f"results/box_mxfp4/llama31_8b/result_{i}.txt" for i in range(10)} <= files
    assert {f"{implementation}/{name}" for name in ("README.md", "Dockerfile", "benchmark.yaml", "run.sh",
            "resolved_config.json", "requirements.txt", "proof.json", "submission/train.py")} <= files  # fmt: skip
    readme = (package / implementation / "README.md").read_text()
    assert (
        COMMIT in readme and "| wgrad | mxfp4 | H16 | even | nearest | native | triton dot_scaled |" in readme
    )
    assert "Unverified" in readme
    description = json.loads((package / "systems/box_mxfp4.json").read_text())
    assert (
        description["accelerator_model_name"] == "AMD Instinct MI355X" and description["cooling"] == "liquid"
    )
    assert description["framework"] == "PyTorch 2.13.0, Megatron-core 0.16.1"
    assert all(isinstance(value, str) for value in description.values())


def test_what_nobody_told_is_listed_with_its_origin(campaign_directory, tmp_path, clean_checkout, capsys):
    assert build(campaign_directory, tmp_path, "--field", "accelerator_model_name=B200", "--json") == 0
    fields = json.loads(capsys.readouterr().out)["systems"]["box_mxfp4"]
    assert fields["cooling"] == {"value": "", "origin": "placeholder"}
    assert fields["submitter"] == {"value": "Example", "origin": "benchmark.yaml"}
    assert (
        fields["framework"]["origin"] == "the campaign" and fields["operating_system"]["origin"] == "probed"
    )
    assert fields["accelerator_model_name"] == {"value": "B200", "origin": "given"}


def test_the_archive_is_the_same_byte_for_byte_and_its_checksums_are_true(
    package, campaign_directory, tmp_path, clean_checkout
):
    fields = str(fields_file(tmp_path))
    assert build(campaign_directory, tmp_path, "--fields", fields) == 0
    first, second = (one.with_name("Example.tar.gz").read_bytes() for one in (package, tmp_path / "Example"))
    assert first == second
    rows = dict(line.split("  ")[::-1] for line in (tmp_path / "Example.sha256").read_text().splitlines())
    assert rows["Example.tar.gz"] == hashlib.sha256(first).hexdigest()
    with tarfile.open(tmp_path / "Example.tar.gz") as tar:
        assert {m.name for m in tar} | {"Example.tar.gz"} == set(rows)
        assert {(m.uid, m.mtime, m.uname) for m in tar} == {(0, 0, "")}


REFUSED = {
    "a proxy": ({"profile": "proxy"}, "a proxy run is no result"),
    "emulated GEMMs": (
        {"backend": "emulated"},
        "found emulated GEMMs in the closed division; allowed: native",
    ),
    "nine runs": ({"runs": 9}, "found 9 finished runs of 9; a submission has at least 10"),
    "changes that no commit holds": ({"dirty": True}, "changes that no commit holds"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_submitted_is_refused_before_anything_is_written(
    change, message, tmp_path, monkeypatch, capsys
):
    if change.get("profile") == "proxy":
        from harness import jobs
        from tests.harness.scripted_harness import scripted_config

        directory = jobs.create(scripted_config(tmp_path / "runs")).directory
    else:
        executor = type("Executor", (NativeExecutor,), {"backend": change.get("backend", "native")})
        directory = finished_campaign(
            tmp_path / "runs",
            monkeypatch,
            executor=executor,
            runs=change.get("runs", 10),
            dirty=change.get("dirty", False),
        )
    assert build(directory, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_uncommitted_changes_and_another_commit_are_refused(
    campaign_directory, tmp_path, monkeypatch, capsys
):
    from harness import packaging

    for answers, message in (
        ({"rev-parse": "d" * 40, "status": ""}, "found commit dddddddddddd, the runs are of c0ffee000000; check"),
        ({"rev-parse": COMMIT, "status": " M run.sh"}, "found uncommitted changes (run.sh)"),
    ):  # fmt: skip
        monkeypatch.setattr(packaging, "_git", lambda first, *_, answers=answers: answers[first])
        assert build(campaign_directory, tmp_path / "out") == 2
        assert message in capsys.readouterr().err


def test_a_secret_in_the_sources_stops_the_package_with_file_and_line(
    campaign_directory, tmp_path, clean_checkout, monkeypatch, capsys
):
    from harness import packaging

    leaky = tmp_path / "leaky"
    (leaky / "harness").mkdir(parents=True)
    (leaky / "harness" / "config.py").write_text("# ok\nKEY = 'AKIA" + "ABCDEFGHIJKLMNOP'\n")
    templates = packaging.ROOT / "harness" / "templates"
    (leaky / "harness" / "templates").symlink_to(templates)
    for name in ("benchmark.yaml", "run.sh", "requirements.txt", "LICENSE"):
        (leaky / name).write_text("x\n")
    (leaky / "submission").mkdir()
    (leaky / "submission" / "train.py").write_text("x\n")
    monkeypatch.setattr(packaging, "ROOT", leaky)
    assert build(campaign_directory, tmp_path / "out", "--fields", str(fields_file(tmp_path))) == 1
    out = capsys.readouterr().out
    assert "harness/config.py:2: [secret error] found an AWS access key" in out and "not built" in out
    assert "AKIA" not in out
    assert list((tmp_path / "out").iterdir()) == []


def test_a_target_that_exists_is_never_overwritten(package, campaign_directory, clean_checkout, capsys):
    assert build(campaign_directory, package.parent) == 2
    assert "exists; allowed: a new directory, nothing is overwritten" in capsys.readouterr().err


def test_a_file_changed_after_building_is_found_by_its_checksum(package, tmp_path, capsys):
    import shutil

    copy = tmp_path / "Example"
    shutil.copytree(package, copy)
    shutil.copy(package.with_name("Example.sha256"), tmp_path)
    (copy / "benchmarks/llama31_8b/implementations/fourmark_mxfp4/run.sh").write_text("echo\n")
    (copy / "systems/box_mxfp4.json").rename(copy / "systems/other.json")
    assert cli.main(["package", "verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "run.sh: changed" in out and "systems/box_mxfp4.json: missing" in out
    assert "systems/other.json: not listed" in out and "no description" in out


def test_of_more_than_ten_runs_the_median_window_is_scored_and_the_others_are_kept(
    tmp_path, monkeypatch, clean_checkout
):
    directory = finished_campaign(tmp_path / "runs", monkeypatch, runs=12)
    assert build(directory, tmp_path / "out", "--fields", str(fields_file(tmp_path))) == 0
    tree = tmp_path / "out" / "Example"
    assert len(list(tree.glob("results/box_mxfp4/llama31_8b/result_*.txt"))) == 10
    assert len(list(tree.glob("benchmarks/*/implementations/*/unscored_runs/run_*.txt"))) == 2


@pytest.mark.parametrize(("field", "message"), [("cooling", "found 'cooling'; allowed: name=value")])
def test_a_field_that_is_none_is_one_clear_line(
    field, message, campaign_directory, tmp_path, clean_checkout, capsys
):
    assert build(campaign_directory, tmp_path, "--field", field) == 2
    assert message in capsys.readouterr().err

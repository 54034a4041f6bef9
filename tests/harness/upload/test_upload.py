"""Curves are uploaded after a run has stopped, and nothing leaves that names a host, a person, a path or a secret."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from dataclasses import replace

import pytest

from harness import cli
from harness.base.errors import ConfigError, EnvironmentFailure, UsageError
from harness.campaign import store
from harness.config import rules
from harness.config.file import resolve
from harness.contract.config import Config
from harness.records import lock, run_environment
from harness.records.run_environment import RunEnvironment
from harness.upload import job_upload, live, targets, upload_record
from tests.harness.scripted_harness import scripted_config
from tests.harness.uploads import SECRET, START_S, attempt_of, finished_job, packages

WITHHELD = upload_record.WITHHELD


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "node-17")
    # asking git takes a while
    monkeypatch.setattr(run_environment, "describe", lambda: RunEnvironment(python="3.11"))
    monkeypatch.setattr(store, "output_directory", lambda: tmp_path / "runs")
    return finished_job(tmp_path / "runs")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The stand-ins in the place of the packages."""
    monkeypatch.syspath_prepend(str(packages(tmp_path / "packages")))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in targets.PACKAGES]:
        del sys.modules[name]


def private(text: str) -> list[str]:
    return [
        word for word in ("node-17", "alice", "10.1.2.3", SECRET, "/scratch", "master_addr") if word in text
    ]


def test_a_record_holds_curves_settings_and_results(job):
    record = upload_record.gather(attempt_of(job.campaigns[0]))
    assert [point.step for point in record.points] == [1, 2, 2, 3, 4, 4]
    first, second, evaluation = record.points[:3]
    assert first.values == {
        "train/loss": 4.0, "train/learning_rate": 1e-4, "train/gradient_norm": 0.5, "train/step_s": 4.0,
        "power/nvidia-smi W": 700.0,
    }  # fmt: skip
    assert "train/gradient_norm" not in second.values, "NaN is no point of a curve"
    assert evaluation.values == {"eval/log_perplexity": 3.5}
    assert [point.time_s - START_S for point in record.points] == [4, 8, 10, 14, 18, 20]
    assert record.settings["batch.global_batch_size"] == 8 and record.settings["run.seed"] is not None
    assert record.results["status"] == "success" and record.results["minutes"] == pytest.approx(1 / 3)
    energy = "energy, nvidia-smi, kWh (informative, not an MLPerf Power result)"
    assert record.results[energy] == pytest.approx(700 * 20 / 3.6e6)


def test_what_names_a_host_a_person_a_path_or_a_secret_stays_here(job):
    settings = upload_record.gather(attempt_of(job.campaigns[0])).settings
    assert not private(json.dumps(settings))
    for name in ("cpu", "variables.NCCL_HOSTS", "variables.TORCH_HF_TOKEN", "variables.CUDA_CACHE_PATH"):
        assert settings[f"environment.{name}"] == WITHHELD
    assert not [name for name in settings if name.startswith(("launch", "data.directory", "runs.output"))]


@pytest.mark.parametrize(
    ("name", "value", "published"),
    [
        ("model.layers", 4, 4), ("a", None, None), ("a", True, True), ("a", "mxfp4", "mxfp4"),
        ("a", ["x", 1], '["x", 1]'), ("a", "bad\x1b[31m", "bad\\x1b[31m"), ("a", "EPYC 9575F / 64", "EPYC 9575F / 64"),
        ("api_key", "s3cr3t-value", WITHHELD), ("a", "token=abc123def456", WITHHELD),
        ("a", "ssh gpu01.cluster.internal", WITHHELD), ("a", "~/x", WITHHELD), ("a", ["/data/x"], WITHHELD),
    ],
)  # fmt: skip
def test_a_setting_is_published_or_withheld(name, value, published):
    assert upload_record.shareable(name, value, []) == published


def test_tensorboard_files_name_no_host_and_an_upload_is_not_repeated(job, installed, tmp_path, capsys):
    names = [made.directory.name for made in job.campaigns]
    assert cli.main(["upload", *names, "--to", "tensorboard", str(tmp_path / "tb")]) == 0
    files = sorted((tmp_path / "tb").rglob("*.fourmark"))
    assert (
        len(files) == 2
        and not list((tmp_path / "tb").glob(".*"))
        and "tensorboard --logdir" in capsys.readouterr().out
    )
    assert files[0].name == "events.out.tfevents.1700000004.fourmark"
    events = [json.loads(line) for line in files[0].read_text().splitlines()]
    scalars = [
        (event["step"], value["tag"], value["simple_value"])
        for event in events if "step" in event for value in event["summary"]["value"]
    ]  # fmt: skip
    assert (
        (1, "train/loss", 4.0) in scalars
        and (4, "eval/log_perplexity", 3.2) in scalars
        and len(scalars) == 21
    )
    assert not private(files[0].read_text()) and WITHHELD in files[0].read_text()
    assert cli.main(["upload", names[0], "--to", "tensorboard", str(tmp_path / "tb")]) == 2
    assert "this run was uploaded here before; choose another place or remove it" in capsys.readouterr().err


def test_wandb_is_told_to_withhold_and_gets_every_step_once(job, installed, tmp_path, capsys):
    place = attempt_of(job.campaigns[0])
    assert cli.main(["upload", str(place), "--to", "wandb", "four-bit"]) == 0
    sent = json.loads((tmp_path / "runs" / "sent.json").read_text())
    assert (sent["project"], sent["group"]) == ("four-bit", job.campaigns[0].directory.name)
    steps = [step for step, _ in sent["rows"]]
    assert steps == [1, 2, 3, 4] and sent["rows"][1][1]["eval/log_perplexity"] == 3.5
    off = ("x_disable_meta", "x_disable_stats", "x_disable_machine_info", "disable_git", "disable_code")
    assert all(sent["settings"][name] is True for name in off) and sent["settings"]["host"] == "withheld"
    told = {key: value for key, value in sent.items() if key != "dir"}
    assert not private(json.dumps(told)) and sent["summary"]["status"] == "success"
    assert "offline; wandb sync" in capsys.readouterr().out


def test_mlflow_gets_batches_it_can_take_and_no_run_twice(job, installed, tmp_path, capsys):
    arguments = ["upload", job.campaigns[0].directory.name, "--to", "mlflow", f"file:{tmp_path / 'ml.json'}"]
    assert cli.main(arguments) == 0
    calls = json.loads((tmp_path / "ml.json").read_text())["calls"]
    assert calls[0] == ["experiment", "llama31_8b"] and calls[-1] == ["ended", "FINISHED"]
    metrics = [metric for call in calls if call[0] == "batch" for metric in call[1]]
    assert ["train/loss", 4.0, 1000 * int(START_S + 4), 1] in metrics
    assert any(key.startswith("result/energy_ nvidia-smi_ kWh") for key, *_ in metrics)
    assert not private(json.dumps(calls)), "hosts, people, paths and secrets"
    assert cli.main(arguments) == 2 and "was uploaded there before" in capsys.readouterr().err


def test_a_run_that_still_trains_is_refused(job, installed, tmp_path, capsys):
    place = attempt_of(job.campaigns[0])
    log = (place / "result.txt").read_text()
    (place / "result.txt").write_text(
        "".join(f"{row}\n" for row in log.splitlines() if "run_stop" not in row)
    )
    assert cli.main(["upload", str(place), "--to", "tensorboard", str(tmp_path / "tb")]) == 2
    said = capsys.readouterr().err
    assert (
        "found a log without run_stop, because the run still trains or was killed; wait until it has stopped"
        in said
    )
    assert not (tmp_path / "tb").exists()


def test_a_job_that_trains_another_run_is_not_disturbed(job, installed, monkeypatch):
    trained = job.campaigns[1].directory
    monkeypatch.setattr(lock, "trainers", lambda directory: [4242] if directory == trained else [])
    for path in (job.campaigns[0].directory, attempt_of(job.campaigns[0])):
        with pytest.raises(UsageError, match=r"processes still train this job \(4242\)"):
            job_upload.select(path)


def test_a_campaign_without_results_has_nothing_to_upload(tmp_path, monkeypatch):
    (made, _) = store.create(scripted_config(tmp_path, runs=1)).campaigns
    with pytest.raises(UsageError, match="found no run that has ended by the rules"):
        job_upload.select(made.directory)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(job, monkeypatch, capsys, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    assert cli.main(["upload", job.campaigns[0].directory.name, "--to", kind, "here"]) == 3
    assert f"{sys.executable} -m pip install {kind}" in capsys.readouterr().err


def test_a_failure_of_the_package_is_one_line(job, installed, capsys):
    assert cli.main(["upload", job.campaigns[0].directory.name, "--to", "wandb", "offended"]) == 3
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "RuntimeError: No API key configured." in said
        and "WANDB_MODE=offline" in said
    )


def test_a_version_that_cannot_withhold_uploads_nothing(job, installed, monkeypatch):
    import wandb  # the stand-in

    monkeypatch.setattr(wandb, "Settings", lambda host: None)
    record = upload_record.gather(attempt_of(job.campaigns[0]))
    with pytest.raises(EnvironmentFailure, match=r"version 0\.99 cannot be told to withhold host names"):
        targets.send("wandb", "p", record, beside=store.output_directory())


def with_upload(job, *wanted):
    config = job.campaigns[0].config
    config = replace(config, runs=replace(config.runs, upload=wanted))
    return replace(job, campaigns=tuple(replace(made, config=config) for made in job.campaigns))


def test_a_configured_upload_follows_the_last_run_and_its_failure_costs_no_result(
    job, installed, tmp_path, capsys
):
    job_upload.after(job, say=print)
    assert not (tmp_path / "tb").exists(), "nobody asked"
    job_upload.after(with_upload(job, "tensorboard", str(tmp_path / "tb")), say=print)
    assert len(list((tmp_path / "tb").iterdir())) == 2
    job_upload.after(with_upload(job, "wandb", "offended"), say=print)
    said = capsys.readouterr().err
    assert "to retry: ./run.sh upload" in said and "--to wandb offended" in said


def test_a_job_to_be_uploaded_needs_the_package_before_it_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = resolve("proxy", overrides=["runs.upload=[wandb, p]"], aliases={}).config
    with pytest.raises(EnvironmentFailure, match="pip install wandb"):
        job_upload.require(config)
    job_upload.require(resolve("proxy", aliases={}).config)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("[ftp, x]", "no tracker 'ftp'; trackers: tensorboard"),
     ("[wandb]", rules.UPLOADS), ("[mlflow, ' ']", rules.UPLOADS),
     ("[mlflow, 'https://me:pw@host/x']", "from its own variables")],
)  # fmt: skip
def test_a_place_that_is_none_is_refused(wanted, words):
    with pytest.raises(ConfigError) as refused:
        resolve("proxy", overrides=[f"runs.upload={wanted}"], aliases={})
    assert words in str(refused.value) and "pw" not in str(refused.value).partition("runs.upload: ")[2]


def growing(job, monkeypatch, *, parts: int = 3):
    """The first campaign's attempt shows a part of its files at each look; nobody trains it after the last part."""
    place, looks = attempt_of(job.campaigns[0]), []
    whole = {
        name: (place / name).read_text().splitlines(keepends=True) for name in ("result.txt", "metrics.jsonl")
    }

    def is_held(directory):
        if directory != job.campaigns[0].directory:
            return False
        looks.append(directory)
        share = min(1.0, len(looks) / (parts + 1))
        for name, lines in whole.items():
            (place / name).write_text("".join(lines[: round(share * len(lines))]))
        return share < 1

    monkeypatch.setattr(lock, "is_held", is_held)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_curves_that_were_followed_are_those_of_an_upload_afterwards(
    job, installed, tmp_path, monkeypatch, kind
):
    names = [made.directory.name for made in job.campaigns[:1]]
    sent = {"tensorboard": "tb/*/*.fourmark", "wandb": "runs/sent.json"}[kind]
    told = []
    for option in ((), ("--follow",)):
        if option:
            growing(job, monkeypatch)
            monkeypatch.setattr(live.time, "sleep", lambda seconds: None)
        place = str(tmp_path / "tb") if kind == "tensorboard" else "four-bit"
        assert cli.main(["upload", *names, "--to", kind, place, *option]) == 0
        (path,) = tmp_path.glob(sent)
        told.append(path.read_text())
        shutil.rmtree(path.parent) if kind == "tensorboard" else path.unlink()
    assert told[0] == told[1] and "eval/log_perplexity" in told[0]


def test_a_job_between_two_trainings_is_still_followed(job):
    """Its harness holds the lock, although no process has it as its standard input."""
    place = job.campaigns[0].directory
    assert not lock.is_held(place)
    with lock.held([place]):
        assert lock.is_held(place) and lock.trainers(place) == []
    assert not lock.is_held(place)


def test_only_a_development_run_that_trains_is_followed(job, installed, tmp_path, monkeypatch, capsys):
    name = job.campaigns[0].directory.name
    follow = ["upload", name, "--follow", "--to"]
    assert cli.main([*follow, "tensorboard", str(tmp_path / "tb")]) == 2
    assert "no process trains this now" in capsys.readouterr().err
    growing(job, monkeypatch)
    assert cli.main([*follow, "mlflow", f"file:{tmp_path / 'ml.json'}"]) == 2
    assert "while a run trains, use tensorboard, wandb" in capsys.readouterr().err
    monkeypatch.setattr(Config, "closed_benchmark", True)
    assert cli.main([*follow, "tensorboard", str(tmp_path / "tb")]) == 2
    assert "found a run under the closed division's rules" in capsys.readouterr().err
    assert not (tmp_path / "tb").exists()

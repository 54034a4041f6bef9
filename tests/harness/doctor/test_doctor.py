"""The doctor never hangs, never crashes, and says of every check what was found and what to do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace

import psutil
import pytest

from harness.base.ask_program import ask_program
from harness.base.errors import EXIT_ENVIRONMENT, EXIT_OK, UsageError
from harness.commands import doctor
from harness.config import profile_choice
from harness.config.file import resolve
from harness.contract.attempt_rows import EngineProbe
from harness.contract.node_answers import PrecisionAnswer
from harness.doctor import gpu, node_report, software
from harness.doctor import nodes as doctor_nodes
from harness.doctor.checks import Check, Finding, Patient, examine


def patient(*, profile: str = "proxy", gpus: int = 0, root=None, **settings) -> Patient:
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config = resolve(profile, overrides=overrides, aliases={}).config
    place = {} if root is None else {"root": root}
    return Patient(config=config, gpus=gpus, needs_gpus=profile != "proxy", quick=True, **place)


def command(*options: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    return doctor.main(parser.parse_args(options))


def fine(name: str = "this", found: str = "well") -> Finding:
    return Finding(name=name, verdict="ok", found=found)


def test_a_machine_without_gpu_can_train_the_proxy_within_a_minute(capsys):
    began = time.monotonic()
    code = command("--quick", "--json", "--profile", "proxy")
    assert time.monotonic() - began < 60
    document = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in document["findings"]}
    if not document["gpus"]:
        assert "the proxy runs instead" in rows["gpu"]["found"]
        assert "reference" in rows["backend mxfp4"]["found"], "the engines' own choice"
        assert (
            "tried and right" in rows["engines"]["found"] and "torch (mxfp4 H16)" in rows["engines"]["found"]
        )
    assert rows["all-reduce"]["verdict"] == "ok" and "GB/s" in rows["all-reduce"]["found"]
    assert code == EXIT_OK and document["ok"] and document["profile"] == "proxy"
    assert all(row["fix"] for row in rows.values() if row["verdict"] != "ok"), "what is wrong can be mended"


def test_the_benchmark_without_gpus_fails(monkeypatch, capsys):
    monkeypatch.setattr(node_report, "accelerators", lambda: 0)
    monkeypatch.setattr(node_report, "all_checks", gpu.checks)
    assert command("--profile", "llama31_8b") == EXIT_ENVIRONMENT
    said = capsys.readouterr().out
    assert "fail    gpu            none; expected: 8; fix:" in said and "cannot train llama31_8b" in said


def test_without_a_profile_the_doctor_takes_the_one_that_would_run(monkeypatch, capsys):
    monkeypatch.setattr(node_report, "accelerators", lambda: 0)
    monkeypatch.setattr(profile_choice, "fitting_profile", lambda overrides: ("proxy", "of the test"))
    monkeypatch.setattr(node_report, "all_checks", gpu.checks)
    assert command() == EXIT_OK
    assert "profile: proxy\nbecause of the test" in capsys.readouterr().err


def test_a_check_that_crashes_is_unknown_and_the_next_one_is_asked():
    def crash(_: Patient) -> list[Finding]:
        raise ZeroDivisionError("of the test")

    checks = [Check(name="broken", ask=crash), Check(name="this", ask=lambda _: [fine()])]
    first, second = examine(patient(), checks, budget_s=10)
    assert (first.name, first.verdict) == (
        "broken",
        "unknown",
    ) and "ZeroDivisionError: of the test" in first.found
    assert second == fine()


@pytest.mark.parametrize("late", ["unknown", "fail"])
def test_a_check_that_hangs_is_left_alone(late):
    hangs = Check(name="stuck", ask=lambda _: time.sleep(60) or [], patience_s=1.2, late=late)
    began = time.monotonic()
    (finding,) = examine(patient(), [hangs], budget_s=30)
    assert time.monotonic() - began < 50
    assert (finding.name, finding.verdict) == ("stuck", late) and "no answer within 1 s" in finding.found


def test_what_there_is_no_time_for_is_said():
    hangs = Check(name="stuck", ask=lambda _: time.sleep(60) or [], patience_s=30)
    _, second = examine(patient(), [hangs, Check(name="this", ask=lambda _: [fine()])], budget_s=1.5)
    assert second.verdict == "unknown" and "no time was left" in second.found


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (["no-such-program"], "No such file"),
        (["sh", "-c", "echo broken >&2; exit 3"], "sh: broken"),
        (["sh", "-c", "exit 3"], "exit status 3"),
        (["sleep", "60"], "did not end within 1 s"),
    ],
)
def test_a_program_that_does_not_answer_is_an_answer(program, why):
    answer = ask_program(program, timeout_s=1)
    assert why in answer.why


def test_all_checks_together_know_their_time():
    """--quick promises a minute."""
    assert node_report._QUICK_S < 60 and all(check.patience_s <= 60 for check in node_report.all_checks())
    names = [check.name for check in node_report.all_checks()]
    assert len(names) == len(set(names))


def test_text_of_a_machine_cannot_move_the_cursor():
    made = node_report.describe(patient(), [fine(found="\x1b[2J\u202egpu")], seconds=1.0)
    assert all(line.isprintable() for line in node_report.table(made))


def test_a_sum_that_takes_too_long_fails(monkeypatch):
    monkeypatch.setattr(software, "_ask", lambda *_: (None, "did not end within 55 s"))
    (finding,) = software.all_reduce(patient())
    assert finding.verdict == "fail" and "did not end" in finding.found and finding.fix


def test_a_question_that_is_given_up_leaves_no_rank_behind(tmp_path):
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(
        f"import os, pathlib, time\npathlib.Path({str(tmp_path)!r}, f'rank_{{os.getpid()}}').touch()\n"
    )
    with sleeper.open("a") as file:
        file.write("time.sleep(600)\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert "did not end within 15 s" in ask_program([*torchrun, str(sleeper)], timeout_s=15).why
    ranks = [int(path.name.removeprefix("rank_")) for path in tmp_path.glob("rank_*")]
    assert len(ranks) == 2 and not any(psutil.pid_exists(rank) for rank in ranks)


@pytest.mark.parametrize(("speed", "verdict"), [(400.0, "ok"), (200.0, "warn"), (50.0, "fail")])
def test_a_slow_sum_is_judged_by_the_links_of_the_gpu(monkeypatch, speed, verdict):
    monkeypatch.setattr(software, "inventory", lambda _: ([{"name": "NVIDIA H200"}], ""))
    answer = {"bus_GBps": speed, "bytes": 2**28, "ranks": 8}
    monkeypatch.setattr(software, "_ask", lambda *_: (answer, ""))
    (finding,) = software.all_reduce(patient(gpus=8))
    assert finding.verdict == verdict and "270 GB/s (60% of one direction" in finding.expected


def test_emulation_is_a_warning_for_the_benchmark_and_fine_for_the_proxy():
    engines = {"fprop": "emulated (emulated)", "dgrad": "emulated (emulated)"}
    assert software._arm(patient(), "mxfp4", engines).verdict == "ok"
    wanted = software._arm(patient(profile="llama31_8b", gpus=8), "mxfp4", engines)
    assert wanted.verdict == "warn" and "its speed says nothing" in wanted.fix


def test_an_arm_that_no_engine_serves_fails():
    engines = {"fprop": "none: no native mxfp4 GEMM on sm_90: .."}
    assert software._arm(patient(), "mxfp4", engines).verdict == "fail"


def report(path, host: str, *findings: Finding):
    made = node_report.describe(patient(), findings, seconds=1.0)
    path.write_text(json.dumps(asdict(replace(made, host=host))), encoding="utf-8")
    return path


def test_the_doctor_examines_for_the_preset_and_the_settings_of_the_run(monkeypatch):
    asked = []
    monkeypatch.setattr(node_report, "accelerators", lambda: 0)
    monkeypatch.setattr(node_report, "all_checks", lambda: [])
    monkeypatch.setattr(node_report, "examine", lambda patient, *_, **__: asked.append(patient.config) or [])
    assert command("--preset", "h200_8x8", "--set", "batch.global_batch_size=64", "--quick") == EXIT_OK
    (config,) = asked
    assert (config.profile, config.parallelism.nodes, config.batch.global_batch_size) == ("llama31_8b", 8, 64)


def test_good_and_bad_nodes_are_listed_apart(tmp_path, capsys):
    ill = Finding(name="gpu ecc", verdict="fail", found="uncorrected errors on GPU 3", fix="drain the node")
    files = [report(tmp_path / "a.json", "a", fine()), report(tmp_path / "b.json", "b", fine(), ill)]
    (tmp_path / "c.json").write_text("Segmentation fault")
    assert command(*map(str, [*files, tmp_path / "c.json"])) == EXIT_ENVIRONMENT
    said = capsys.readouterr().out
    assert "bad     b: gpu ecc: uncorrected errors on GPU 3; fix: drain the node" in said
    assert "good (1): a" in said and "bad (2): b c.json" in said
    assert command(str(files[0])) == EXIT_OK


def test_a_node_unlike_the_others_is_bad(tmp_path, capsys):
    drivers = {"a": "575.1", "b": "575.1", "c": "535.9"}
    files = [report(tmp_path / f"{n}.json", n, fine("gpu driver", found)) for n, found in drivers.items()]
    assert command("--json", *map(str, files)) == EXIT_ENVIRONMENT
    nodes = {row["host"]: row for row in json.loads(capsys.readouterr().out)["nodes"]}
    assert nodes["c"]["complaints"] == ["gpu driver: 535.9; 2 nodes have 575.1"] and nodes["a"]["ok"]


def test_hosts_are_asked_over_ssh_with_the_same_options(tmp_path, monkeypatch):
    asked = []

    def answer(line, **_):
        asked.append(line)
        return ask_program(["sh", "-c", "exit 255"])

    monkeypatch.setattr(doctor_nodes, "ask_program", answer)
    (tmp_path / "hosts").write_text("# rack 1\nnode-a\n\nnode-b\n")
    assert command("--hosts", str(tmp_path / "hosts"), "--quick", "--preset", "h200_8x8") == EXIT_ENVIRONMENT
    assert sorted(line[-2] for line in asked) == ["node-a", "node-b"]
    assert all(line[-1].endswith("run.sh doctor --json --preset h200_8x8 --quick") for line in asked)


@pytest.mark.parametrize("text", ["-oProxyCommand=reboot\n", "a b\n", "", "# nothing\n", "$(reboot)\n"])
def test_a_list_that_names_no_host_is_refused(tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UsageError, match="one host name per line"):
        command("--hosts", str(tmp_path / "hosts"))


def _precision(**said) -> PrecisionAnswer:
    answer = {
        "device": "cuda",
        "devices": 2,
        "torch": "2.13.0",
        "cuda": "13.0",
        "hip": None,
        "collectives": "NCCL",
    }
    answer |= {
        "without_peer_access": (),
        "platform": "sm_100",
        "fp8_units": True,
        "fp4_units": True,
        "arms": {},
    }
    return PrecisionAnswer(**{**answer, "probed": True, **said})


def test_a_torch_that_cannot_use_the_gpus_is_named_with_both_facts(monkeypatch):
    monkeypatch.setattr(software.environment, "gpus_are_hidden", lambda: False)
    why = "torch 2.13.0+cpu is built for CPUs alone"
    finding = software._libraries(patient(gpus=2), _precision(devices=0, why_no_gpu=why))
    assert finding.verdict == "fail" and finding.found.startswith(f"2 GPUs are here, torch can use 0: {why};")
    assert software._libraries(patient(gpus=2), _precision()).verdict == "ok"


def test_gpus_that_somebody_hid_are_said_to_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = software._libraries(patient(gpus=2), _precision(devices=0))
    assert "2 GPUs are here, torch can use 0: the environment hides them;" in finding.found


def test_an_engine_that_failed_its_probe_is_a_warning_with_the_reason():
    right = EngineProbe(engine="triton dot_scaled", what="mxfp4 H16")
    wrong = EngineProbe(
        engine="torch block-scaled", what="mxfp4 H16", failure="NotImplementedError: no FBGEMM"
    )
    finding = software._probes(_precision(probes=(wrong, right)))
    assert finding.verdict == "warn" and finding.fix
    assert "not used: torch block-scaled (mxfp4 H16): NotImplementedError: no FBGEMM" in finding.found
    assert "right: triton dot_scaled (mxfp4 H16)" in finding.found
    assert software._probes(_precision(probes=(right,))).verdict == "ok"
    assert software._probes(_precision(probed=False)).verdict == "unknown"

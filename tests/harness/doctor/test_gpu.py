"""What the doctor makes of the vendors' tools, whose answers are played here: no such machine is needed."""

from __future__ import annotations

import pytest

from harness.doctor import gpu
from tests.harness.doctor.test_doctor import patient
from tests.harness.doctor_machines import MATRIX, nvidia, rocm, rows, tools


def examined(tmp_path, monkeypatch, *, gpus: int, profile: str = "llama31_8b", root=None, **programs: str):
    """Findings of the GPU checks by name."""
    monkeypatch.setenv("PATH", tools(tmp_path / "tools", **programs))
    who = patient(profile=profile, gpus=gpus, root=root)
    return {found.name: found for ask in (gpu.ask, gpu.links) for found in ask(who)}


def test_eight_healthy_gpus_are_fine(tmp_path, monkeypatch):
    found = examined(tmp_path, monkeypatch, gpus=8, nvidia_smi=nvidia(rows(8)))
    assert {finding.verdict for finding in found.values()} == {"ok"}, found
    assert found["gpu"].found == "8 x NVIDIA H200" and found["gpu driver"].found == "575.57.08"
    assert found["gpu links"].found.startswith("NV18 between")


@pytest.mark.parametrize(
    ("change", "name", "verdict", "words"),
    [
        ({"field_8": "2"}, "gpu ecc", "fail", "uncorrected errors on GPU 7"),
        ({"field_7": "Disabled"}, "gpu ecc", "warn", "Disabled"),
        ({"field_9": "500.00"}, "gpu power", "warn", "500/700 W"),
        ({"field_11": "92"}, "gpu clocks", "warn", "GPU 7 at 85 C or more"),
        ({"field_6": "1200"}, "gpu clocks", "warn", "1200/1980 MHz"),
        ({"field_2": "535.1"}, "gpu driver", "warn", "535.1, 575.57.08"),
        ({"field_4": "70000"}, "gpu memory", "warn", "in use on GPU 7"),
        ({"field_1": "NVIDIA A100"}, "gpu", "fail", "NVIDIA A100 and NVIDIA H200"),
        ({"field_12": "Enabled"}, "gpu", "fail", "partitioned (MIG)"),
        ({"field_8": "[N/A]", "field_7": "[N/A]"}, "gpu ecc", "warn", ""),
    ],
)
def test_one_ill_gpu_is_found(tmp_path, monkeypatch, change, name, verdict, words):
    found = examined(tmp_path, monkeypatch, gpus=8, nvidia_smi=nvidia(rows(8, **change)))[name]
    assert found.verdict == verdict and words in found.found and found.fix


@pytest.mark.parametrize(
    ("code", "words"), [("0x0000000000000040", "hardware thermal slowdown"), ("0x80", "hardware power brake")]
)
def test_a_gpu_that_is_slowed_down_is_found(tmp_path, monkeypatch, code, words):
    found = examined(tmp_path, monkeypatch, gpus=1, nvidia_smi=nvidia(rows(1), throttled=code))["gpu clocks"]
    assert found.verdict == "warn" and words in found.found


def test_too_few_gpus_fail_for_the_benchmark_and_do_for_the_proxy(tmp_path, monkeypatch):
    program = nvidia(rows(2))
    assert examined(tmp_path, monkeypatch, gpus=2, nvidia_smi=program)["gpu"].fix.startswith(
        "set GPUS_PER_NODE=2"
    )
    proxy = examined(tmp_path, monkeypatch, gpus=2, profile="proxy", nvidia_smi=program)
    assert proxy["gpu"].verdict == "ok"


def test_gpus_that_meet_over_the_host_are_a_warning(tmp_path, monkeypatch):
    program = nvidia(rows(2), matrix=MATRIX.replace("NV18", "NODE"))
    found = examined(tmp_path, monkeypatch, gpus=2, nvidia_smi=program)["gpu links"]
    assert found.verdict == "warn" and found.found.startswith("NODE between")


def test_a_link_that_is_down_fails(tmp_path, monkeypatch):
    program = nvidia(rows(2), links="Link 0: 26.562 GB/s\\nLink 1: <inactive>\\n")
    found = examined(tmp_path, monkeypatch, gpus=2, nvidia_smi=program)["gpu links"]
    assert found.verdict == "fail" and "1 links down" in found.found


def test_device_files_without_a_tool_are_unknown(tmp_path, monkeypatch):
    found = examined(tmp_path, monkeypatch, gpus=8)["gpu"]
    assert found.verdict == "unknown" and "nvidia-smi: No such file" in found.found


@pytest.mark.parametrize("nonsense", ["", "{}", "not a table", "a,b,c"])
def test_a_tool_that_talks_nonsense_does_not_crash_the_doctor(tmp_path, monkeypatch, nonsense):
    monkeypatch.setenv(
        "PATH", tools(tmp_path / "tools", nvidia_smi=f"echo '{nonsense}'", rocm_smi="echo '[1]'")
    )
    from harness.doctor.checks import examine

    findings = examine(patient(gpus=2), gpu.checks(), budget_s=30)
    assert findings and all(finding.verdict != "ok" or finding.name != "gpu ecc" for finding in findings)


def test_amd_gpus_are_read_from_their_own_tool(tmp_path, monkeypatch):
    """The answer played here was written after the tool's documentation, not recorded on such a machine."""
    ras = [tmp_path / f"root/sys/class/drm/card{card}/device/ras" for card in (1, 9)]
    for directory, errors in zip(ras, (0, 3), strict=True):
        directory.mkdir(parents=True)
        (directory / "umc_err_count").write_text(f"ue: {errors}\nce: 0\n")
    found = examined(tmp_path, monkeypatch, gpus=2, profile="proxy", root=tmp_path / "root", rocm_smi=rocm())
    assert found["gpu"].found == "2 x AMD Instinct MI355X" and found["gpu driver"].found == "6.14.14"
    assert found["gpu memory"].found == "288 GiB, free" and found["gpu power"].found == "1400 W"
    assert found["gpu power"].expected == "1400 W", "as the data sheet says"
    assert found["gpu ecc"].verdict == "fail" and "GPU 1" in found["gpu ecc"].found
    assert found["gpu links"].found.startswith("XGMI between") and found["gpu links"].verdict == "ok"

"""Power is sampled beside a training: by whatever sensors there are, and whatever they do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.base.errors import ConfigError
from harness.base.paths import ROOT
from harness.campaign import status_rows, store
from harness.campaign.runner import run_job
from harness.config.file import resolve
from harness.contract.config import Config
from harness.machine.power import recorder, sampler
from harness.machine.power.recorder import Meter
from harness.machine.power.sources import Hwmon, Lines, Rapl, amd, nvidia, watts
from tests.busy import ENDLESS_S
from tests.harness.power_machines import amdgpu, path_with, rapl
from tests.harness.power_machines import nvidia as nvidia_smi
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def readings(path: Path, source: str) -> list[list[float | None]]:
    return [row["watts"] for row in rows_of(path) if row["source"] == source and "watts" in row]


def asking(sample_s: float) -> Config:
    return resolve("proxy", overrides=[f"power.sample_s={sample_s}"], aliases={}).config


def until(condition, patience_s: float = ENDLESS_S) -> None:
    limit = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < limit, "it never came"
        time.sleep(0.02)


@contextmanager
def measured(
    directory: Path, *sources: str, root: Path = Path("/"), every_s: float = 0.05, patience_s: float = 5.0
):
    """The meter in a thread of the test, so that its patience can be short."""
    ours, theirs = os.pipe()
    path = directory / "power.jsonl"
    with path.open("x") as file:
        log = sampler.Log(file)
        options = {"every_s": every_s, "root": root, "log": log, "stop": ours, "patience_s": patience_s}
        thread = threading.Thread(target=sampler.measure, args=(sources,), kwargs=options)
        thread.start()
        try:
            yield path
        finally:
            os.close(theirs)
            thread.join(ENDLESS_S)
            os.close(ours)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("text", "value"),
    [("612.31", 612.31), ("0", 0.0), ("612.31 W", 612.31), ("[N/A]", None), ("N/A", None), ("[Unknown Error]", None),
     ("nan", None), ("-5", None), ("1e9", None), ("100001", None), ("", None), ("6 12", None)],
)  # fmt: skip
def test_a_reading_is_a_number_that_a_device_can_draw(text, value):
    assert watts(text) == value


def test_a_sample_is_complete_when_a_device_speaks_again():
    lines = Lines(tool=nvidia(module=False))
    assert [lines.take(text, now) for now, text in enumerate(["0, 100.5", "1, [N/A]", "2, 300"], 10)] == [
        []
    ] * 3
    assert lines.take("0, 101", 20.0) == [(10, "nvidia-smi", (100.5, None, 300.0))]
    assert lines.rest() == [(20.0, "nvidia-smi", (101.0,))] and lines.rest() == []


@pytest.mark.parametrize(
    "text", ["", "Failed to initialize NVML", "x, 100", "0", "0, 1, 2", "99999999, 5", "\x00, 7"]
)
def test_a_line_that_is_no_reading_is_passed_over(text):
    lines = Lines(tool=nvidia(module=False))
    assert lines.take(text, 1.0) == [] and lines.rest() == []


def test_board_and_module_are_two_sources():
    lines = Lines(tool=nvidia(module=True))
    lines.take("0, 700.25, 1100.5", 5.0)
    assert lines.rest() == [(5.0, "nvidia-smi", (700.25,)), (5.0, "nvidia-smi module", (1100.5,))]


def test_amd_smi_says_in_its_heading_where_the_power_stands():
    lines = Lines(tool=amd())
    told = ["timestamp,gpu,socket_power,gfx_voltage", "1763714000,0,741,N/A", "1763714000,1,N/A,N/A"]
    assert [lines.take(text, 3.0) for text in told] == [[], [], []]
    assert lines.take("1763714001,0,750,N/A", 4.0) == [(3.0, "amd-smi", (741.0, None))]


def test_a_card_of_the_amd_driver_is_read_in_microwatts(tmp_path):
    meter = Hwmon(amdgpu(tmp_path, 741_000_000, 1_000_500_000))
    (tmp_path / "sys/class/drm/card1/device/hwmon/hwmon1/power1_average").write_text("broken")
    assert meter.sample(7.0) == (7.0, "amdgpu", (741.0, None))


def test_the_counters_of_processors_become_watts_and_may_begin_again(tmp_path):
    zones = {"zone_0": ("package-0", 999_000_000), "zone_0_0": ("dram", 5_000_000), "zone_0_1": ("core", 1)}
    root = rapl(tmp_path, **zones, zone_1=("psys", 7))
    meter = Rapl(root)
    assert meter.readable and meter.sample(100.0) is None, "a counter says nothing by itself"
    place = root / "sys/class/powercap"
    (place / "intel-rapl:0/energy_uj").write_text("199000000")  # 200 J later
    (place / "intel-rapl:0:0/energy_uj").write_text("25000000")
    assert meter.sample(102.0) == (102.0, "RAPL", (100.0, 10.0)), "packages and memory; psys holds both"


def test_readings_are_written_while_the_block_lasts_and_nothing_is_left_behind(tmp_path, monkeypatch):
    script = f"echo $$ >>{tmp_path}/pids; " + nvidia_smi("0, 100.0\n1, [N/A]")
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=script))
    root = amdgpu(tmp_path, 50_000_000)
    path = tmp_path / "power.jsonl"
    with Meter(sources=("nvidia-smi", "amdgpu"), every_s=0.05, root=root).running(tmp_path):
        until(lambda: path.exists() and len(readings(path, "nvidia-smi")) > 3)
    assert {tuple(row) for row in readings(path, "nvidia-smi")[:-1]} == {(100.0, None)}
    assert readings(path, "amdgpu")[0] == [50.0]
    assert all(abs(row["t"] - time.time()) < 30 for row in rows_of(path))
    pid = (tmp_path / "pids").read_text().split()[-1]
    until(lambda: not Path(f"/proc/{pid}").exists())
    last = rows_of(path)[-1]
    assert last["source"] == sampler.SAMPLER and 0 < last["cpu_s"] < 2


def test_a_tool_that_dies_is_started_again(tmp_path, monkeypatch):
    script = nvidia_smi("0, 100.0\n0, 101.0", then="exit 1")
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=script))
    with measured(tmp_path, "nvidia-smi") as path:
        until(lambda: path.read_text().count('"watts": [100.0]') > 1)
    troubles = [row for row in rows_of(path) if "trouble" in row]
    assert troubles[0]["source"] == "nvidia-smi" and troubles[0]["trouble"] == "the program ended"


def test_a_tool_that_hangs_is_replaced(tmp_path, monkeypatch):
    script = nvidia_smi("0, 100.0\n0, 101.0", then="sleep 600")
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=script))
    with measured(tmp_path, "nvidia-smi", patience_s=0.3) as path:
        until(lambda: path.read_text().count('"watts": [100.0]') > 1)
    assert "no reading for 0 s" in path.read_text()


def test_a_tool_that_talks_nonsense_counts_as_silent(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "PATH", path_with(tmp_path / "bin", nvidia_smi="while :; do echo 'Xid 79, gone'; sleep 0.01; done")
    )
    with measured(tmp_path, "nvidia-smi", patience_s=0.3) as path:
        until(lambda: "trouble" in path.read_text())
    assert not readings(path, "nvidia-smi")


def test_a_tool_that_vanishes_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    with measured(tmp_path, "nvidia-smi", "amdgpu", root=amdgpu(tmp_path, 60_000_000)) as path:
        until(lambda: len(readings(path, "amdgpu")) > 3)
    assert "No such file" in path.read_text()


def test_a_driver_that_knows_no_module_is_asked_for_the_board_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=nvidia_smi("0, 88.0\n1, 90.0")))
    assert recorder.sensors(tmp_path).names == ("nvidia-smi",) and recorder.sensors(tmp_path).values == 2


@pytest.mark.parametrize(
    ("answer", "names"), [("0, 700, 1100", ("nvidia-smi module",)), ("0, [N/A], [N/A]", ()), ("garbage", ())]
)
def test_a_sensor_counts_when_it_has_given_a_reading(tmp_path, monkeypatch, answer, names):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=nvidia_smi(answer, module=True)))
    assert recorder.sensors(tmp_path).names == names


def test_counters_that_only_root_may_read_are_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    counter = rapl(tmp_path, zone_0=("package-0", 5)) / "sys/class/powercap/intel-rapl:0/energy_uj"
    assert recorder.sensors(tmp_path).names == ("RAPL",)
    counter.unlink()
    counter.mkdir()  # root reads every file
    found = recorder.sensors(tmp_path)
    assert found.names == () and "readable by root only: chmod a+r" in found.why[-1]


def test_a_machine_without_sensors_says_so_and_trains(tmp_path, monkeypatch, capsys):
    none = recorder.Sensors(names=(), why=("nvidia-smi: none", "RAPL: none"))
    monkeypatch.setattr(recorder, "sensors", lambda root: none)
    with recorder.prepare(asking(1.0)).running(tmp_path):
        assert not list(tmp_path.iterdir())
    said = capsys.readouterr().err
    assert said == "power: no sensor was found; the run continues without (nvidia-smi: none; RAPL: none)\n"


def test_a_run_is_sampled_and_status_tells_its_energy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", nvidia_smi=nvidia_smi("0, 3600.0\n1, 3600.0")))
    output = tmp_path / "runs"
    monkeypatch.setattr(store, "output_directory", lambda: output)
    config = scripted_config(output, runs=1, runs__arms="[mxfp4]", power__sample_s=0.2)
    job = run_job(store.create(config), command=command())
    assert (
        "power: nvidia-smi, 2 values every 0.2 s; informative, not an MLPerf Power" in capsys.readouterr().err
    )
    (run,) = status_rows.describe(job.campaigns[0]).runs
    (use,) = run.power
    assert use.source == "nvidia-smi" and use.devices == 2 and use.mean_w == pytest.approx(7200)
    seconds = use.energy_kwh * 3.6e6 / 7200
    assert 0 < seconds < 5, "the run lasts that long"
    assert "kWh, mean 7,200 W, peak 7,200 W (nvidia-smi, 2 devices" in "\n".join(
        status_rows.table([status_rows.describe(job.campaigns[0])])
    )


def test_who_does_not_ask_for_power_gets_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorder, "sensors", lambda root: pytest.fail("asked"))
    with recorder.prepare(asking(0)).running(tmp_path):
        assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["0.1", "61", "-1", ".nan"])
def test_samples_come_neither_too_often_nor_too_rarely(value):
    with pytest.raises(
        ConfigError, match=r"power\.sample_s: found .*; allowed: 0 \(none\), or 0\.2 to 60 seconds"
    ):
        resolve("proxy", overrides=[f"power.sample_s={value}"], aliases={})


def test_a_harness_that_is_killed_leaves_no_meter_and_no_tool(tmp_path):
    script = f"echo $$ >>{tmp_path}/pids; " + nvidia_smi("0, 100.0\n0, 101.0")
    environment = {"PATH": path_with(tmp_path / "bin", nvidia_smi=script)}
    code = "import sys, time; from pathlib import Path; from harness.machine.power.recorder import Meter\n"
    code += "with Meter(sources=('nvidia-smi',), every_s=0.2).running(Path(sys.argv[1])): time.sleep(60)"
    killed = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment)
    path = tmp_path / "power.jsonl"
    until(lambda: path.exists() and readings(path, "nvidia-smi"))
    killed.kill()
    killed.wait()
    until(lambda: sampler.SAMPLER in path.read_text())
    pid = (tmp_path / "pids").read_text().split()[-1]
    until(lambda: not Path(f"/proc/{pid}").exists())

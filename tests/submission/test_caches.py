"""Caches are dropped before a run, and it is told when, how and by whom; never really dropped here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from harness.base.paths import ROOT
from harness.contract.benchmark import BENCHMARK
from submission import caches
from tests.submission.configurations import small_config


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """One on which this user may write the kernel's knob, as a file; the page cache holds 2 GiB."""
    knob, memory = tmp_path / "drop_caches", tmp_path / "meminfo"
    knob.touch()
    memory.write_text("MemTotal: 9 kB\nCached:          2097152 kB\n")
    monkeypatch.setattr(caches, "KNOB", knob)
    monkeypatch.setattr(caches, "MEMORY", memory)
    monkeypatch.setattr(caches.os, "sync", lambda: None)
    monkeypatch.setattr(caches, "_sudo", lambda *options: False)
    return knob


def benchmark(data_directory, division: str):
    config = small_config(data_directory)
    system = dataclasses.replace(config.system, division=division)
    return dataclasses.replace(config, benchmark=BENCHMARK, system=system)


def without_privilege(monkeypatch, machine):
    monkeypatch.setattr(caches, "KNOB", machine.parent / "absent")


def test_the_data_files_leave_the_page_cache_without_privilege(data_directory, machine, capsys):
    assert caches.clear(small_config(data_directory)) is True
    assert machine.read_text() == "", "a rehearsal leaves the rest of the machine alone"
    assert "dropping the data files alone; 2.00 GiB cached" in capsys.readouterr().out


def test_missing_data_is_not_called_cleared(tmp_path, machine):
    """The log then says cache_clear false, and the checker refuses the run."""
    assert caches.clear(small_config(tmp_path)) is False


@pytest.mark.parametrize("division", ["closed", "open"])
def test_the_benchmark_drops_everything_and_tells_it_before_and_after(
    data_directory, machine, capsys, division
):
    assert caches.clear(benchmark(data_directory, division)) is True
    assert machine.read_text() == "3"
    before, after = capsys.readouterr().out.splitlines()
    assert before.startswith("caches: 20") and f"dropping everything by {machine}; 2.00 GiB cached" in before
    assert "node 0, uid " in before and "process " in before
    assert "everything dropped in " in after and after.endswith("; 2.00 GiB cached")


def test_a_user_with_sudo_drops_everything_through_it(data_directory, machine, monkeypatch, capsys):
    calls = []
    without_privilege(monkeypatch, machine)
    monkeypatch.setattr(caches, "_sudo", lambda *options: calls.append(options) or True)
    assert caches.clear(benchmark(data_directory, "closed")) is True
    assert calls == [("-l",), ()], "asked first, then done"
    assert "everything by sudo -n sysctl -w vm.drop_caches=3" in capsys.readouterr().out


def test_a_closed_run_without_privilege_does_not_begin(data_directory, machine, monkeypatch):
    without_privilege(monkeypatch, machine)
    with pytest.raises(caches.NotCleared, match=r"the data files dropped, .* run as root; or allow `sudo"):
        caches.clear(benchmark(data_directory, "closed"))
    assert caches.clear(benchmark(data_directory, "open")) is True, "the open division goes on"


def test_a_sudo_that_promises_and_does_not_keep_it_stops_a_closed_run(data_directory, machine, monkeypatch):
    without_privilege(monkeypatch, machine)
    monkeypatch.setattr(caches, "_sudo", lambda *options: options == ("-l",))
    with pytest.raises(caches.NotCleared):
        caches.clear(benchmark(data_directory, "closed"))


@pytest.mark.parametrize(
    ("script", "allowed"), [("exit 0", True), ("echo a password is required >&2; exit 1", False)]
)
def test_sudo_is_asked_without_a_password(tmp_path, monkeypatch, script, allowed):
    program = tmp_path / "sudo"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >{tmp_path}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(caches, "KNOB", tmp_path / "absent")
    assert bool(caches.way()) is allowed
    assert (tmp_path / "asked").read_text() == "-n -l sysctl -w vm.drop_caches=3\n"
    program.unlink()
    assert caches.way() is None


def test_the_harness_is_answered_in_a_process_that_loads_no_torch():
    code = "import runpy, sys; runpy.run_module('submission.caches', run_name='__main__')"
    code += "; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout).keys() == {"way", "fix", "data_files"}

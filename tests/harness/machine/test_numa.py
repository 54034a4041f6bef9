"""Ranks are bound to the NUMA node of their GPU where torchrun can do it for every one of them, and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from harness.machine import numa


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of two nodes with the CPUs of this process in each; put(name, vendor, node) gives it a device."""
    allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    for node in (0, 1):
        directory = tmp_path / f"sys/devices/system/node/node{node}"
        directory.mkdir(parents=True)
        (directory / "cpulist").write_text(f"{allowed}\n")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return tmp_path


def put(root, name: str, *, vendor: str = "0x10de", kind: str = "0x030200", node: int = 0) -> None:
    directory = root / "sys/bus/pci/devices" / name
    directory.mkdir(parents=True)
    for file, text in {"vendor": vendor, "class": kind, "numa_node": str(node)}.items():
        (directory / file).write_text(f"{text}\n")


@pytest.mark.parametrize(("vendor", "kind"), [("0x10de", "0x030200"), ("0x1002", "0x120000")])
def test_gpus_on_two_nodes_are_bound(machine, vendor, kind):
    put(machine, "0000:1b:00.0", vendor=vendor, kind=kind, node=0)
    put(machine, "0000:9b:00.0", vendor=vendor, kind=kind, node=1)
    assert numa.can_bind(machine)


def test_a_machine_of_one_node_has_nothing_to_choose(machine):
    put(machine, "0000:1b:00.0", node=-1)
    shutil.rmtree(machine / "sys/devices/system/node/node1")
    assert not numa.can_bind(machine)


def test_a_node_whose_processors_were_left_to_others_binds_nobody(machine):
    put(machine, "0000:1b:00.0", node=0)
    put(machine, "0000:9b:00.0", node=1)
    (machine / "sys/devices/system/node/node1/cpulist").write_text("4096-4100\n")
    assert not numa.can_bind(machine), "torchrun would end the training"


def test_other_devices_are_no_gpus(machine):
    put(machine, "0000:02:00.0", vendor="0x1a03", kind="0x030000")  # a server's console
    put(machine, "0000:65:00.0", vendor="0x10de", kind="0x020700", node=1)  # a network card
    assert not numa.can_bind(machine)


def test_without_numactl_nobody_is_bound(machine, monkeypatch):
    put(machine, "0000:1b:00.0")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not numa.can_bind(machine)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8\n", {0, 1, 2, 3, 8}), ("\n", set()), ("5", {5}), ("0-1,4-5", {0, 1, 4, 5})]
)
def test_a_list_of_processors_is_read(text, cpus):
    assert numa._cpus(text) == cpus


def test_what_is_read_of_torchrun_is_what_torchrun_takes():
    line = [sys.executable, "-m", "torch.distributed.run", "--help"]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert numa._torchrun_binds() is ("--numa-binding" in said)

"""Which packages each layer of the environment takes, and what of others it keeps."""

from __future__ import annotations

import importlib.metadata

import pytest
from packaging.requirements import Requirement

from harness.base.paths import ROOT
from harness.setup import requirements, torch_build


def test_every_package_of_a_range_has_a_version_of_our_own_within_it():
    known = [Requirement(line) for line in requirements.pins(ROOT)]
    here = {pin.name: pin for pin in known if pin.marker is None or pin.marker.evaluate()}
    for line in requirements.ranges(ROOT, "test"):
        wanted = Requirement(line)
        (pin,) = here[wanted.name].specifier
        assert pin.operator == "==" and wanted.specifier.contains(pin.version), line
    assert {Requirement(line).name for line in requirements.ranges(ROOT, "test")} == set(here)


def test_the_light_layer_holds_no_torch_and_no_pandas():
    names = set(map(requirements.name_of, requirements.ranges(ROOT, "light")))
    assert not names & {"torch", "triton", "megatron-core", "pandas", "pytest"} and "mlperf-logging" in names
    assert names < set(map(requirements.name_of, requirements.ranges(ROOT, "train")))


def test_what_declares_pandas_is_installed_alone():
    together, alone = requirements.split(requirements.ranges(ROOT, "package"))
    assert list(map(requirements.name_of, alone)) == ["mlperf-logging"]
    assert "pandas" in map(requirements.name_of, together)


def test_a_package_outside_of_the_environment_is_kept_where_it_fits(monkeypatch):
    there = {"numpy": "1.26.4", "torch": "2.8.0a0+vendor", "scipy": "1.9"}
    monkeypatch.setattr(requirements, "_outer_version", there.get)
    wanted = ["numpy>=1.26", "torch>=2.7", "scipy>=1.12", "rich>=13.7"]
    assert requirements.outer(wanted) == ["numpy==1.26.4", "torch==2.8.0a0+vendor"]


def test_a_package_of_this_environment_is_none_of_an_outer_one():
    assert requirements.outer(["pytest>=1"]) == []


def test_a_torch_that_declares_its_triton_keeps_it(monkeypatch):
    for declared, kept in ((["triton==3.6.0; x"], True), (["sympy"], False), (None, False)):
        monkeypatch.setattr(importlib.metadata, "requires", lambda _, declared=declared: declared)
        assert torch_build.brings_triton() is kept


@pytest.mark.parametrize("device", ["nvidia0", "kfd", ""])
def test_the_build_of_torch_follows_the_hardware(device, monkeypatch):
    monkeypatch.setattr(torch_build.Path, "glob", lambda self, _: [1] if device == "nvidia0" else [])
    monkeypatch.setattr(torch_build.Path, "exists", lambda self: device == "kfd" and str(self) == "/dev/kfd")
    monkeypatch.setattr(torch_build.platform, "system", lambda: "Linux")
    found = [
        (build.requirement, build.index and build.index.rpartition("/")[2])
        for build in torch_build.builds("2.13.0")
    ]
    assert (
        found
        == {
            "nvidia0": [("torch==2.13.0", None)],
            "kfd": [("torch==2.13.0", "rocm7.2")],
            "": [("torch==2.13.0+cpu", None), ("torch==2.13.0+cpu", "cpu")],
        }[device]
    )

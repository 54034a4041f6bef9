"""facts.yaml: every figure has a source, names mean the device they say, and compliance's copy is equal."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from compliance.rule_input import peaks_of
from harness.base.paths import ROOT
from harness.machine import facts

FIGURES = {field.name for field in dataclasses.fields(facts.Accelerator)} - {
    "name",
    "maker",
    "sold_as_gb",
    "sources",
}
ROWS = list(facts.accelerators().values())
COMPLIANCE = yaml.safe_load((ROOT / "compliance" / "rulesets" / "accelerators.yaml").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_figure_has_a_source_and_every_source_a_figure(row):
    known = {name for name in FIGURES if getattr(row, name) is not None}
    assert set(row.sources) == known and all(row.sources.values())
    assert row.maker in ("NVIDIA", "AMD") and "bf16" in row.dense_tflops


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_memory_is_what_a_driver_leaves_of_what_is_sold(row):
    """GiB of a whole device cannot be more than what is sold, in the larger unit, nor much less than in the smaller."""
    if row.memory_gib is None:
        return
    assert 0.87 * min(row.sold_as_gb) * 1e9 / 2**30 <= row.memory_gib < max(row.sold_as_gb)


def test_memory_is_what_machines_report():
    known = {name: row.memory_gib for name, row in facts.accelerators().items()}
    assert (known["H100"], known["H200"], known["B200"], known["MI355X"]) == (79, 139, 178, 287)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("h200", "H200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200-SXM5-141GB", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA Blackwell GPU (B200-SXM-180GB)", "B200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA Blackwell Ultra GPU (B300-SXM-270GB)", "B300"),
        ("NVIDIA GB300", "GB300"),
        ("AMD Instinct MI300X VF", "MI300X"),
        ("AMD Instinct MI350X OAM", "MI350X"),
        ("AMD Instinct MI355X 288GB HBM3e", "MI355X"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GH200 480GB", "GH200"),
    ],
)
def test_a_name_finds_its_row(model, name):
    found = facts.accelerator(model)
    assert found is facts.accelerators()[name]
    assert peaks_of(model) == COMPLIANCE[name]


@pytest.mark.parametrize(
    "model",
    [
        "",
        "NVIDIA H100 NVL",
        "NVIDIA H100 PCIe",
        "NVIDIA H200 NVL",
        "NVIDIA A100-PCIE-40GB",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA H20",
        "NVIDIA H2000",
        "NVIDIA A1000",
        "AMD Instinct MI300A",
        "AMD Instinct MI308X",
        "NVIDIA GeForce RTX 4090",
        "H100 or H200",
    ],
)
def test_another_device_is_unknown_on_both_sides_of_the_wall(model):
    assert facts.accelerator(model) is None and peaks_of(model) == {}


@pytest.mark.parametrize(
    "model", ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 96GB HBM3", "H100 64 GB", "MI355X 144G"]
)
def test_a_name_with_another_memory_has_no_row(model):
    assert facts.accelerator(model) is None


def test_compliance_keeps_the_same_peaks_behind_its_wall():
    ours = {
        name: {"bfloat16" if one == "bf16" else one: peak for one, peak in row.dense_tflops.items()}
        for name, row in facts.accelerators().items()
    }
    assert ours == COMPLIANCE

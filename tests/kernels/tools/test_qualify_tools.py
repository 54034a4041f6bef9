"""The tools that `qualify` starts: slices that together compare everything, and speeds as shares."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from harness.contract.qualify_rows import ComparedRow, SpeedRow
from kernels.recipe import Quantizer, Rounding, Signs
from kernels.tools import kernel_bench, oracles, speed_shares, verify_processes, verify_slices, verify_twins

CPU = torch.device("cpu")


def names(kind) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_every_quantizer_is_compared_with_every_twin_and_the_submitted_recipe_first():
    found = verify_slices.cases(CPU, seeds=1)  # the tests run Triton in its interpreter
    count = len(verify_twins.quantizers())
    on_cpus = count + len(verify_twins.quantizers_of_cpus())
    by_twin = {twin: [one.what for one in found if one.twin == twin] for twin in {one.twin for one in found}}
    assert {twin: len(set(what)) for twin, what in by_twin.items()} == {
        "gemm": 1, "triton packed": count, "triton values": count, "cpu": on_cpus
    } | ({} if oracles.torchao_missing() else {"torchao": len(oracles.quantizers())})  # fmt: skip
    first = [what[0] for twin, what in by_twin.items() if twin not in ("gemm", "torchao")]
    assert first == ["mxfp4 H16 even nearest"] * 3


def test_a_slice_prints_what_the_harness_reads():
    chosen = [one for one in verify_slices.cases(CPU, seeds=1) if one.twin == "cpu"][:2]
    rows = list(verify_slices.compared(chosen, 112))
    assert [set(row) for row in rows] == [names(ComparedRow)] * 2
    assert all(row["difference"] is None and row["cases"] == 7 and row["of"] == 112 for row in rows)


def test_a_wide_transform_is_compared_with_every_kind_of_input_too():
    (one,) = [
        c for c in verify_slices.cases(CPU, seeds=1) if (c.twin, c.what) == ("cpu", "mxfp4 H128 even nearest")
    ]
    (outcome,) = one.compare()
    assert outcome.cases == 7 and outcome.difference is None


def test_a_kernel_that_raises_or_differs_hides_no_other(monkeypatch):
    def broken(x, one):
        raise RuntimeError("PTX of the test\nand more")

    def wrong(x, one):
        yield "values", torch.zeros_like(x), torch.ones_like(x)

    quantizer = Quantizer(hadamard=16)
    chosen = [
        verify_slices._case("broken", broken, CPU, quantizer, 1),
        verify_slices._case("wrong", wrong, CPU, quantizer, 1),
        verify_slices._case("right", verify_twins.cpu_values, CPU, quantizer, 1),
    ]
    first, second, third = verify_slices.compared(chosen, 3)
    assert first["difference"] == "RuntimeError: PTX of the test"
    assert "got 0.0, expected 1.0" in second["difference"] and third["difference"] is None


def test_speeds_are_shares_of_the_rates_of_the_same_process(monkeypatch):
    monkeypatch.setattr(kernel_bench, "timer", lambda device, **_: lambda call: (call(), 1e-3)[1])
    rows = list(speed_shares.measured(CPU))
    assert {one.name for one in dataclasses.fields(speed_shares.Shared)} == names(SpeedRow)
    assert [row.group for row in rows[:2]] == ["copy", "matrix"] and not any(row.share for row in rows[:2])
    for row in rows[2:]:
        rate = rows[0].moved_bytes if row.group == "quantise" else rows[1].flops
        assert row.share == pytest.approx((row.moved_bytes or row.flops) / rate)
    assert "tiny MXFP4 H16 (reference, torch)" in {row.what for row in rows}


def test_seeds_of_comparisons_have_all_their_bits():
    quantizer = Quantizer(hadamard=16, signs=Signs.FIXED, rounding=Rounding.STOCHASTIC)
    for seed in range(3):
        draw = verify_twins.use(quantizer, seed, CPU, 64).draw
        assert min(draw.seed, draw.offset) > 1 << 40 and max(draw.seed, draw.offset) < 1 << 64


def test_rows_of_several_processes_are_summed_and_a_process_that_dies_is_a_difference():
    row = {"twin": "cpu", "cases": 2, "elements": 10, "moved": 1, "difference": None, "what": "mxfp4"}
    wrong = {**row, "difference": "row 3", "what": "mxfp8"}
    printed = "".join(json.dumps(one) + "\n" for one in (row, wrong, {**wrong, "difference": "row 9"}))
    found = verify_processes.joined(
        verify_processes._rows([(printed, "", 0), ("", "Traceback\nKilled", 137)])
    )
    assert [dataclasses.astuple(one) for one in found] == [
        ("cpu", 6, 30, 3, "mxfp8: row 3"), ("verify", 0, 0, 0, "a process that compares: Killed")
    ]  # fmt: skip

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

import triton

from harness import cli
from kernels.matmul import tune, tuned_blas
from kernels.matmul.triton import Tiling
from kernels.quantize import reference
from kernels.recipe import Quantizer
from kernels.tools import commands, inputs, tuning, verify_slices, verify_twins
from kernels.tools.commands import poisoned_outputs
from tests.kernels.conftest import DEVICE


@functools.cache
def proofs(target: str):
    """What `kernels prove --json` finds for a target; a process of its own, because this one interprets."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels", "prove", "--json", "--target", target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {row["case"]: row for row in json.loads(done.stdout)["kernels"]}


@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("sm_100", "tcgen05.mma.cta_group::1.kind::mxf4.block_scale.block32"),
        pytest.param(
            "sm_120",
            "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0",
            marks=pytest.mark.slow,
        ),
        ("gfx950", "v_mfma_scale_f32_32x32x64_f8f6f4"),
        ("sm_100 nvfp4", "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16"),
        pytest.param(
            "sm_103 nvfp4",
            "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sm_120 nvfp4",
            "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_chips_with_fp4_units_multiply_with_them(target, instruction):
    target, _, element = target.partition(" ")
    name = f"gemm {element or 'e2m1'}"
    rows = [row for case, row in proofs(target).items() if case.startswith(name)]
    assert len(rows) == 1 and instruction in rows[0]["matrix"]


SLOW = ("sm_90", "sm_103", "sm_120", "gfx942")
QUICK = ("sm_100", "gfx950")  # the chips of four-bit submissions; the others take a minute more


def test_every_target_is_proven_here():
    assert {*QUICK, *SLOW} == set(commands._TARGETS)


@pytest.mark.parametrize("target", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_no_kernel_spills_registers(target):
    assert [case for case, row in proofs(target).items() if row["spilled_bytes"]] == []


def test_blackwell_moves_scales_into_tensor_memory_and_converts_in_hardware():
    gemms = [row for case, row in proofs("sm_100").items() if case.startswith("gemm")]
    assert len(gemms) == 3 and all(row["moves"]["tcgen05.cp"] for row in gemms)
    both = {"sm_100": "cvt.rn.satfinite.e2m1x2.f32", "gfx950": "v_cvt_scalef32_pk_fp4_f32"}
    for target, conversion in both.items():
        # 64 x 128 elements in 2 orientations, 2 elements an instruction, 4 warps of 32 or 64 lanes
        lanes = 4 * (32 if target == "sm_100" else 64)
        for format in ("mxfp4", "nvfp4"):
            found = proofs(target)[f"{format} H16, both"]["conversions"]
            assert found == {conversion: 2 * 64 * 128 // 2 // lanes}


def test_no_conversion_of_gfx950_hands_its_result_to_the_next_instruction():
    converting = {case: row for case, row in proofs("gfx950").items() if row["conversions"]}
    assert any("v_cvt_scalef32_pk_fp4_f32" in row["conversions"] for row in converting.values())
    assert [key for key, row in converting.items() if row["hazards"]] == []


def test_a_proof_that_fails_says_what_is_missing():
    found = "prove.Found('sm_100', 'gemm e2m1', {}, {}, {}, 9, 8, 0, 1)"
    program = f"from kernels.tools import prove; print('\\n'.join(prove.complaints({found})))"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "sm_100, gemm e2m1: no block-scaled matrix instruction; it has none",
        "sm_100, gemm e2m1: scales go through registers; expected tcgen05.cp",
        "sm_100, gemm e2m1: 8 bytes of registers spilled",
    ]


def test_the_kernels_of_the_submitted_recipe_equal_the_specification():
    """The first cases of `kernels verify`, and of the rest every 120th; the slow test below has all of them."""
    cases = verify_slices.cases(DEVICE, seeds=1)
    chosen = [*cases[:7], *cases[7::120]]
    rows = list(verify_slices.compared(chosen, len(cases)))
    assert [row for row in rows if row["difference"]] == [] and all(row["elements"] for row in rows)
    assert {row["twin"].partition(" by")[0] for row in rows} >= {
        "gemm",
        "triton packed",
        "triton values",
        "cpu",
    }


@pytest.mark.slow
def test_verify_compares_every_twin_and_finds_none_different(capfd):
    assert cli.main(["kernels", "verify", "--seeds", "1", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] and {"cpu", "triton packed", "triton values", "gemm by torch"} <= {
        twin["twin"] for twin in document["twins"]
    }
    assert all(twin["cases"] and twin["elements"] for twin in document["twins"])


def test_a_difference_is_located_by_row_block_and_element():
    def damaged(x, one):
        quantized = reference.quantize(x, one.quantizer)
        values = reference.dequantize(quantized)
        wrong = values.clone()
        wrong[5, 70] += 1.0
        yield "values", wrong, values

    outcome = verify_twins.run(
        "damaged", damaged, device=torch.device("cpu"), shapes=[(8, 128)], seeds=1, chosen=[Quantizer()],
        kinds=["short"],
    )  # fmt: skip
    assert outcome.difference.startswith(
        "short, seed 0: (8, 128) mxfp4 even none rows 1, values: row 5, block 2, element 6: "
    )


def test_an_implementation_that_leaves_outputs_unwritten_is_found():
    """Zeros would look right to a fresh, zeroed output: poisoned ones do not."""

    def idle(x, one):
        values = reference.dequantize(reference.quantize(x, one.quantizer)).bfloat16()
        yield "values", torch.empty_like(values), values

    with poisoned_outputs():
        outcome = verify_twins.run(
            "idle",
            idle,
            device=torch.device("cpu"),
            shapes=[(8, 128)],
            seeds=1,
            chosen=[Quantizer()],
            kinds=["sparse"],
        )
    assert "got nan" in outcome.difference


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU is here: kernels bench itself measures")
def test_the_gpu_bench_runs_through_in_the_interpreter(capsys):
    """Speed means nothing here; the command that will be typed on a GPU is tried as far as a CPU can."""
    assert commands.bench_report(DEVICE, small=True, as_json=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["quantisers"][0]["what"] == "copy (BF16)"
    assert all(
        row["time_s"] > 0 for group in ("quantisers", "products", "linears") for row in document[group]
    )
    assert document["linears"][2]["what"] == "tiny MXFP4 H16 forward + backward (reference, torch)"


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU is here")
def test_bench_without_a_gpu_says_so(capfd):
    assert cli.main(["kernels", "bench"]) == 3
    assert "torch sees no GPU; use --cpu" in capfd.readouterr().err


def test_tilings_are_kept_with_their_provenance_and_forgotten_with_another_triton(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "default_directory", lambda: tmp_path / "new")
    tiling = {"BM": 128, "BN": 128, "BK": 128, "stages": 2, "warps": 8}
    path = tune.store(torch.device("cpu"), {"1,2,3,e2m1": {"tiling": tiling, "time_s": 1.0}})
    document = json.loads(path.read_text())
    assert document["device"] == "cpu" and document["triton"] and document["torch"] == torch.__version__
    assert tune._table("cpu") == {"1,2,3,e2m1": Tiling(**tiling)}
    path.write_text(path.read_text().replace(document["triton"], "2.0.0"))
    tune._table.cache_clear()
    assert tune._table("cpu") == {}
    path.write_text("{ damaged")
    tune._table.cache_clear()
    assert tune._table("cpu") == {}
    tune._table.cache_clear()


class Tunable:
    """torch.cuda.tunable of a ROCm build: it writes results while it tunes, and drops a file of other versions."""

    def __init__(self):
        self.said, self.file, self.is_valid = [], "", True

    def __getattr__(self, name):
        return lambda value: self.said.append((name, value))

    def set_filename(self, path):
        self.file = path

    def read_file(self, path):
        return self.is_valid and Path(path).read_text().startswith("Validator")

    def get_results(self):
        return [("GemmTunableOp_BFloat16_TN", "tn_1_2_3", "Gemm_Hipblaslt_7", 0.1)]


def test_torchs_kernels_are_measured_outside_of_runs_and_used_in_them(tmp_path, monkeypatch):
    here, tunable = torch.device("cuda"), Tunable()
    monkeypatch.setattr(tuned_blas, "tunable", tunable)
    monkeypatch.setattr(tune, "default_directory", lambda: tmp_path / "new")
    monkeypatch.setattr(tune, "_device", lambda _: "AMD Instinct MI355X")
    monkeypatch.setattr(torch.version, "hip", None)
    assert "ROCm alone" in tuned_blas.why_not() and tuned_blas.use(here) == 0
    monkeypatch.setattr(torch.version, "hip", "7.2")
    assert tuned_blas.use(here) == 0 and tunable.said == []  # nothing was measured

    def work():
        assert tunable.said[-1] == ("tuning_enable", True)
        Path(tunable.file).write_text("Validator,PT_VERSION,2.13.0\n")

    path = tuned_blas.measure(here, work)
    assert path.name == "tunableop_AMD_Instinct_MI355X.csv"
    assert tunable.said[-2:] == [("tuning_enable", False), ("enable", False)]
    assert tuned_blas.use(here) == 1 and ("tuning_enable", True) not in tunable.said[4:]
    tunable.is_valid = False
    assert tuned_blas.use(here) == 0 and tunable.said[-1] == ("enable", False)


def test_the_shapes_to_tune_are_those_of_every_product_of_a_micro_batch():
    found = tuning.shapes(32768)
    assert len(found) == 11 and all(32768 in shape for shape in found)


def test_inputs_are_the_same_for_the_same_seed():
    for kind in inputs.KINDS:
        first, again = (inputs.make(kind, (8, 64), 3).view(torch.int16) for _ in range(2))
        assert torch.equal(first, again)


SASS = Path(__file__).parents[3] / "docs" / "measurements" / "2026-11-29_sass.md"


def limits(target: str) -> dict[str, list[str]]:
    """Kernel -> registers, warps, instructions an element, barriers, shared kB, blocks: the page's second table."""
    rows = [line.strip("| ").split(" | ") for line in SASS.read_text().splitlines() if line.startswith("| ")]
    return {row[1]: row[2:] for row in rows if row[0] == target and len(row) == 8}


@pytest.mark.parametrize("target", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_kernels_keep_the_registers_instructions_and_barriers_of_the_measurements(target):
    """With 5 % more instructions and eight registers more than the page says, in its version of Triton."""
    if f"Triton {triton.__version__}," not in SASS.read_text():
        pytest.skip(f"the page's figures are of another Triton than {triton.__version__}")
    found, worse = {case: row for case, row in proofs(target).items() if row["elements"]}, []
    assert set(found) == set(limits(target))
    for case, (registers, _, per_element, barriers, _, _) in limits(target).items():
        row = found[case]
        if row["registers"] > int(registers) + 8 or row["per_element"] > 1.05 * float(per_element):
            worse.append((case, row["registers"], row["per_element"]))
        if row["barriers"] > int(barriers) + 2:
            worse.append((case, row["barriers"]))
    assert worse == []


# what the submitted recipe (amd-te) launches, natively and emulated
DEFAULT = ("mxfp4 H16, both", "mxfp4 H16 values, both", "mxfp4 H16 values of rows, codes of columns")


@pytest.mark.parametrize("target", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)])
def test_three_blocks_of_the_default_recipes_kernels_fit_on_a_multiprocessor(target):
    rows = [row for case, row in proofs(target).items() if case in DEFAULT]
    assert len(rows) == (0 if target == "sm_103" else 3)
    assert [row["case"] for row in rows if row["blocks_by_registers"] < 3 or row["blocks"] < 3] == []


def test_mxfp8_is_rounded_by_the_chips_conversion():
    """64 x 128 elements in 2 orientations, 2 elements an instruction, 4 warps."""
    for target, conversion in (
        ("sm_100", "cvt.rn.satfinite.e4m3x2.f32"),
        ("gfx950", "v_cvt_scalef32_pk_fp8_f32"),
    ):
        lanes = 4 * (32 if target == "sm_100" else 64)
        assert proofs(target)["mxfp8, both"]["conversions"] == {conversion: 2 * 64 * 128 // 2 // lanes}

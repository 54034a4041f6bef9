"""What `kernels prove` reads in assembly, on a few lines of it."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels.tools import prove

FIRST = "v_cvt_scalef32_pk_fp4_f32 v1, v2, v3, 1.0"


def hazards(*lines: str) -> int:
    return prove.conversion_hazards("kernel:\n" + "".join(f"\t{line}\n" for line in lines))


@pytest.mark.parametrize(
    "after",
    [
        "v_cvt_scalef32_pk_fp4_f32 v1, v4, v5, 1.0 op_sel:[0,0,1,0]",
        "v_add_u32_e32 v6, 7, v1",
        "v_pk_mul_f32 v[8:9], v[0:1], v[4:5]",
    ],
)
def test_a_result_that_the_next_instruction_takes_is_a_hazard(after):
    assert hazards(FIRST, after) == 1
    assert hazards(FIRST, "s_nop 0", after) == 0
    assert hazards(FIRST, "v_mov_b32_e32 v9, 0", after) == 0


def test_comments_and_labels_lie_between_no_instructions():
    assert hazards(FIRST, ";#ASMEND", "v_add_u32_e32 v6, 7, v1") == 1


def test_other_registers_and_memory_instructions_are_none():
    assert hazards(FIRST, "v_add_u32_e32 v6, 7, v11") == 0
    assert hazards(FIRST, "v_pk_mul_f32 v[8:9], v[2:3], v[10:12]") == 0
    assert hazards("v_add_u32_e32 v1, 7, v1", "v_add_u32_e32 v1, 7, v1") == 0


def test_fp8_in_the_upper_half_is_one_in_the_lower_half_none():
    lower, upper = (
        "v_cvt_scalef32_pk_fp8_f32 v1, v2, v3, 1.0",
        "v_cvt_scalef32_pk_fp8_f32 v1, v4, v5, 1.0 op_sel:[0,0,0,1]",
    )
    assert hazards(lower, upper) == 0
    assert hazards(upper, "v_add_u32_e32 v6, 7, v1") == 1

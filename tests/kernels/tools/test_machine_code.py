"""What `kernels prove` counts in machine code, on a few lines of it."""

from __future__ import annotations

import pytest

from kernels.tools.machine_code import CHIPS, Code, read, resident_blocks

SASS = """
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/               @P1 BRA `(.L_x_2) ;
.L_x_0:
        /*0020*/                   FADD R1, R1, R0 ;
                                                      /* 0x000fe200078e00ff */
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
.L_x_2:
        /*0050*/              @!P0 EXIT ;
        /*0060*/                   EXIT ;
.L_x_1:
        /*0070*/                   BRA `(.L_x_1);
        /*0080*/                   NOP;
"""
AMD = """
kernel:
\ts_load_dword s0, s[4:5], 0x0
.LBB0_1:
\tv_add_f32_e32 v1, v1, v0
\ts_barrier
\ts_nop 0
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
\ts_code_end
"""


@pytest.mark.parametrize("text", [SASS, AMD])
def test_a_loop_counts_as_often_as_it_runs_and_what_lies_behind_the_exit_does_not(text):
    once, thrice = read(text), read(text, 3)
    loop = 3 if text is SASS else 4
    assert (once.barriers, thrice.barriers) == (1, 3)
    assert thrice == Code(once.instructions, once.executed + 2 * loop, 3)
    assert once == (Code(8, 7, 1) if text is SASS else Code(7, 6, 1))


def test_three_blocks_of_128_threads_fit_with_168_registers_and_two_with_one_more():
    def fit(registers, shared=0):
        return resident_blocks("sm_90", registers=registers, warps=4, shared_bytes=shared)

    assert fit(168) == (3, 3) and fit(169) == (2, 2)
    assert fit(32) == (16, 16) and fit(16) == (32, 16)  # 64 warps
    assert fit(32, 100 * 1024) == (16, 2)


def test_the_waves_of_a_simd_share_its_registers_and_a_units_blocks_its_memory():
    assert resident_blocks("gfx950", registers=129, warps=4, shared_bytes=0) == (3, 3)
    assert resident_blocks("gfx950", registers=64, warps=4, shared_bytes=40 * 1024) == (8, 4)
    assert resident_blocks("sm_100", registers=64, warps=4, shared_bytes=0, tensor_columns=128) == (8, 4)
    assert CHIPS["sm_103"] == CHIPS["sm_100"]

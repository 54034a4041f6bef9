"""Packs a tile's scaled numbers into codes, in the order of kernels/quantize/tile.py: int32 words of a block.

Inline assembly is for targets whose instruction rounds to the format; elsewhere, and in the interpreter, the same bits
come from arithmetic.
"""

import triton
import triton.language as tl

from kernels.quantize.tile import code


@triton.jit
def pack(
    z, random, BLOCK: tl.constexpr, P: tl.constexpr, ELEMENT: tl.constexpr, STOCHASTIC: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """(BLOCK, P) scaled FP32 -> int32 words (BLOCK / 8, P) of E2M1 or (BLOCK / 4, P) of FP8, first code lowest.

    ELEMENT's LARGEST is None if no number saturates.
    """
    if ELEMENT[0] == 1:
        words = _pack_e2m1(z, random, BLOCK, P, ELEMENT[3], STOCHASTIC, TARGET)
    else:
        words = _pack_fp8(z, random, BLOCK, P, ELEMENT, STOCHASTIC, TARGET)
    return words


@triton.jit
def _eighths(y, BLOCK: tl.constexpr, P: tl.constexpr):
    """(BLOCK, P) -> the eight (BLOCK / 8, P) of every eight elements, in order."""
    return _split8(tl.permute(tl.reshape(y, (BLOCK // 8, 2, 2, 2, P)), (0, 4, 1, 2, 3)))


@triton.jit
def _quarters(y, L: tl.constexpr, P: tl.constexpr):
    """(L, P) -> the four (L / 4, P) of every four rows, in order."""
    even, odd = tl.split(tl.permute(tl.reshape(y, (L // 4, 2, 2, P)), (0, 3, 1, 2)))
    y0, y2 = tl.split(even)
    y1, y3 = tl.split(odd)
    return y0, y1, y2, y3


@triton.jit
def _split8(z):
    """(.., 2, 2, 2) -> the eight elements in order."""
    even, odd = tl.split(z)
    e0, e1 = tl.split(even)
    o0, o1 = tl.split(odd)
    x0, x4 = tl.split(e0)
    x2, x6 = tl.split(e1)
    x1, x5 = tl.split(o0)
    x3, x7 = tl.split(o1)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _convert_sm_100(x0, x1, x2, x3, x4, x5, x6, x7):
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b8 b0, b1, b2, b3;
        cvt.rn.satfinite.e2m1x2.f32 b0, $2, $1;
        cvt.rn.satfinite.e2m1x2.f32 b1, $4, $3;
        cvt.rn.satfinite.e2m1x2.f32 b2, $6, $5;
        cvt.rn.satfinite.e2m1x2.f32 b3, $8, $7;
        mov.b32 $0, {b0, b1, b2, b3};
        }
        """,
        "=r,f,f,f,f,f,f,f,f",
        [x0, x1, x2, x3, x4, x5, x6, x7],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _convert_gfx950(x0, x1, x2, x3, x4, x5, x6, x7):
    # With a uint8 result and pack=4 the compiler silently drops these instructions. Each writes a part of one register;
    # between two such writes the hardware needs a wait state (LLVM's hasCvtScaleForwardingHazard), hence s_nop. The
    # compiler adds the one after the last.
    return tl.inline_asm_elementwise(
        """
        v_cvt_scalef32_pk_fp4_f32 $0, $1, $2, 1.0
        s_nop 0
        v_cvt_scalef32_pk_fp4_f32 $0, $3, $4, 1.0 op_sel:[0,0,1,0]
        s_nop 0
        v_cvt_scalef32_pk_fp4_f32 $0, $5, $6, 1.0 op_sel:[0,0,0,1]
        s_nop 0
        v_cvt_scalef32_pk_fp4_f32 $0, $7, $8, 1.0 op_sel:[0,0,1,1]
        """,
        "=&v,v,v,v,v,v,v,v,v",
        [x0, x1, x2, x3, x4, x5, x6, x7],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _by_chance_sm_100(x0, x1, x2, x3, x4, x5, x6, x7, w0, w1):
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b16 h0, h1;
        cvt.rs.satfinite.e2m1x4.f32 h0, {$4, $3, $2, $1}, $9;
        cvt.rs.satfinite.e2m1x4.f32 h1, {$8, $7, $6, $5}, $10;
        mov.b32 $0, {h0, h1};
        }
        """,
        "=r,f,f,f,f,f,f,f,f,r,r",
        [x0, x1, x2, x3, x4, x5, x6, x7, w0, w1],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _both(low, high):
    """Two FP32 numbers as the 64 bits of a register pair."""
    return (high.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | low.to(tl.uint32, bitcast=True).to(
        tl.uint64
    )


@triton.jit
def _by_chance_gfx950(p0, p1, p2, p3, w0, w1, w2, w3):
    # wait states as in _convert_gfx950
    return tl.inline_asm_elementwise(
        """
        v_cvt_scalef32_sr_pk_fp4_f32 $0, $1, $5, 1.0
        s_nop 0
        v_cvt_scalef32_sr_pk_fp4_f32 $0, $2, $6, 1.0 op_sel:[0,0,1,0]
        s_nop 0
        v_cvt_scalef32_sr_pk_fp4_f32 $0, $3, $7, 1.0 op_sel:[0,0,0,1]
        s_nop 0
        v_cvt_scalef32_sr_pk_fp4_f32 $0, $4, $8, 1.0 op_sel:[0,0,1,1]
        """,
        "=&v,v,v,v,v,v,v,v,v",
        [p0, p1, p2, p3, w0, w1, w2, w3],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _pack_e2m1(
    y, random, BLOCK: tl.constexpr, P: tl.constexpr, LARGEST: tl.constexpr, STOCHASTIC: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    x0, x1, x2, x3, x4, x5, x6, x7 = _eighths(y, BLOCK, P)
    if STOCHASTIC == "hardware" and TARGET == "sm_100":
        w0, w1 = tl.split(tl.permute(tl.reshape(random, (BLOCK // 8, 2, P)), (0, 2, 1)))
        return _by_chance_sm_100(x0, x1, x2, x3, x4, x5, x6, x7, w0, w1)
    elif STOCHASTIC == "hardware" and TARGET == "gfx950":
        w0, w1, w2, w3 = _quarters(random, BLOCK // 2, P)
        return _by_chance_gfx950(_both(x0, x1), _both(x2, x3), _both(x4, x5), _both(x6, x7), w0, w1, w2, w3)
    elif (TARGET == "sm_100" or TARGET == "sm_120") and STOCHASTIC == "":
        return _convert_sm_100(x0, x1, x2, x3, x4, x5, x6, x7)
    elif TARGET == "gfx950" and STOCHASTIC == "":
        return _convert_gfx950(x0, x1, x2, x3, x4, x5, x6, x7)
    else:
        CHANCE: tl.constexpr = STOCHASTIC != ""
        r0, r1, r2, r3, r4, r5, r6, r7 = x0, x1, x2, x3, x4, x5, x6, x7
        if CHANCE:
            r0, r1, r2, r3, r4, r5, r6, r7 = _eighths(random, BLOCK, P)
        m = _magnitude(x0, r0, CHANCE, LARGEST) << 28
        m = _before(_before(m, x1, r1, CHANCE, LARGEST), x2, r2, CHANCE, LARGEST)
        m = _before(_before(m, x3, r3, CHANCE, LARGEST), x4, r4, CHANCE, LARGEST)
        m = _before(_before(m, x5, r5, CHANCE, LARGEST), x6, r6, CHANCE, LARGEST)
        m = _before(m, x7, r7, CHANCE, LARGEST)
        s = x7.to(tl.uint32, bitcast=True) >> 28
        s = _behind(_behind(_behind(_behind(_behind(_behind(_behind(s, x6), x5), x4), x3), x2), x1), x0)
        return ((m & 0x77777777) | (s & 0x88888888)).to(tl.int32, bitcast=True)


@triton.jit
def _magnitude(x, random, CHANCE: tl.constexpr, LARGEST: tl.constexpr):
    """Scaled FP32 -> uint32 whose lowest three bits are the E2M1 code without its sign; the others are anything."""
    if CHANCE:
        return code(x, random, 1, 0, 6.0, True).to(tl.uint32, bitcast=True)
    else:
        # P = max(binade, 1). The sum of the magnitude and 2^22 P + 6 units rounds to units of P / 2: its lowest bits
        # are 6 + steps, and those of its exponent 2 more than the code's, so that the sum of both is the code modulo 8.
        magnitude = tl.abs(x)
        bits = x.to(tl.int32, bitcast=True)
        if LARGEST is not None:
            magnitude = tl.minimum(magnitude, LARGEST)
            bits = magnitude.to(tl.int32, bitcast=True)
        base = (bits & 0x7F800000) + ((22 << 23) + 6)
        base = tl.maximum(base, (149 << 23) + 6)
        words = (magnitude + base.to(tl.float32, bitcast=True)).to(tl.uint32, bitcast=True)
        return words + (words >> 22)


@triton.jit
def _before(m, x, random, CHANCE: tl.constexpr, LARGEST: tl.constexpr):
    """Eight nibbles that move down by one, with the magnitude of x as the highest: one funnel shift on a GPU."""
    return (m >> 4) | (_magnitude(x, random, CHANCE, LARGEST) << 28)


@triton.jit
def _behind(s, x):
    """Eight nibbles that move up by one, with the sign of x in the lowest."""
    return (s << 4) | (x.to(tl.uint32, bitcast=True) >> 28)


@triton.jit
def _convert_e4m3(x0, x1, x2, x3):
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b16 h0, h1;
        cvt.rn.satfinite.e4m3x2.f32 h0, $2, $1;
        cvt.rn.satfinite.e4m3x2.f32 h1, $4, $3;
        mov.b32 $0, {h0, h1};
        }
        """,
        "=r,f,f,f,f",
        [x0, x1, x2, x3],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _convert_e5m2(x0, x1, x2, x3):
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b16 h0, h1;
        cvt.rn.satfinite.e5m2x2.f32 h0, $2, $1;
        cvt.rn.satfinite.e5m2x2.f32 h1, $4, $3;
        mov.b32 $0, {h0, h1};
        }
        """,
        "=r,f,f,f,f",
        [x0, x1, x2, x3],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def _pack_fp8(
    z, random, BLOCK: tl.constexpr, P: tl.constexpr, ELEMENT: tl.constexpr, STOCHASTIC: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    x0, x1, x2, x3 = _quarters(z, BLOCK, P)
    CHANCE: tl.constexpr = STOCHASTIC != ""
    if (TARGET == "sm_90" or TARGET == "sm_100" or TARGET == "sm_120") and not CHANCE:
        if ELEMENT[0] == 3:
            return _convert_e4m3(x0, x1, x2, x3)
        else:
            return _convert_e5m2(x0, x1, x2, x3)
    else:
        r0, r1, r2, r3 = x0, x1, x2, x3
        if CHANCE:
            r0, r1, r2, r3 = _quarters(random, BLOCK, P)
        low = _byte(x0, r0, ELEMENT, CHANCE, TARGET) | (_byte(x1, r1, ELEMENT, CHANCE, TARGET) << 8)
        high = _byte(x2, r2, ELEMENT, CHANCE, TARGET) | (_byte(x3, r3, ELEMENT, CHANCE, TARGET) << 8)
        return low | (high << 16)


@triton.jit
def _byte(x, random, ELEMENT: tl.constexpr, CHANCE: tl.constexpr, TARGET: tl.constexpr):
    """Scaled FP32 -> int32 FP8 code."""
    if (
        TARGET == "gfx950" and not CHANCE
    ):  # the compiler's conversion, with its wait states, saturates or not by a mode
        x = tl.clamp(x, -ELEMENT[3], ELEMENT[3])
        if ELEMENT[0] == 3:
            byte = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True).to(tl.int32)
        else:
            byte = x.to(tl.float8e5).to(tl.uint8, bitcast=True).to(tl.int32)
    else:
        byte = code(x, random, ELEMENT[0], ELEMENT[1], ELEMENT[3], CHANCE)
    return byte

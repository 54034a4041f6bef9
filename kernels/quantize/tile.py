"""The operations of the Triton kernels on one tile: Hadamard transform, scales, rounding, packing.

TARGET selects instructions, never results: "interpreter" (arithmetic that Triton's interpreter gets right),
"arithmetic" (any GPU), "sm_100" and "sm_120" (PTX cvt to e2m1x2: sm_100a, sm_103a; sm_120a, which has no stochastic
conversion), "gfx950" (v_cvt_scalef32_pk_fp4_f32). STOCHASTIC is "" (nearest), "element" (a random word per element) or
"hardware" (Rounding.HARDWARE), where TARGET decides bits too: kernels/philox.py, shared_words.
An element format is given by MBITS mantissa bits, EMIN and EMAX exponents and LARGEST, as in kernels/formats.py.
"""

import triton
import triton.language as tl


@triton.jit
def loaded(x_ptr, m0, n0, M, N, BM: tl.constexpr, BN: tl.constexpr, WHOLE: tl.constexpr):
    """The (BM, BN) tile at (m0, n0) of a row-major (M, N) matrix; zeros beyond its edges unless all tiles are WHOLE."""
    m = (m0 + tl.arange(0, BM))[:, None]
    n = (n0 + tl.arange(0, BN))[None, :]
    at = x_ptr + m.to(tl.int64) * N + n
    if WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(m < M) & (n < N), other=0.0)
    return x


@triton.jit
def widen(x):
    """BF16 to FP32 through the bits: exact for subnormals in the interpreter too."""
    return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def to_bf16(x, TARGET: tl.constexpr):
    """FP32 to BF16, to nearest even; Triton's interpreter would truncate."""
    if TARGET == "interpreter":
        bits = x.to(tl.uint32, bitcast=True)
        half = tl.where(x != x, 0x7FC0, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        return half.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(tl.bfloat16)


@triton.jit
def transform(
    x, matrix, R: tl.constexpr, C: tl.constexpr, H: tl.constexpr, FACTOR: tl.constexpr, TARGET: tl.constexpr
):
    """(R, C) BF16 -> FP32, every H elements of a row times the (H, H) matrix on the tensor cores, times FACTOR.

    Where BF16 represents 1/sqrt(H), the matrix holds +-1/sqrt(H) and FACTOR is 1. Products are exact; a zero sum is +0.
    """
    if H == 0:
        y = widen(x)
    elif TARGET == "interpreter":  # its BF16 product multiplies raw bits
        y = tl.dot(widen(tl.reshape(x, (R * C // H, H))), widen(matrix))
        y = tl.reshape(y, (R, C)) * FACTOR + 0.0
    else:
        y = tl.reshape(tl.dot(tl.reshape(x, (R * C // H, H)), matrix), (R, C))
        if FACTOR != 1.0:
            y = y * FACTOR
    return y


@triton.jit
def transformed(
    x, matrix_ptr, c0, columns, R: tl.constexpr, C: tl.constexpr, USE: tl.constexpr, TARGET: tl.constexpr
):
    """`transform` by a use's constants, with its matrix loaded, of the tile whose first column is c0."""
    H: tl.constexpr = USE[0]
    signs = x
    if H > 0:
        signs = tl.load(matrix_ptr + tl.arange(0, H)[:, None] * H + tl.arange(0, H)[None, :])
        if USE[9]:  # a sign for every column of the matrix lies behind the Hadamard matrix
            column = c0 + tl.arange(0, C)
            flip = tl.load(matrix_ptr + H * H + column, mask=column < columns, other=1.0)
            flip = flip.to(tl.uint16, bitcast=True) & 0x8000
            x = (x.to(tl.uint16, bitcast=True) ^ flip[None, :]).to(tl.bfloat16, bitcast=True)
    return transform(x, signs, R, C, H, USE[1], TARGET)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def block_maxima(
    y, R: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TARGET: tl.constexpr
):
    """(R, C) -> int32 (R, C // BLOCK): FP32 bits of the largest magnitude of each block, which has ROWS rows."""
    blocks = tl.reshape(y, (R, C // BLOCK, BLOCK))
    if TARGET == "interpreter":
        largest = tl.max(blocks.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 2)
    else:
        largest = tl.reduce(tl.abs(blocks), 2, _larger).to(tl.int32, bitcast=True)
    if ROWS > 1:
        largest = tl.max(tl.reshape(largest, (R // ROWS, ROWS, C // BLOCK)), 1)
        largest = tl.broadcast_to(tl.expand_dims(largest, 1), (R // ROWS, ROWS, C // BLOCK))
        largest = tl.reshape(largest, (R, C // BLOCK))
    return largest


@triton.jit
def block_scales(
    y, largest, R: tl.constexpr, C: tl.constexpr, CARRY: tl.constexpr, ELEMENT: tl.constexpr, LEAST: tl.constexpr
):  # fmt: skip
    """int32 E8M0 (R, C // 32) from the blocks' largest magnitudes; 255 where a value is not finite.

    Args:
        LEAST: take the scale or its double, whichever has the smaller squared error.
    """
    scale = tl.maximum(((largest + CARRY) >> 23) - ELEMENT[2], 0)
    if LEAST:
        doubled = _error(y, scale + 1, R, C, ELEMENT) * 4.0
        scale += (doubled < _error(y, scale, R, C, ELEMENT)).to(tl.int32)
    return tl.where(largest >= 0x7F800000, 255, scale)


@triton.jit
def _error(y, scale, R: tl.constexpr, C: tl.constexpr, ELEMENT: tl.constexpr):
    """(R, C // 32): squared error of each block quantised to nearest, in units of its scale."""
    z = scaled(y, scale, R, C, 1.0)
    return squared_error(z, rounded(z, z, ELEMENT[0], ELEMENT[1], ELEMENT[3], False), R, C, 32)


@triton.jit
def squared_error(y, found, R: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    """(R, C // BLOCK): sums of squared differences, neighbours first, as `elements.tree_sum` adds them."""
    difference = y - found
    x = tl.reshape(difference * difference, (R, C // 16, 2, 2, 2, 2))
    for _ in tl.static_range(4):
        a, b = tl.split(x)
        x = a + b
    if BLOCK == 32:
        a, b = tl.split(tl.reshape(x, (R, C // 32, 2)))
        x = a + b
    return x


@triton.jit
def scaled(y, scale, R: tl.constexpr, C: tl.constexpr, PRESCALE: tl.constexpr):
    """Elements before rounding: y times 2^(127 - scale), a normal float."""
    inverse = tl.maximum(254 - scale, 0) << 23
    inverse = tl.expand_dims(inverse, 2).to(tl.float32, bitcast=True)
    z = tl.reshape(tl.reshape(y, (R, C // 32, 32)) * inverse, (R, C))
    if PRESCALE != 1.0:
        z = z * PRESCALE
    return z


@triton.jit
def _steps(
    y, random, MBITS: tl.constexpr, EMIN: tl.constexpr, LARGEST: tl.constexpr, STOCHASTIC: tl.constexpr
):
    """Return the FP32 bits of P, and the magnitude in units of P / 2^MBITS. element_codes in reference.py defines P."""
    magnitude = tl.minimum(tl.abs(y), LARGEST)
    binade = tl.maximum(magnitude.to(tl.int32, bitcast=True) & 0x7F800000, (EMIN + 127) << 23)
    if STOCHASTIC:
        per_step = ((254 << 23) - binade + (MBITS << 23)).to(tl.float32, bitcast=True)
        exact = magnitude * per_step
        steps = exact.to(tl.int32)
        chance = (random >> 8).to(tl.float32) * 5.9604644775390625e-08
        steps += ((exact - steps.to(tl.float32)) > chance).to(tl.int32)
    else:
        base = binade + ((23 - MBITS) << 23)
        steps = (magnitude + base.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True) - base
    return binade, steps


@triton.jit
def code(y, random, MBITS: tl.constexpr, EMIN: tl.constexpr, LARGEST: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Scaled FP32 -> int32 element code."""
    binade, steps = _steps(y, random, MBITS, EMIN, LARGEST, STOCHASTIC)
    exponent = (binade >> 23) - (EMIN + 127)
    if MBITS == 1:
        sign = (y.to(tl.int32, bitcast=True) >> 28) & 8
    else:
        sign = (y.to(tl.int32, bitcast=True) >> 24) & 128
    return ((exponent << MBITS) + steps) | sign


@triton.jit
def rounded(
    y, random, MBITS: tl.constexpr, EMIN: tl.constexpr, LARGEST: tl.constexpr, STOCHASTIC: tl.constexpr
):
    """Scaled FP32 -> the element's value in FP32, with the sign of zero."""
    if STOCHASTIC:
        binade, steps = _steps(y, random, MBITS, EMIN, LARGEST, STOCHASTIC)
        value = steps.to(tl.float32) * (binade - (MBITS << 23)).to(tl.float32, bitcast=True)
    else:
        magnitude = tl.minimum(tl.abs(y), LARGEST)
        binade = tl.maximum(magnitude.to(tl.int32, bitcast=True) & 0x7F800000, (EMIN + 127) << 23)
        offset = (binade + ((23 - MBITS) << 23)).to(tl.float32, bitcast=True)
        value = (magnitude + offset) - offset
    sign = y.to(tl.int32, bitcast=True) & -2147483648
    return (value.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def power_of(scale):
    """E8M0 -> FP32: a power of two, 2^-127 for byte 0, NaN for 255."""
    bits = tl.where(scale == 255, 0x7FC00000, tl.where(scale == 0, 0x00400000, scale << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def values(
    y, scale, R: tl.constexpr, C: tl.constexpr, MBITS: tl.constexpr, EMIN: tl.constexpr, LARGEST: tl.constexpr
):
    """Unscaled FP32 -> the nearest element times its scale, NaN in blocks whose scale is 255: seven instructions.

    Let P be the power of two at or below the magnitude, but at least the block's smallest normal value. Adding and
    subtracting 1.5 * 2^(23 - MBITS) P rounds to a multiple of P / 2^MBITS. This overflows for scales above 2^73: the
    caller then uses `rounded`.
    """
    power = tl.expand_dims(power_of(scale), 2)
    z = tl.reshape(y, (R, C // 32, 32))
    bits = z.to(tl.int32, bitcast=True)
    smallest = (power * (2.0**EMIN)).to(tl.int32, bitcast=True)
    binade = tl.maximum(bits & 0x7F800000, smallest)
    offset = (binade.to(tl.float32, bitcast=True)) * (1.5 * 2.0 ** (23 - MBITS))
    value = tl.minimum(tl.abs((z + offset) - offset), power * LARGEST, propagate_nan=tl.PropagateNan.ALL)
    value = value.to(tl.int32, bitcast=True) | (bits & -2147483648)
    return tl.reshape(value.to(tl.float32, bitcast=True), (R, C))


@triton.jit
def random_words(seed, offset, rows, columns, K):
    """Philox words of four neighbouring elements: group (row K + column) / 4, see kernels/philox.py.

    rows (R, 1) and columns (1, G) are the places of each group's first element; returns four (R, G) uint32.
    """
    group = (rows.to(tl.int64) * K + columns) >> 2
    low = (group & 0xFFFFFFFF).to(tl.uint32)
    high = (group >> 32).to(tl.uint32)
    wide = tl.zeros_like(group) + offset  # Triton passes a small integer with 32 bits
    return tl.philox(
        seed, low, high, (wide & 0xFFFFFFFF).to(tl.uint32), ((wide >> 32) & 0xFFFFFFFF).to(tl.uint32)
    )


@triton.jit
def random_tile(seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr):
    """(R, C) words, one per element."""
    rows = r0 + tl.arange(0, R)[:, None]
    columns = c0 + 4 * tl.arange(0, C // 4)[None, :]
    w0, w1, w2, w3 = random_words(seed, offset, rows, columns, K)
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (R, C))


@triton.jit
def shared_words(seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr, SHARE: tl.constexpr):
    """(R, C // SHARE) words, one per SHARE neighbouring elements, in the order of a (rows, K // SHARE) matrix."""
    return random_tile(seed, offset, r0, c0 // SHARE, K // SHARE, R, C // SHARE)


@triton.jit
def bytes_of(words, R: tl.constexpr, C: tl.constexpr):
    """(R, C // 4) words -> (R, C): each byte as the upper bits of a word, and one half of its unit."""
    b0, b1, b2, b3 = words & 255, (words >> 8) & 255, (words >> 16) & 255, words >> 24
    both = tl.reshape(tl.join(tl.join(b0, b2), tl.join(b1, b3)), (R, C))
    return (both << 24) | (1 << 23)


@triton.jit
def random_of(seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr, STOCHASTIC: tl.constexpr,
              TARGET: tl.constexpr):  # fmt: skip
    """The random words of a tile as `pack_e2m1` takes them."""
    if STOCHASTIC != "hardware":
        words = random_tile(seed, offset, r0, c0, K, R, C)
    elif TARGET == "sm_100":
        words = shared_words(seed, offset, r0, c0, K, R, C, 4)
    elif TARGET == "gfx950":
        words = shared_words(seed, offset, r0, c0, K, R, C, 2)
    else:
        words = bytes_of(shared_words(seed, offset, r0, c0, K, R, C, 4), R, C)
    return words


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
def pack_e2m1(y, random, R: tl.constexpr, C: tl.constexpr, STOCHASTIC: tl.constexpr, TARGET: tl.constexpr):
    """(R, C) scaled FP32 -> (R, C // 8) int32 of eight codes, the first code in the lowest bits."""
    CHANCE: tl.constexpr = STOCHASTIC != ""
    x0, x1, x2, x3, x4, x5, x6, x7 = _split8(tl.reshape(y, (R, C // 8, 2, 2, 2)))
    if STOCHASTIC == "hardware" and TARGET == "sm_100":
        w0, w1 = tl.split(tl.reshape(random, (R, C // 8, 2)))
        return _by_chance_sm_100(x0, x1, x2, x3, x4, x5, x6, x7, w0, w1)
    elif STOCHASTIC == "hardware" and TARGET == "gfx950":
        even, odd = tl.split(tl.reshape(random, (R, C // 8, 2, 2)))
        w0, w2 = tl.split(even)
        w1, w3 = tl.split(odd)
        return _by_chance_gfx950(_both(x0, x1), _both(x2, x3), _both(x4, x5), _both(x6, x7), w0, w1, w2, w3)
    elif (TARGET == "sm_100" or TARGET == "sm_120") and not CHANCE:
        return _convert_sm_100(x0, x1, x2, x3, x4, x5, x6, x7)
    elif TARGET == "gfx950" and not CHANCE:
        return _convert_gfx950(x0, x1, x2, x3, x4, x5, x6, x7)
    else:
        if CHANCE:
            r0, r1, r2, r3, r4, r5, r6, r7 = _split8(tl.reshape(random, (R, C // 8, 2, 2, 2)))
        else:
            r0, r1, r2, r3, r4, r5, r6, r7 = x0, x1, x2, x3, x4, x5, x6, x7
        low = code(x0, r0, 1, 0, 6.0, CHANCE) | (code(x1, r1, 1, 0, 6.0, CHANCE) << 4)
        low = low | (code(x2, r2, 1, 0, 6.0, CHANCE) << 8) | (code(x3, r3, 1, 0, 6.0, CHANCE) << 12)
        high = code(x4, r4, 1, 0, 6.0, CHANCE) | (code(x5, r5, 1, 0, 6.0, CHANCE) << 4)
        high = high | (code(x6, r6, 1, 0, 6.0, CHANCE) << 8) | (code(x7, r7, 1, 0, 6.0, CHANCE) << 12)
        return low | (high << 16)


@triton.jit
def scale_offsets(r0, c0, R: tl.constexpr, C: tl.constexpr, columns, SWIZZLED: tl.constexpr):
    """Offsets of the scales from row r0 and scale column c0 on: row-major, or in tiles of 128x4 (512 bytes)."""
    r = (r0 + tl.arange(0, R))[:, None]
    c = (c0 + tl.arange(0, C))[None, :]
    if SWIZZLED:
        tile = (r // 128).to(tl.int64) * ((columns + 3) // 4) + c // 4
        return tile * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4
    else:
        return r.to(tl.int64) * columns + c

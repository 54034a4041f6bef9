"""The operations of the Triton kernels on one tile: Hadamard transform, scales, rounding.

A tile of a matrix has R rows and C columns. Its blocks of L consecutive elements of a row are the columns of a tensor
(L, R C / L): block p is number p % (C / L) of row p // (C / L). A GPU then has a block in one thread's registers, so
that its maximum, its butterflies and its packing take no barrier.

TARGET selects instructions, never results but for Hadamard sums on "sm_100" (`transformed`): "interpreter" (arithmetic
that Triton's interpreter gets right), "arithmetic" (any GPU of NVIDIA's), "sm_90" (PTX cvt to FP8: sm_89, sm_90),
"sm_100" and "sm_120" (PTX cvt to e2m1x2 too: sm_100a, sm_103a; sm_120a, which has no stochastic conversion), "gfx" (any
GPU of AMD's), "gfx950" (v_cvt_scalef32_pk_fp4_f32). STOCHASTIC is "" (nearest), "element" (a random word per element)
or "hardware" (Rounding.HARDWARE), where TARGET decides bits too: kernels/philox.py, shared_words. An element format is
given by MBITS mantissa bits, EMIN and EMAX exponents and LARGEST, as in kernels/formats.py.
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
def _widened(y, DEPTH: tl.constexpr):
    """BF16 (.., 2, .., 2) to FP32 number by number: each split puts a dimension into one thread's registers."""
    if DEPTH == 0:
        return widen(y)
    else:
        a, b = tl.split(y)
        return tl.join(_widened(a, DEPTH - 1), _widened(b, DEPTH - 1))


@triton.jit
def blocks(x, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr, TARGET: tl.constexpr):
    """(R, C) BF16 -> (L, R C / L) FP32, L 16 or 32: the module's order. The compiler keeps the layout from here on."""
    P: tl.constexpr = R * C // L
    # Which half of a block is split first decides how often the compiler moves numbers through shared memory.
    AMD: tl.constexpr = TARGET == "gfx" or TARGET == "gfx950"
    y = tl.trans(tl.reshape(x, (P, L)))
    if TARGET == "interpreter":
        y = widen(y)
    elif L == 16:
        y = tl.reshape(y, (2, 2, 2, 2, P))
        y = _widened(tl.permute(y, (4, 3, 2, 1, 0) if AMD else (4, 0, 1, 2, 3)), 4)
        y = tl.reshape(tl.permute(y, (4, 3, 2, 1, 0) if AMD else (1, 2, 3, 4, 0)), (L, P))
    else:
        y = tl.reshape(y, (2, 2, 2, 2, 2, P))
        y = _widened(tl.permute(y, (5, 4, 3, 2, 1, 0) if AMD else (5, 0, 1, 2, 3, 4)), 5)
        y = tl.reshape(tl.permute(y, (5, 4, 3, 2, 1, 0) if AMD else (1, 2, 3, 4, 5, 0)), (L, P))
    return y


@triton.jit
def _butterflies(y, H: tl.constexpr, L: tl.constexpr, P: tl.constexpr, TARGET: tl.constexpr):
    """(L, P): the transform of every H elements of a column, H 16 or 32, in the order of kernels/hadamard.py."""
    for i in tl.static_range(4 if H == 16 else 5):
        pairs = tl.permute(tl.reshape(y, (L // (2 << i), 2, 1 << i, P)), (0, 2, 3, 1))
        a, b = tl.split(pairs)
        y = tl.reshape(tl.permute(tl.join(a + b, a - b), (0, 3, 1, 2)), (L, P))
    ROOT: tl.constexpr = 0.25 if H == 16 else 0.17677669529663687
    if TARGET == "interpreter":
        y = y * ROOT + 0.0
    else:  # in one instruction: the product does not underflow, because sums of BF16 are multiples of 2^-133
        y = tl.fma(y, tl.full((L, P), ROOT, tl.float32), tl.zeros((L, P), tl.float32))
    return y


@triton.jit
def _by_matrix(
    x, matrix, R: tl.constexpr, C: tl.constexpr, H: tl.constexpr, FACTOR: tl.constexpr, TARGET: tl.constexpr
):
    """(R, C) BF16 -> (R C / H, H) FP32, every H elements times the (H, H) matrix on the matrix units, times FACTOR.

    Where BF16 represents 1/sqrt(H), the matrix holds +-1/sqrt(H) and FACTOR is 1. Products are exact; a zero sum is +0.
    """
    x = tl.reshape(x, (R * C // H, H))
    if TARGET == "interpreter":  # its BF16 product multiplies raw bits
        y = tl.dot(widen(x), widen(matrix)) * FACTOR + 0.0
    else:
        y = tl.dot(x, matrix)
        if FACTOR != 1.0:
            y = y * FACTOR
    return y


@triton.jit
def transformed(
    x, matrix_ptr, c0, columns, R: tl.constexpr, C: tl.constexpr, USE: tl.constexpr, TARGET: tl.constexpr
):
    """(R, C) BF16 -> blocks of FP32 after a use's transform; c0 is the tile's first column in the matrix.

    Up to 32 points are added in registers, in the specification's order. More points, and on sm_100 any, are added by
    the matrix unit in another order: sm_100's leaves half a block in each thread, and takes fewer instructions.
    """
    H: tl.constexpr = USE[0]
    BLOCK: tl.constexpr = USE[6]
    P: tl.constexpr = R * C // BLOCK
    if H > 0 and USE[9]:  # a sign for every column of the matrix lies behind the Hadamard matrix
        column = c0 + tl.arange(0, C)
        flip = tl.load(matrix_ptr + H * H + column, mask=column < columns, other=1.0)
        flip = flip.to(tl.uint16, bitcast=True) & 0x8000
        x = (x.to(tl.uint16, bitcast=True) ^ flip[None, :]).to(tl.bfloat16, bitcast=True)
    if H == 0:
        y = blocks(x, R, C, BLOCK, TARGET)
    elif H > 32 or TARGET == "sm_100":
        matrix = tl.load(matrix_ptr + tl.arange(0, H)[:, None] * H + tl.arange(0, H)[None, :])
        y = tl.trans(tl.reshape(_by_matrix(x, matrix, R, C, H, USE[1], TARGET), (P, BLOCK)))
    else:
        L: tl.constexpr = H if H > BLOCK else BLOCK
        y = blocks(x, R, C, L, TARGET)
        if USE[11] and not USE[9]:  # row i of the matrix has sign i
            flip = tl.load(matrix_ptr + (tl.arange(0, L) % H) * H).to(tl.uint16, bitcast=True) & 0x8000
            flip = (flip.to(tl.uint32) << 16)[:, None]
            y = (y.to(tl.uint32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)
        y = _butterflies(y, H, L, R * C // L, TARGET)
        y = tl.reshape(tl.permute(tl.reshape(y, (L // BLOCK, BLOCK, R * C // L)), (1, 2, 0)), (BLOCK, P))
    return y


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def block_maxima(
    y, R: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TARGET: tl.constexpr
):
    """Blocks -> int32 (P,): FP32 bits of the largest magnitude of each block; square blocks have ROWS rows."""
    if TARGET == "interpreter":
        largest = tl.max(y.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    else:
        largest = tl.reduce(tl.abs(y), 0, _larger).to(tl.int32, bitcast=True)
    if ROWS > 1:
        largest = tl.max(tl.reshape(largest, (R // ROWS, ROWS, C // BLOCK)), 1)
        largest = tl.broadcast_to(tl.expand_dims(largest, 1), (R // ROWS, ROWS, C // BLOCK))
        largest = tl.reshape(largest, (R * C // BLOCK,))
    return largest


@triton.jit
def block_scales(
    y, largest, P: tl.constexpr, CARRY: tl.constexpr, ELEMENT: tl.constexpr, LEAST: tl.constexpr
):  # fmt: skip
    """int32 E8M0 (P,) from the blocks' largest magnitudes; 255 where a value is not finite.

    Args:
        LEAST: take the scale or its double, whichever has the smaller squared error.
    """
    scale = tl.maximum(((largest + CARRY) >> 23) - ELEMENT[2], 0)
    if LEAST:
        doubled = _error(y, scale + 1, P, ELEMENT) * 4.0
        scale += (doubled < _error(y, scale, P, ELEMENT)).to(tl.int32)
    return tl.where(largest >= 0x7F800000, 255, scale)


@triton.jit
def _error(y, scale, P: tl.constexpr, ELEMENT: tl.constexpr):
    """(P,): squared error of each block quantised to nearest, in units of its scale."""
    z = scaled(y, scale, 1.0)
    return squared_error(z, rounded(z, z, ELEMENT[0], ELEMENT[1], ELEMENT[3], False), P, 32)


@triton.jit
def squared_error(y, found, P: tl.constexpr, BLOCK: tl.constexpr):
    """(P,): sums of squared differences, neighbours first, as `elements.tree_sum` adds them."""
    difference = y - found
    x = difference * difference
    for i in tl.static_range(4 if BLOCK == 16 else 5):
        a, b = tl.split(tl.permute(tl.reshape(x, (BLOCK >> (i + 1), 2, P)), (0, 2, 1)))
        x = a + b
    return tl.reshape(x, (P,))


@triton.jit
def scaled(y, scale, PRESCALE: tl.constexpr):
    """Elements before rounding: y times 2^(127 - scale), a normal float."""
    inverse = (tl.maximum(254 - scale, 0) << 23).to(tl.float32, bitcast=True)
    z = y * inverse[None, :]
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
    """Scaled FP32 -> the element's value in FP32, with the sign of zero. LARGEST is None if none saturates."""
    if STOCHASTIC:
        binade, steps = _steps(y, random, MBITS, EMIN, LARGEST, STOCHASTIC)
        value = steps.to(tl.float32) * (binade - (MBITS << 23)).to(tl.float32, bitcast=True)
    else:
        magnitude = tl.abs(y)
        bits = y.to(tl.int32, bitcast=True)
        if LARGEST is not None:
            magnitude = tl.minimum(magnitude, LARGEST)
            bits = magnitude.to(tl.int32, bitcast=True)
        binade = (bits & 0x7F800000) + ((23 - MBITS) << 23)
        offset = tl.maximum(binade, (EMIN + 150 - MBITS) << 23).to(tl.float32, bitcast=True)
        value = (magnitude + offset) - offset
    sign = y.to(tl.int32, bitcast=True) & -2147483648
    return (value.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def power_of(scale):
    """E8M0 -> FP32: a power of two, 2^-127 for byte 0, NaN for 255."""
    bits = tl.where(scale == 255, 0x7FC00000, tl.where(scale == 0, 0x00400000, scale << 23))
    return bits.to(tl.float32, bitcast=True)


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
def random_tile(
    seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr
):  # fmt: skip
    """Words of a tile's elements, in blocks of L: (L, R C / L)."""
    p = tl.arange(0, R * C // L)[None, :]
    columns = c0 + (p % (C // L)) * L + 4 * tl.arange(0, L // 4)[:, None]
    w0, w1, w2, w3 = random_words(seed, offset, r0 + p // (C // L), columns, K)
    return _in_fours(w0, w1, w2, w3, L, R * C // L)


@triton.jit
def _in_fours(w0, w1, w2, w3, L: tl.constexpr, P: tl.constexpr):
    """Four (L / 4, P), the first to the fourth of every four rows -> (L, P)."""
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(tl.permute(words, (0, 2, 3, 1)), (L, P))


@triton.jit
def shared_words(
    seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr, SHARE: tl.constexpr
):  # fmt: skip
    """(L / SHARE, R C / L) words, one per SHARE neighbouring elements, in the order of a (rows, K // SHARE) matrix."""
    return random_tile(seed, offset, r0, c0 // SHARE, K // SHARE, R, C // SHARE, L // SHARE)


@triton.jit
def bytes_of(words, L: tl.constexpr, P: tl.constexpr):
    """(L / 4, P) words -> (L, P): each byte as the upper bits of a word, and one half of its unit."""
    both = _in_fours(words & 255, (words >> 8) & 255, (words >> 16) & 255, words >> 24, L, P)
    return (both << 24) | (1 << 23)


@triton.jit
def random_of(seed, offset, r0, c0, K, R: tl.constexpr, C: tl.constexpr, L: tl.constexpr,
              STOCHASTIC: tl.constexpr, TARGET: tl.constexpr):  # fmt: skip
    """The random words of a tile as `codes.pack` takes them."""
    if STOCHASTIC != "hardware":
        words = random_tile(seed, offset, r0, c0, K, R, C, L)
    elif TARGET == "sm_100":
        words = shared_words(seed, offset, r0, c0, K, R, C, L, 4)
    elif TARGET == "gfx950":
        words = shared_words(seed, offset, r0, c0, K, R, C, L, 2)
    else:
        words = bytes_of(shared_words(seed, offset, r0, c0, K, R, C, L, 4), L, R * C // L)
    return words


@triton.jit
def scale_offsets(row, block, columns, SWIZZLED: tl.constexpr):
    """Offsets of the scales: row-major, or in tiles of 128x4 (512 bytes). `columns` counts a row's scales."""
    if SWIZZLED:
        row, block = row.to(tl.uint32), block.to(tl.uint32)  # division is then a shift
        tile = (row // 128).to(tl.int64) * ((columns + 3) // 4) + block // 4
        return tile * 512 + (row % 32) * 16 + ((row % 128) // 32) * 4 + block % 4
    else:
        return row.to(tl.int64) * columns + block

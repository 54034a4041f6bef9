"""The fused kernels for GPUs. Their results equal those of reference.py, up to the order of sums."""

import contextlib

import torch
import triton
import triton.language as tl

from kernels.quantize import tile
from kernels.quantize.triton import target

_CHUNK = 8192  # elements of a row that a program loads at once
_COLUMNS = 1024
_ROWS = 32  # rows over which one program sums the gradient of the gain


def _on(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@triton.jit
def parts_not_finite_kernel(
    norm_ptr, buffer_ptr, starts_ptr, sizes_ptr, found_ptr, PARTS: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    bucket, part = tl.program_id(0), tl.program_id(1)
    norm = tl.load(norm_ptr)
    found = tl.zeros([1], tl.int32)
    if norm - norm != 0.0:  # NaN or infinite
        size = tl.load(sizes_ptr + bucket)
        begin = tl.load(starts_ptr + bucket) + part * size
        for start in range(0, size, CHUNK):
            at = start + tl.arange(0, CHUNK)
            x = tl.load(buffer_ptr + begin + at, mask=at < size, other=0.0).to(tl.float32)
            found = tl.maximum(found, tl.max((x - x != 0.0).to(tl.int32), axis=0))
    tl.store(found_ptr + bucket * PARTS + part + tl.arange(0, 1), found)


def parts_not_finite(
    norm: torch.Tensor, buffer_n: torch.Tensor, starts_B: torch.Tensor, sizes_B: torch.Tensor, parts: int
) -> torch.Tensor:
    """As kernels/fused/reference.py says."""
    found = torch.empty(starts_B.numel(), parts, dtype=torch.int32, device=buffer_n.device)
    with _on(buffer_n):
        parts_not_finite_kernel[(starts_B.numel(), parts)](
            norm, buffer_n, starts_B, sizes_B, found, PARTS=parts, CHUNK=_CHUNK
        )
    return found


@triton.jit
def rope_kernel(
    qkv_ptr, q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, B, q_s, q_b, q_h, k_s, k_b, k_h, v_s, v_b, v_h,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, HALF: tl.constexpr,
    BACKWARD: tl.constexpr,
):  # fmt: skip
    """Process one token: a tile of ROWS heads (at least the number of heads) of 2 HALF elements."""
    token = tl.program_id(0).to(tl.int64)
    s, b = token // B, token % B
    row, f = tl.arange(0, ROWS)[:, None], tl.arange(0, HALF)[None, :]
    group, place = row // (HEADS + 2), row % (HEADS + 2)
    inside = (row < GROUPS * (HEADS + 2)) & (f < F)
    is_q, is_k, is_v = inside & (place < HEADS), inside & (place == HEADS), inside & (place == HEADS + 1)
    mixed = qkv_ptr + (token * GROUPS * (HEADS + 2) + row) * (2 * F) + f
    q = q_ptr + s * q_s + b * q_b + (group * HEADS + place) * q_h + f
    k = k_ptr + s * k_s + b * k_b + group * k_h + f
    v = v_ptr + s * v_s + b * v_b + group * v_h + f
    cos = tl.load(cos_ptr + s * F + f, mask=f < F, other=1.0)
    sin = tl.load(sin_ptr + s * F + f, mask=f < F, other=0.0)
    if BACKWARD:
        sin = -sin
        first = tl.load(q, mask=is_q, other=0.0) + tl.load(k, mask=is_k, other=0.0)
        first = (first + tl.load(v, mask=is_v, other=0.0)).to(tl.float32)
        second = tl.load(q + F, mask=is_q, other=0.0) + tl.load(k + F, mask=is_k, other=0.0)
        second = (second + tl.load(v + F, mask=is_v, other=0.0)).to(tl.float32)
    else:
        first = tl.load(mixed, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(mixed + F, mask=inside, other=0.0).to(tl.float32)
    one = tl.where(is_v, first, first * cos - second * sin).to(qkv_ptr.dtype.element_ty)
    two = tl.where(is_v, second, second * cos + first * sin).to(qkv_ptr.dtype.element_ty)
    if BACKWARD:
        tl.store(mixed, one, mask=inside)
        tl.store(mixed + F, two, mask=inside)
    else:
        tl.store(q, one, mask=is_q)
        tl.store(q + F, two, mask=is_q)
        tl.store(k, one, mask=is_k)
        tl.store(k + F, two, mask=is_k)
        tl.store(v, one, mask=is_v)
        tl.store(v + F, two, mask=is_v)


def rope(
    qkv_SBGE: torch.Tensor, cos_SF: torch.Tensor, sin_SF: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As kernels/fused/reference.py says."""
    S, B, G, _ = qkv_SBGE.shape
    D = 2 * cos_SF.size(1)
    query = qkv_SBGE.new_empty(S, B, G * heads, D)
    key, value = (qkv_SBGE.new_empty(S, B, G, D) for _ in range(2))
    _rotate(qkv_SBGE, query, key, value, cos_SF, sin_SF, backward=False)
    return query, key, value


def rope_backward(
    dq_SBHD: torch.Tensor, dk_SBGD: torch.Tensor, dv_SBGD: torch.Tensor, cos_SF: torch.Tensor,
    sin_SF: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """As kernels/fused/reference.py says."""
    S, B, G, D = dk_SBGD.shape
    out = dk_SBGD.new_empty(S, B, G, (dq_SBHD.size(2) // G + 2) * D)
    query, key, value = map(_dense_heads, (dq_SBHD, dk_SBGD, dv_SBGD))
    _rotate(out, query, key, value, cos_SF, sin_SF, backward=True)
    return out


def _dense_heads(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _rotate(
    qkv: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cos: torch.Tensor,
    sin: torch.Tensor, *, backward: bool,
) -> None:  # fmt: skip
    S, B, G, D = key.shape
    heads = query.size(2) // G
    strides = [stride for x in (query, key, value) for stride in x.stride()[:3]]
    with _on(qkv):
        rope_kernel[(S * B,)](
            qkv, query, key, value, cos, sin, B, *strides, HEADS=heads, GROUPS=G, F=D // 2,
            ROWS=triton.next_power_of_2(G * (heads + 2)), HALF=triton.next_power_of_2(D // 2),
            BACKWARD=backward, num_warps=8,
        )  # fmt: skip


@triton.jit
def swiglu_of(gate, up):
    """silu(gate) * up in FP32."""
    return gate * tl.sigmoid(gate) * up


@triton.jit
def swiglu_gradients(dy, gate, up):
    """The gradients of gate and up in FP32."""
    sigmoid = tl.sigmoid(gate)
    return dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid)), dy * gate * sigmoid


@triton.jit
def rounded_to(x, DTYPE: tl.constexpr, TARGET: tl.constexpr):
    """FP32 in the type of a result."""
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        return tile.to_bf16(x, TARGET)
    else:
        return x.to(DTYPE)


@triton.jit
def swiglu_kernel(x_ptr, y_ptr, F, COLUMNS: tl.constexpr, TARGET: tl.constexpr):
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    gate = tl.load(x_ptr + row * 2 * F + f, mask=f < F, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * F + F + f, mask=f < F, other=0.0).to(tl.float32)
    y = rounded_to(swiglu_of(gate, up), y_ptr.dtype.element_ty, TARGET)
    tl.store(y_ptr + row * F + f, y, mask=f < F)


@triton.jit
def swiglu_backward_kernel(dy_ptr, x_ptr, dx_ptr, F, COLUMNS: tl.constexpr, TARGET: tl.constexpr):
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    dy = tl.load(dy_ptr + row * F + f, mask=f < F, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + row * 2 * F + f, mask=f < F, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * F + F + f, mask=f < F, other=0.0).to(tl.float32)
    dgate, dup = swiglu_gradients(dy, gate, up)
    at = dx_ptr + row * 2 * F + f
    tl.store(at, rounded_to(dgate, dx_ptr.dtype.element_ty, TARGET), mask=f < F)
    tl.store(at + F, rounded_to(dup, dx_ptr.dtype.element_ty, TARGET), mask=f < F)


def same_bits(x: torch.Tensor) -> dict[str, object]:
    """Options with which a kernel rounds as the joint kernels do (joint.py): a product and a sum are two operations."""
    found = target(x)
    return {"TARGET": found} | ({} if found == "interpreter" else {"enable_fp_fusion": False})


def swiglu(x_TE: torch.Tensor) -> torch.Tensor:
    """As kernels/fused/reference.py says."""
    x_TE = x_TE.contiguous()
    T, F = x_TE.size(0), x_TE.size(1) // 2
    y = x_TE.new_empty(T, F)
    with _on(x_TE):
        swiglu_kernel[(T, triton.cdiv(F, _COLUMNS))](x_TE, y, F, COLUMNS=_COLUMNS, **same_bits(x_TE))
    return y


def swiglu_backward(dy_TF: torch.Tensor, x_TE: torch.Tensor) -> torch.Tensor:
    """As kernels/fused/reference.py says."""
    dy_TF, x_TE = dy_TF.contiguous(), x_TE.contiguous()
    T, F = dy_TF.shape
    dx = torch.empty_like(x_TE)
    with _on(x_TE):
        grid = (T, triton.cdiv(F, _COLUMNS))
        swiglu_backward_kernel[grid](dy_TF, x_TE, dx, F, COLUMNS=_COLUMNS, **same_bits(x_TE))
    return dx


@triton.jit
def cross_entropy_kernel(
    logits_ptr, labels_ptr, log_sums_ptr, chosen_ptr, first, V, CHUNK: tl.constexpr
):  # fmt: skip
    """Read one row once; the sum is rescaled whenever a larger logit is read."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    largest = tl.full([1], -float("inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    for start in range(0, V, CHUNK):
        at = start + tl.arange(0, CHUNK)
        x = tl.load(logits_ptr + at, mask=at < V, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(x, axis=0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(x - larger), axis=0)
        largest = larger
    column = tl.load(labels_ptr + row) - first
    inside = (column >= 0) & (column < V)
    chosen = tl.load(logits_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(log_sums_ptr + row + tl.arange(0, 1), largest + tl.log(total))
    tl.store(chosen_ptr + row, chosen)


@triton.jit
def cross_entropy_backward_kernel(
    logits_ptr, labels_ptr, log_sums_ptr, gradient_ptr, first, V, CHUNK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    column = tl.load(labels_ptr + row) - first
    log_sum, gradient = tl.load(log_sums_ptr + row), tl.load(gradient_ptr + row)
    for start in range(0, V, CHUNK):
        at = start + tl.arange(0, CHUNK)
        x = tl.load(logits_ptr + at, mask=at < V, other=0.0).to(tl.float32)
        x = (tl.exp(x - log_sum) - (at == column).to(tl.float32)) * gradient
        tl.store(logits_ptr + at, x.to(logits_ptr.dtype.element_ty), mask=at < V)


def cross_entropy(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, first: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As kernels/fused/reference.py says."""
    N, V = logits_NV.shape
    log_sums, chosen = (torch.empty(N, dtype=torch.float32, device=logits_NV.device) for _ in range(2))
    with _on(logits_NV):
        cross_entropy_kernel[(N,)](logits_NV, labels_N, log_sums, chosen, first, V, CHUNK=_CHUNK, num_warps=8)
    return log_sums, chosen


def cross_entropy_backward(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, log_sums_N: torch.Tensor, gradient_N: torch.Tensor,
    first: int,
) -> torch.Tensor:  # fmt: skip
    """As kernels/fused/reference.py says."""
    N, V = logits_NV.shape
    with _on(logits_NV):
        cross_entropy_backward_kernel[(N,)](
            logits_NV, labels_N, log_sums_N, gradient_N.contiguous(), first, V, CHUNK=_CHUNK, num_warps=8
        )
    return logits_NV


@triton.jit
def norm_kernel(
    x_ptr, residual_ptr, gain_ptr, stream_ptr, out_ptr, roots_ptr, largest_ptr, epsilon, H, ADDS: tl.constexpr,
    NORMED: tl.constexpr, BLOCK: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """NORMED: store the norm; else the largest magnitude of its row."""
    row, h = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at, inside = row * H + h, h < H
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if ADDS:
        x = x.to(tl.float32) + tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = rounded_to(x, stream_ptr.dtype.element_ty, TARGET)
        tl.store(stream_ptr + at, x, mask=inside)
    x = x.to(tl.float32)
    root = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / H + epsilon)
    y = x * root * tl.load(gain_ptr + h, mask=inside, other=0.0).to(tl.float32)
    y = rounded_to(y, x_ptr.dtype.element_ty, TARGET)
    if NORMED:
        tl.store(out_ptr + at, y, mask=inside)
    else:
        bits = tl.max(y.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)  # NaN is the largest
        tl.store(largest_ptr + row, bits.to(tl.float32, bitcast=True))
    tl.store(roots_ptr + row, root)


@triton.jit
def norm_backward_kernel(
    dstream_ptr, dnormed_ptr, stream_ptr, gain_ptr, roots_ptr, dx_ptr, sums_ptr, T, H, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Process ROWS rows one after another, and sum the gradient of the gain over them."""
    h = tl.arange(0, BLOCK)
    inside = h < H
    gain = tl.load(gain_ptr + h, mask=inside, other=0.0).to(tl.float32)
    sums = tl.zeros([BLOCK], tl.float32)
    begin = tl.program_id(0).to(tl.int64) * ROWS
    for place in range(0, ROWS):
        row = begin + place
        at = row * H + h
        there = inside & (row + tl.zeros([BLOCK], tl.int64) < T)
        root = tl.load(roots_ptr + tl.minimum(row, T - 1))
        normed = tl.load(stream_ptr + at, mask=there, other=0.0).to(tl.float32) * root
        dy = tl.load(dnormed_ptr + at, mask=there, other=0.0).to(tl.float32)
        past = tl.load(dstream_ptr + at, mask=there, other=0.0).to(tl.float32)
        sums += dy * normed
        scaled = dy * gain
        mean = tl.sum(scaled * normed, axis=0) / H
        dx = (scaled - normed * mean) * root + past
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=there)
    tl.store(sums_ptr + tl.program_id(0).to(tl.int64) * H + h, sums, mask=inside)


@triton.jit
def column_sums_kernel(x_ptr, out_ptr, R, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, R, ROWS):
        r = start + tl.arange(0, ROWS)[:, None]
        total += tl.sum(
            tl.load(x_ptr + r * C + c[None, :], mask=(r < R) & (c[None, :] < C), other=0.0), axis=0
        )
    tl.store(out_ptr + c, total.to(out_ptr.dtype.element_ty), mask=c < C)


def norm(
    x_TH: torch.Tensor, residual_TH: torch.Tensor | None, gain_H: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As kernels/fused/reference.py says."""
    out = torch.empty_like(x_TH)
    stream, roots, _ = _norm(x_TH, residual_TH, gain_H, epsilon, out)
    return stream, out, roots


def norm_of_rows(
    x_TH: torch.Tensor, residual_TH: torch.Tensor | None, gain_H: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As kernels/fused/reference.py says."""
    return _norm(x_TH, residual_TH, gain_H, epsilon, None)


def _norm(
    x: torch.Tensor, residual: torch.Tensor | None, gain: torch.Tensor, epsilon: float, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return the stream, the roots, and the largest magnitudes where no `out` takes the norm."""
    T, H = x.shape
    stream = x if residual is None else torch.empty_like(x)
    roots, largest = (torch.empty(T, dtype=torch.float32, device=x.device) for _ in range(2))
    with _on(x):
        norm_kernel[(T,)](
            x, x if residual is None else residual, gain, stream, x if out is None else out, roots,
            roots if out is not None else largest, epsilon, H, ADDS=residual is not None, NORMED=out is not None,
            BLOCK=triton.next_power_of_2(H), num_warps=8, **same_bits(x),
        )  # fmt: skip
    return stream, roots, largest


def norm_backward(
    dstream_TH: torch.Tensor, dnormed_TH: torch.Tensor, stream_TH: torch.Tensor, gain_H: torch.Tensor,
    roots_T: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """As kernels/fused/reference.py says."""
    T, H = stream_TH.shape
    programs = triton.cdiv(T, _ROWS)
    dx, dgain = torch.empty_like(stream_TH), torch.empty_like(gain_H)
    sums = torch.empty(programs, H, dtype=torch.float32, device=stream_TH.device)
    with _on(stream_TH):
        norm_backward_kernel[(programs,)](
            dstream_TH.contiguous(), dnormed_TH.contiguous(), stream_TH, gain_H, roots_T, dx, sums, T, H,
            ROWS=_ROWS, BLOCK=triton.next_power_of_2(H), num_warps=8,
        )  # fmt: skip
        column_sums_kernel[(triton.cdiv(H, 32),)](sums, dgain, programs, H, ROWS=64, COLUMNS=32)
    return dx, dgain

"""What the contract tests put in the place of Transformer Engine's compiled module: FP8 by plain torch."""

from __future__ import annotations

import enum
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor

from kernels.formats import E4M3
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer, ScaleRule

_TYPES = "kByte kInt32 kFloat32 kFloat16 kBFloat16 kFloat8E4M3 kFloat8E5M2 kFloat4E2M1"
_FORWARD = "GEMM1_INPUT GEMM1_WEIGHT GEMM1_OUTPUT GEMM2_INPUT GEMM2_WEIGHT GEMM2_OUTPUT GEMM3_OUTPUT"
_BACKWARD = "GRAD_OUTPUT1 GRAD_INPUT1 GRAD_OUTPUT2 GRAD_INPUT2 GRAD_OUTPUT3 GRAD_INPUT3"
_MXFP8 = Quantizer(format=Format.MXFP8, element=E4M3, scale_rule=ScaleRule.RCEIL)


def module() -> Any:
    """Its enumerations, quantize and generic_gemm; every function that no test needs answers with a mock."""
    compiled: Any = MagicMock(name="transformer_engine_torch")
    compiled.__spec__ = None
    for name, members in (("DType", _TYPES), ("FP8FwdTensors", _FORWARD), ("FP8BwdTensors", _BACKWARD)):
        setattr(compiled, name, enum.IntEnum(name, {key: i for i, key in enumerate(members.split())}))
    compiled.quantize, compiled.generic_gemm = quantize, generic_gemm
    compiled.rmsnorm_fwd, compiled.rmsnorm_bwd = _rmsnorm_fwd, _rmsnorm_bwd
    compiled.layernorm_fwd = compiled.layernorm_bwd = None  # looked up beside the other, never called
    compiled.fused_amax_and_scale_update_after_reduction = _update_scales
    return compiled


def quantize(x: Tensor, quantizer: Any, output: Any = None, noop: Any = None) -> Any:
    """As the quantizer's class says, into a storage of Transformer Engine's own."""
    from transformer_engine.pytorch.tensor import MXFP8Quantizer

    made = (_mxfp8 if isinstance(quantizer, MXFP8Quantizer) else _fp8)(x.detach(), quantizer)
    if output is None:
        return made
    for name in ("_data", "_transpose", "_scale_inv", "_transpose_invalid", "_rowwise_data", "_columnwise_data",
                 "_rowwise_scale_inv", "_columnwise_scale_inv"):  # fmt: skip
        if hasattr(made, name):
            setattr(output, name, getattr(made, name))
    return output


def generic_gemm(A: Any, transa: bool, B: Any, transb: bool, D: Tensor | None, *others: Any, **_: Any) -> Any:
    """Column-major as cuBLAS counts: D (rows of op(B), columns of op(A))."""
    out_dtype, accumulate = others[1], others[9]
    a, b = _dequantized(A, columns=not transa), _dequantized(B, columns=transb)
    product = (b.t() if transb else b) @ (a.t() if transa else a)
    if D is not None:
        return (D.add_(product) if accumulate else D.copy_(product)), None, None, None
    shape = product.shape if transb else (*_shape(B)[:-1], product.size(-1))
    return product.to(_torch_type(out_dtype)).view(shape), None, None, None


def _rmsnorm_fwd(x: Tensor, gain: Tensor, eps: float, out: Any, quantizer: Any, *_: Any) -> Any:
    assert out is None and quantizer is None, "a custom quantizer is not fused with the norm"
    rows = x.detach().float()
    inverse = (rows.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (rows * inverse * gain.detach().float()).to(x.dtype), None, inverse


def _rmsnorm_bwd(dy: Tensor, x: Tensor, inverse: Tensor, gain: Tensor, *_: Any) -> Any:
    normed, flow = x.float() * inverse, dy.float() * gain.float()
    dx = inverse * (flow - normed * (flow * normed).mean(-1, keepdim=True))
    return dx.to(x.dtype), (dy.float() * normed).sum(0).to(gain.dtype)


def _fp8(x: Tensor, quantizer: Any) -> Any:
    """Tensor-wise: by the quantizer's own scale (delayed), or by the tensor's largest magnitude (current)."""
    from transformer_engine.pytorch.tensor import Float8Quantizer, Float8Tensor, Float8TensorStorage

    dtype, matrix = _torch_type(quantizer.dtype), x.reshape(-1, x.size(-1)).float()
    largest, amax = torch.finfo(dtype).max, matrix.abs().amax().reshape(1)
    scale = largest / amax
    if isinstance(quantizer, Float8Quantizer):
        scale = quantizer.scale.clone()
        quantizer.amax.copy_(amax)
    data = (matrix * scale).clamp(-largest, largest).to(dtype).view(torch.uint8)
    fields = {
        "data": data.view(x.shape) if quantizer.rowwise_usage else None,
        "data_transpose": data.t().contiguous() if quantizer.columnwise_usage else None,
        "fp8_scale_inv": 1 / scale,
        "fp8_dtype": quantizer.dtype,
        "quantizer": quantizer,
    }
    if quantizer.internal:
        return Float8TensorStorage(fake_dtype=x.dtype, **fields)
    return _tensor(Float8Tensor, x, fields)


def _mxfp8(x: Tensor, quantizer: Any) -> Any:
    from transformer_engine.pytorch.tensor import MXFP8Tensor, MXFP8TensorStorage

    matrix = x.reshape(-1, x.size(-1)).contiguous()
    rows = reference.quantize(matrix, _MXFP8)
    columns = reference.quantize(matrix.t().contiguous(), _MXFP8)
    along, across = quantizer.rowwise_usage, quantizer.columnwise_usage
    fields = {
        "rowwise_data": rows.elements.view(x.shape) if along else None,
        "rowwise_scale_inv": rows.scales if along else None,
        "columnwise_data": columns.elements.t().reshape(x.shape) if across else None,
        "columnwise_scale_inv": columns.scales.t() if across else None,
        "fp8_dtype": quantizer.dtype,
        "quantizer": quantizer,
        "with_gemm_swizzled_scales": False,
    }
    if quantizer.internal:
        return MXFP8TensorStorage(fake_dtype=x.dtype, **fields)
    return _tensor(MXFP8Tensor, x, fields)


def _tensor(kind: Any, like: Tensor, fields: dict[str, Any]) -> Any:
    """A quantised tensor of theirs; two of its options came after 2.9."""
    try:
        return kind(shape=like.shape, dtype=like.dtype, device=like.device, **fields)
    except TypeError:
        fields.pop("with_gemm_swizzled_scales", None)
        return kind(shape=like.shape, dtype=like.dtype, **fields)


def _dequantized(operand: Any, *, columns: bool) -> Tensor:
    """(rows, columns) FP32 of the orientation that a product reads."""
    if type(operand) in (Tensor, torch.nn.Parameter):
        return operand.detach().reshape(-1, operand.size(-1)).float()
    if hasattr(operand, "_rowwise_data"):
        name = "columnwise" if columns else "rowwise"
        data, scales = getattr(operand, f"_{name}_data"), getattr(operand, f"_{name}_scale_inv")
        matrix = data.reshape(-1, data.size(-1))
        turned = (matrix.t().contiguous(), scales.t().contiguous()) if columns else (matrix, scales)
        values = reference.dequantize(reference.Quantized(*turned, _MXFP8))
        return values.t() if columns else values
    data = operand._transpose.t() if columns else operand._data  # Hopper multiplies no other layout
    values = data.contiguous().view(_torch_type(operand._fp8_dtype)).float() * operand._scale_inv
    return values.reshape(-1, values.size(-1))


def _shape(operand: Any) -> torch.Size:
    return operand.shape if isinstance(operand, Tensor) else torch.Size(operand.size())


def _update_scales(
    amax: Tensor, histories: Any, scales: Any, algorithm: str, dtype: Any, margin: int
) -> None:
    """The largest magnitude of the history becomes the type's largest value in the next step."""
    largest = torch.finfo(_torch_type(dtype)).max
    parts = amax.split([scale.numel() for scale in scales])
    for part, history, scale in zip(parts, histories, scales, strict=True):
        history.copy_(history.roll(-1, 0))
        history[-1].copy_(part)
        seen = history.amax(0) if algorithm == "max" else part
        scale.copy_(torch.where(seen > 0, largest / seen.clamp(min=1e-30) / 2**margin, scale))
        history[0].zero_()


def _torch_type(dtype: Any) -> torch.dtype:
    from transformer_engine.pytorch.constants import TE_DType_To_Torch

    found = TE_DType_To_Torch
    return found[dtype] if dtype in found else next(v for k, v in found.items() if int(k) == int(dtype))

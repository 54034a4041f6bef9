"""Test vectors: quantise an array file, to compare another implementation with ours value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kernels.formats import BLOCK
from kernels.quantize import reference
from kernels.recipe import ScaleRule


class VectorError(Exception):
    """An array file that cannot be quantised, in one line."""


def quantize_file(
    source: Path, target: Path, *, scale_rule: ScaleRule, hadamard: int, axis: int
) -> tuple[int, ...]:
    """Quantise `source` to MXFP4 along `axis` and write elements, scales and dequantised values.

    The target holds, with the block axis where it was: `elements` uint8, two E2M1 codes a byte, low nibble first, the
    axis halved; `scales` uint8 E8M0, the axis divided by 32; `dequantized` FP32, in the transformed space when there
    is a Hadamard transform.

    Args:
        source: .npy of float16, float32 or float64 (float64 is rounded to FP32 first).
        axis: the contraction dimension; its length a multiple of 32.

    Returns:
        The array's shape.

    Raises:
        VectorError: names the file, what was found and what is allowed.
    """
    rows = np.moveaxis(_load(source, axis), axis, -1)
    x_MK = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).reshape(-1, rows.shape[-1])
    quantized = reference.quantize(x_MK, scale_rule=scale_rule, hadamard=hadamard)
    parts = {
        "elements": quantized.elements,
        "scales": quantized.scales,
        "dequantized": reference.dequantize(quantized),
    }
    back = {
        name: np.moveaxis(part.numpy().reshape(*rows.shape[:-1], -1), -1, axis)
        for name, part in parts.items()
    }
    with target.open("wb") as file:  # a name without .npz stays as it is
        np.savez(file, allow_pickle=False, **back)
    return tuple(np.moveaxis(rows, -1, axis).shape)


def _load(source: Path, axis: int) -> np.ndarray:
    try:
        array = np.load(source, allow_pickle=False)
    except FileNotFoundError:
        raise VectorError(f"{source}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise VectorError(f"{source}: found no .npy array ({error}); allowed: numpy.save of floats") from None
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float16, np.float32, np.float64):
        found = getattr(array, "dtype", "an archive")
        raise VectorError(f"{source}: found {found}; allowed: float16, float32, float64")
    if not -array.ndim <= axis < array.ndim:
        raise VectorError(
            f"{source}: axis: found {axis} for shape {array.shape}; allowed: {-array.ndim} .. {array.ndim - 1}"
        )
    if array.shape[axis] % BLOCK or not array.size:
        raise VectorError(f"{source}: axis {axis} of shape {array.shape}: found length {array.shape[axis]}; "
                          f"allowed: a positive multiple of {BLOCK}")  # fmt: skip
    return array

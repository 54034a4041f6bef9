"""Writes test vectors: quantises an array file, so that another implementation can be compared value by value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.philox import Draw, Randomness
from kernels.quantize import reference
from kernels.recipe import Quantizer, Signs


class VectorError(Exception):
    """An array file cannot be quantised; the message is one line."""


def quantize_file(
    source: Path, target: Path, quantizer: Quantizer, *, axis: int, seed: int = 0
) -> tuple[int, ...]:
    """Quantise `source` along `axis` and write elements, scales and dequantised values.

    The target holds three arrays with the source's dimensions. `elements` is uint8: two E2M1 codes per byte, low nibble
    first, so that `axis` is half as long (FP8: one byte per element). `scales` is uint8 E8M0 (NVFP4: E4M3, and
    `tensor_scale`); `axis` is divided by the block. `dequantized` is FP32, still transformed and pre-scaled. If a block
    has several rows, the other dimensions count as rows in row-major order, and the scales have two dimensions.

    Args:
        source: .npy of float16, float32 or float64 of either byte order (float64 is rounded to FP32 first).
        axis: the contraction dimension; its length a multiple of the block and of the transform.
        seed: seed of stochastic rounding (offset 0) and of the transform's signs.

    Returns:
        The array's shape.

    Raises:
        VectorError: the file cannot be quantised; the message says why and what is allowed.
    """
    rows = np.moveaxis(_load(source, axis, quantizer.multiple), axis, -1)
    x_MK = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).reshape(-1, rows.shape[-1])
    if x_MK.size(0) % quantizer.rows:
        raise VectorError(f"{source}: found {x_MK.size(0)} rows; allowed: a multiple of {quantizer.rows}")
    quantized = reference.quantize(x_MK, quantizer, **_random(quantizer, seed))
    parts = {
        "elements": quantized.elements,
        "scales": quantized.scales,
        "dequantized": reference.dequantize(quantized),
    }
    back = {name: _placed(part.numpy(), rows.shape[:-1], axis) for name, part in parts.items()}
    if quantized.tensor_scale is not None:
        back["tensor_scale"] = quantized.tensor_scale.numpy()
    with target.open("wb") as file:  # given a path, numpy.savez would append .npz
        np.savez(file, allow_pickle=False, **back)
    return tuple(np.moveaxis(rows, -1, axis).shape)


def _placed(part: np.ndarray, leading: tuple[int, ...], axis: int) -> np.ndarray:
    """Move the block axis back to its place; scales of blocks with several rows stay a matrix."""
    if part.shape[0] != math.prod(leading):
        return part
    return np.moveaxis(part.reshape(*leading, -1), -1, axis)


def _random(quantizer: Quantizer, seed: int) -> dict[str, Any]:
    randomness = Randomness(seed)
    options: dict[str, Any] = {}
    if quantizer.rounding.is_random:
        options["draw"] = Draw(seed, 0)
    if quantizer.signs is not Signs.NONE:
        options["signs"] = randomness.signs(quantizer.hadamard, per_step=False, device=torch.device("cpu"))
    return options


def _load(source: Path, axis: int, block: int) -> np.ndarray:
    try:
        array = np.load(source, allow_pickle=False)
    except FileNotFoundError:
        raise VectorError(f"{source}: no such file") from None
    except OSError as error:
        raise VectorError(f"{source}: {error.strerror or error}") from None
    except (ValueError, EOFError):  # numpy's words are about pickles
        raise VectorError(f"{source}: not a .npy array of numbers; write floats with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.dtype.newbyteorder("=") not in (
        np.float16,
        np.float32,
        np.float64,
    ):
        found = getattr(array, "dtype", "an archive")
        raise VectorError(f"{source}: found {found}; allowed: float16, float32, float64")
    if not array.size:
        raise VectorError(f"{source}: found an empty array of shape {array.shape}; give at least one block")
    if not -array.ndim <= axis < array.ndim:
        raise VectorError(
            f"{source}: axis: found {axis} for shape {array.shape}; allowed: {-array.ndim} .. {array.ndim - 1}"
        )
    if array.shape[axis] % block:
        raise VectorError(f"{source}: axis {axis} of shape {array.shape}: found length {array.shape[axis]}; "
                          f"allowed: a multiple of {block}")  # fmt: skip
    return array

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from harness import cli
from harness.base.paths import ROOT
from kernels.hadamard import hadamard
from tests.kernels import oracle


def quantize(source, target, *options):
    """Run the command as a user of another implementation would: from a directory of his own."""
    line = [sys.executable, "-m", "kernels", "quantize", str(source), "--out", str(target), *options]
    return subprocess.run(
        line, cwd=source.parent, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


@pytest.fixture
def source(tmp_path):
    values = np.random.default_rng(5).normal(size=(64, 3, 96)).astype(np.float32)
    np.save(tmp_path / "in.npy", values)
    return tmp_path / "in.npy"


@pytest.mark.parametrize("axis", [-1, 0])
def test_vectors_are_those_of_the_specification_along_any_axis(source, tmp_path, axis):
    done = quantize(source, tmp_path / "out.npz", "--scale-rule", "rceil", "--axis", str(axis))
    assert done.returncode == 0, done.stderr
    got, values = np.load(tmp_path / "out.npz"), np.load(source)
    expected = oracle.quantized(torch.from_numpy(np.moveaxis(values, axis, -1).copy()), "rceil").numpy()
    assert np.array_equal(np.moveaxis(got["dequantized"], axis, -1), expected.astype(np.float32))
    halved, blocks = list(values.shape), list(values.shape)
    halved[axis], blocks[axis] = halved[axis] // 2, blocks[axis] // 32
    assert got["elements"].shape == tuple(halved) and got["scales"].shape == tuple(blocks)
    assert {got[name].dtype.name for name in ("elements", "scales")} == {"uint8"}


def test_elements_and_scales_give_the_dequantised_values(source, tmp_path):
    quantize(source, tmp_path / "out.npz", "--hadamard", "16")
    got = np.load(tmp_path / "out.npz")
    codes = np.stack([got["elements"] & 15, got["elements"] >> 4], -1).reshape(64, 3, 96)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes & 7] * np.where(codes & 8, -1, 1)
    scales = np.repeat(2.0 ** (got["scales"].astype(int) - 127), 32, axis=-1)
    assert np.array_equal(values * scales, got["dequantized"])
    rotated = hadamard(torch.from_numpy(np.load(source)), 16).numpy()
    assert (
        np.abs(rotated - got["dequantized"]).max() < 0.6
    )  # half a step of the largest binade, in rotated space


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((4, 40), np.float32), (), "found length 40; allowed: a multiple of 32"),
        (np.zeros((4, 32), np.int64), (), "found int64; allowed: float16, float32, float64"),
        (np.zeros((4, 32), np.float32), ("--axis", "2"), "axis: found 2 for shape (4, 32)"),
        (np.zeros(0, np.float32), (), "found an empty array of shape (0,)"),
        (np.zeros((0, 32), np.float32), (), "found an empty array of shape (0, 32); give at least one block"),
        (
            np.zeros((4, 32), np.float32),
            ("--format", "nvfp4", "--scale-rule", "floor"),
            "scale_rule: found floor with nvfp4; allowed: even, rceil, four-six",
        ),
    ],
)
def test_arrays_that_cannot_be_quantised_are_one_clear_line(tmp_path, array, options, message):
    np.save(tmp_path / "in.npy", array)
    done = quantize(tmp_path / "in.npy", tmp_path / "out.npz", *options)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_files_that_are_no_arrays_are_one_clear_line(tmp_path):
    (tmp_path / "in.npy").write_bytes(b"no array")
    done = quantize(tmp_path / "in.npy", tmp_path / "out.npz")
    assert done.returncode == 2 and "not a .npy array" in done.stderr and done.stderr.count("\n") == 1
    done = quantize(tmp_path / "absent.npy", tmp_path / "out.npz")
    assert done.returncode == 2 and "no such file" in done.stderr


def test_the_command_line_hands_over_to_the_package(source, tmp_path):
    assert cli.main(["kernels", "quantize", str(source), "--out", str(tmp_path / "out.npz")]) == 0
    assert (tmp_path / "out.npz").exists()


def test_the_order_of_bytes_in_the_file_changes_nothing(source, tmp_path):
    np.save(tmp_path / "big.npy", np.load(source).astype(">f4"))
    for name in ("in", "big"):
        done = quantize(tmp_path / f"{name}.npy", tmp_path / f"{name}.npz")
        assert done.returncode == 0, done.stderr
    got, big = np.load(tmp_path / "in.npz"), np.load(tmp_path / "big.npz")
    assert all(np.array_equal(got[part], big[part]) for part in got)

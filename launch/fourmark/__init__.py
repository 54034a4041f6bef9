"""Fourmark as a library: load a submission, check it, compare two, quantise an array.

The wheel of `pip install .` holds the repository's packages below this one, where imports of other projects do not
find them. Its dependencies do not suffice to train; `fourmark[train]` adds the rest.

    import fourmark

    ours, baseline = fourmark.load("logs/mxfp4"), fourmark.load("logs/fp8")
    for violation in fourmark.check("logs/mxfp4"):
        print(violation.severity, violation.rule, violation.message)
    print(fourmark.compare(ours, baseline).pairs[0].ratios)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

TREES = Path(__file__).parent / "trees"  # exists in the wheel only
if TREES.exists() and str(TREES) not in sys.path:
    sys.path.append(str(TREES))  # last, so that a `kernels` of another project is found first

if TYPE_CHECKING:
    from compliance.rule_input import Violation
    from harness.analysis.comparison import Comparison
    from harness.analysis.submission_loader import Submission

__all__ = ["check", "compare", "load", "quantise"]


def load(path: str | Path) -> Submission:
    """The runs of a log, a directory of logs, a campaign or a published system.

    Raises:
        UserError: the path has nothing to score; one line that says what and where.
    """
    from harness.analysis import submission_loader

    return submission_loader.load(Path(path))


def check(path: str | Path, ruleset: str | None = None) -> list[Violation]:
    """Violations of our own rules by the logs below a path; empty where there are none.

    Args:
        ruleset: for example 6.1.0; None for the ruleset of the logs' round.

    Raises:
        UserError: the path has no logs, or logs of another benchmark.
    """
    from harness.check.log_directory import examine

    return [
        one for checked in examine([str(path)], ruleset, skip_official=True) for one in checked.violations
    ]


def compare(submission: Submission, baseline: Submission) -> Comparison:
    """Time, speed and convergence of a submission against a baseline, with 95 % intervals.

    Raises:
        UserError: the two cannot be compared, for example because of different benchmarks.
    """
    from harness.analysis import comparison

    return comparison.compare([submission, baseline])


def quantise(x: object, *, hadamard: int = 0) -> object:
    """An array quantised to MXFP4 and back, in blocks of 32 along the last dimension (specification: OCP MX v1.0).

    >>> quantise([[0.9, 2.6, -7.0] + [0.0] * 29])[0, :3].tolist()
    [1.0, 3.0, -8.0]

    Args:
        x: (M, K) numbers, K a multiple of 32; any type that torch.as_tensor takes.
        hadamard: points of a Hadamard transform before and after, for example 16; 0: none.

    Returns:
        (M, K) FP32 tensor.

    Raises:
        ImportError: torch is missing (fourmark[train] brings it), or another project's `kernels` is imported instead.
        ValueError: a shape without whole blocks, or a transform that does not exist.
    """
    import torch

    import kernels

    ours = Path(__file__).parent if TREES.exists() else Path(__file__).parents[2]
    if not Path(str(kernels.__file__)).is_relative_to(ours):
        raise ImportError(
            f"kernels: found {kernels.__file__}; expected Fourmark's; use an environment without the other"
        )
    from kernels.hadamard import hadamard as transformed
    from kernels.quantize.reference import dequantize, quantize
    from kernels.recipe import Quantizer

    found = dequantize(quantize(torch.as_tensor(x, dtype=torch.float32), Quantizer(hadamard=hadamard)))
    return transformed(found, hadamard) if hadamard else found

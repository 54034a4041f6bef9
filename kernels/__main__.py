"""`python -m kernels quantize IN.npy ..`: the command line of this package, usable without the rest of the project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kernels.recipe import HADAMARD_SIZES, ScaleRule
from kernels.vectors import VectorError, quantize_file


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run.sh kernels")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quantize = commands.add_parser(
        "quantize", help="test vectors: elements, scales and dequantised values of an array"
    )
    quantize.add_argument("source", type=Path, metavar="IN.npy")
    quantize.add_argument("--out", type=Path, required=True, metavar="OUT.npz")
    quantize.add_argument("--scale-rule", choices=[rule.value for rule in ScaleRule], default="even")
    quantize.add_argument(
        "--hadamard", type=int, choices=HADAMARD_SIZES, default=0, help="points, 0 for none"
    )
    quantize.add_argument("--axis", type=int, default=-1, help="the contraction dimension (default -1)")
    args = parser.parse_args()
    options = {"scale_rule": ScaleRule(args.scale_rule), "hadamard": args.hadamard, "axis": args.axis}
    try:
        shape = quantize_file(args.source, args.out, **options)
    except VectorError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.out}: {error.strerror}", file=sys.stderr)
        return 3
    print(
        f"{args.out}: {shape}, scale rule {args.scale_rule}, Hadamard {args.hadamard}, blocks along axis {args.axis}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

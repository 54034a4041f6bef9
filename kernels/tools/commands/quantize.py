"""`kernels quantize IN.npy --out OUT.npz ..`: test vectors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kernels.formats import E2M1, E4M3, E5M2
from kernels.recipe import HADAMARD_SIZES, Format, Quantizer, Rounding, ScaleRule, Signs
from kernels.tools.vectors import VectorError, quantize_file

_FORMATS = {
    "mxfp4": (Format.MXFP4, E2M1),
    "mxfp8-e4m3": (Format.MXFP8, E4M3),
    "mxfp8-e5m2": (Format.MXFP8, E5M2),
    "nvfp4": (Format.NVFP4, E2M1),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN.npy")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz")
    parser.add_argument("--format", choices=_FORMATS, default="mxfp4")
    parser.add_argument("--scale-rule", choices=[rule.value for rule in ScaleRule], default="even")
    parser.add_argument("--hadamard", type=int, choices=HADAMARD_SIZES, default=0, help="points, 0 for none")
    parser.add_argument("--signs", action="store_true", help="random signs before the transform, from --seed")
    parser.add_argument("--rounding", choices=[one.value for one in Rounding], default="nearest")
    parser.add_argument("--prescale", type=float, default=1.0, help="1.0, or for example 0.75")
    parser.add_argument("--rows", type=int, default=1, help="rows of a block: 1, or the block's columns")
    parser.add_argument("--seed", type=int, default=0, help="of stochastic rounding and signs")
    parser.add_argument("--axis", type=int, default=-1, help="the contraction dimension (default -1)")


def main(args: argparse.Namespace) -> int:
    format, element = _FORMATS[args.format]
    try:
        quantizer = Quantizer(
            format=format,
            element=element,
            scale_rule=ScaleRule(args.scale_rule),
            rounding=Rounding(args.rounding),
            prescale=args.prescale,
            hadamard=args.hadamard,
            signs=Signs.FIXED if args.signs else Signs.NONE,
            rows=args.rows,
        )
        shape = quantize_file(args.source, args.out, quantizer, axis=args.axis, seed=args.seed)
    except (VectorError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{args.out}: {error.strerror}", file=sys.stderr)
        return 3
    how = f"scale rule {args.scale_rule}, Hadamard {args.hadamard}"
    print(f"{args.out}: {shape}, {args.format}, {how}, blocks along axis {args.axis}")
    return 0

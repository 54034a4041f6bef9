"""`python -m kernels COMMAND ..`: the command line of this package, usable without the rest of the project."""

from __future__ import annotations

import argparse
import sys

from kernels.tools import commands

COMMANDS = {  # name -> the function that declares options, the function that runs it, help text
    "verify": (
        commands.verify_arguments,
        commands.verify,
        "compare every implementation with the specification, element by element",
    ),
    "prove": (
        commands.prove_arguments,
        commands.prove,
        "compile for GPUs without having one: instructions, registers and spills",
    ),
    "bench": (
        commands.bench_arguments,
        commands.bench,
        "verify, then measure speed: of the GPU's kernels, or with --cpu of the CPU's",
    ),
    "quantize": (
        commands.quantize_arguments,
        commands.quantize,
        "write test vectors: elements, scales and dequantised values of an array",
    ),
}


_EXAMPLES = {  # command -> lines that can be typed; "" for the help of all
    "": ("verify --device cpu", "prove --target gfx950"),
    "verify": ("verify", "verify --seeds 5 --json"),
    "prove": ("prove", "prove --target sm_100 --json"),
    "bench": ("bench", "bench --cpu"),
    "quantize": (
        "quantize in.npy --out vectors.npz",
        "quantize in.npy --out vectors.npz --hadamard 16 --signs --seed 7",
    ),
}


def _examples(command: str) -> str:
    return "\n".join(["examples:", *(f"  ./run.sh kernels {line}" for line in _EXAMPLES[command])])


def main() -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="./run.sh kernels",
        description="verify, prove or time the MXFP4 kernels, or quantise a file",
        formatter_class=plain,
        epilog=_examples(""),
    )
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, (arguments, _, text) in COMMANDS.items():
        command = added.add_parser(
            name, help=text, description=text, formatter_class=plain, epilog=_examples(name)
        )
        if name == wanted:  # other commands' modules are not imported: torch and Triton take seconds
            arguments(command)
    args = parser.parse_args()
    _, run, _ = COMMANDS[args.command]
    return run(args)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m kernels COMMAND ..`: the command line of this package, usable without the rest of the project."""

from __future__ import annotations

import argparse
import sys

from kernels.tools import commands

COMMANDS = {  # name -> its options, what runs it, and what it shows
    "verify": (
        commands.verify_arguments,
        commands.verify,
        "every implementation against the specification, element by element",
    ),
    "prove": (
        commands.prove_arguments,
        commands.prove,
        "instructions, registers and spills on GPUs that are not there",
    ),
    "bench": (
        commands.bench_arguments,
        commands.bench,
        "speed, after verifying: --cpu, or the GPU's kernels",
    ),
    "quantize": (
        commands.quantize_arguments,
        commands.quantize,
        "test vectors: elements, scales and dequantised values of an array",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run.sh kernels")
    added = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, (arguments, _, text) in COMMANDS.items():
        command = added.add_parser(name, help=text, description=text)
        if name == wanted:  # only the command that is asked for pays for its imports
            arguments(command)
    args = parser.parse_args()
    _, run, _ = COMMANDS[args.command]
    return run(args)


if __name__ == "__main__":
    sys.exit(main())

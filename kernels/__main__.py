"""`python -m kernels COMMAND ..`: the command line of this package, usable without the rest of the project."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "verify": (
        "kernels.tools.commands.verify",
        "every implementation against the specification, element by element",
    ),
    "prove": (
        "kernels.tools.commands.prove",
        "instructions, registers and spills on GPUs that are not there",
    ),
    "bench": ("kernels.tools.commands.bench", "speed, after verifying: --cpu, or the GPU's kernels"),
    "quantize": (
        "kernels.tools.commands.quantize",
        "test vectors: elements, scales and dequantised values of an array",
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run.sh kernels")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        added = commands.add_parser(name, help=text, description=text)
        if name == wanted:  # only the command that is asked for pays for its imports
            importlib.import_module(module).arguments(added)
    args = parser.parse_args()
    return importlib.import_module(COMMANDS[args.command][0]).main(args)


if __name__ == "__main__":
    sys.exit(main())

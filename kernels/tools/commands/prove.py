"""`kernels prove`: what the compiler makes of every kernel for GPUs that are not there."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

TARGETS = ("sm_90", "sm_100", "sm_120", "gfx942", "gfx950")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    try:
        from kernels.tools import prove
    except ImportError as error:
        print(f"kernels prove: found no {error.name}; pip install triton", file=sys.stderr)
        return 3
    found = []
    for target in args.target or TARGETS:
        for case in prove.cases(target):
            found.append(prove.compiled(target, case))
            if not args.json:
                print(prove.line(found[-1]), flush=True)
    complaints = [text for one in found for text in prove.complaints(one)]
    if args.json:
        rows = [asdict(one) for one in found]
        print(json.dumps({"ok": not complaints, "kernels": rows, "complaints": complaints}, indent=1))
    else:
        print(
            "\n".join(complaints)
            or f"{len(found)} kernels: every instruction that the targets have is used, no spills"
        )
    return 1 if complaints else 0

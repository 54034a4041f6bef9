"""`kernels verify`: every implementation against the specification, element by element."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from kernels.recipe import Format, Quantizer
from kernels.tools import oracles, verify_gemm, verify_twins
from kernels.tools.devices import device_of, triton_missing
from kernels.tools.verify_twins import Outcome

_SHAPES = ((64, 128), (96, 160), (32, 256), (64, 384))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=2, help="inputs of each kind (default 2)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    device = device_of(args.device)
    if device is None:
        print("--device: found cuda; allowed: cpu, no GPU is visible to torch", file=sys.stderr)
        return 3
    missing = triton_missing(device)
    np.seterr(all="ignore")  # the interpreter computes with NumPy, and NaN is among the inputs
    outcomes: list[Outcome] = []
    skipped: dict[str, str] = {}
    for name, reason, make in _twins(device, args.seeds, missing):
        if reason:
            skipped[name] = reason
            continue
        with poisoned_outputs():
            found = make()
        outcomes += found
        if not args.json:
            _print(found)
    ok = all(outcome.difference is None for outcome in outcomes)
    if args.json:
        document = {
            "ok": ok,
            "device": _name(device),
            "twins": [asdict(o) for o in outcomes],
            "skipped": skipped,
        }
        print(json.dumps(document, indent=1))
    else:
        for name, reason in skipped.items():
            print(f"{name:<34} NOT COMPARED: {reason}")
        print(f"{'all equal' if ok else 'DIFFERENCES'} on {_name(device)}")
    return 0 if ok else 1


@contextlib.contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fresh outputs begin as NaN and 255: what a kernel does not write cannot look right by accident."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling = torch.utils.deterministic
    filled, filling.fill_uninitialized_memory = filling.fill_uninitialized_memory, True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        filling.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _twins(
    device: torch.device, seeds: int, missing: str | None
) -> Iterator[tuple[str, str | None, Callable[[], list[Outcome]]]]:
    """Name, why it cannot be compared, and what compares it."""
    everything = verify_twins.quantizers()
    mx = [q for q in everything if q.format in (Format.MXFP4, Format.MXFP8)]
    home = torch.device("cpu")

    def one(
        name: str, twin: verify_twins.Twin, on: torch.device, chosen: list[Quantizer], **options: Any
    ) -> list[Outcome]:
        found = verify_twins.run(name, twin, device=on, shapes=_SHAPES, seeds=seeds, chosen=chosen, **options)
        return [found]

    yield "cpu", None, lambda: one("cpu", verify_twins.cpu_values, home, everything)
    why = oracles.torchao_missing()
    yield (
        "torchao",
        why and f"no torchao ({why})",
        lambda: one("torchao", oracles.torchao, home, oracles.quantizers(), kinds=oracles.KINDS),
    )
    yield (
        "triton packed",
        missing,
        lambda: one("triton packed", verify_twins.triton_packed, device, mx, order_is_free=True),
    )
    yield (
        "triton values",
        missing,
        lambda: one("triton values", verify_twins.triton_values, device, mx, order_is_free=True),
    )
    yield "gemm", None, lambda: verify_gemm.run(device)


def _print(outcomes: list[Outcome]) -> None:
    for one in outcomes:
        verdict = "equal" if one.difference is None else f"DIFFERS: {one.difference}"
        moved = f", {one.moved} moved by a sum's order" if one.moved else ""
        print(
            f"{one.twin:<34} {one.cases:5d} cases {one.elements / 1e6:8.1f} M elements{moved}  {verdict}",
            flush=True,
        )


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, Triton in its interpreter"

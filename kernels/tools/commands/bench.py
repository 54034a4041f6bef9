"""`kernels bench`: verifies, then measures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from kernels.tools.devices import device_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu", action="store_true", help="the CPU path instead of the GPU's kernels")
    parser.add_argument(
        "--tune", action="store_true", help="measure tilings of native products and keep the best"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    if args.cpu:
        from kernels.tools import bench_cpu

        return bench_cpu.main(json=args.json)
    device = device_of("cuda")
    if device is None:
        print("kernels bench: no GPU is visible to torch; --cpu measures the CPU path", file=sys.stderr)
        return 3
    if args.tune:
        return _tune(device)
    return report(device, small=False, as_json=args.json)


def report(device: torch.device, *, small: bool, as_json: bool) -> int:
    """Verify, measure, print; `small` shapes try the code itself where speed means nothing."""
    from kernels.tools import kernel_bench

    measure, checks = kernel_bench.timer(device), _checks(device, small)
    wrong = [f"{check.twin}: {check.difference}" for check in checks if check.difference]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    tokens = 128 if small else kernel_bench.TOKENS
    layers = {"tiny": (64, 96)} if small else kernel_bench.LAYERS
    groups: dict[str, Iterator[Any]] = {
        "quantisers": kernel_bench.quantisers(
            device, (128, 256) if small else (kernel_bench.TOKENS, 4096), measure
        ),
        "products": kernel_bench.gemms(device, tokens, layers, measure),
        "linears": kernel_bench.linears(device, tokens, layers, measure),
    }
    machine = f"{_device_name(device)}, torch {torch.__version__}"
    if not as_json:
        print(f"{machine}; verified: {', '.join(check.twin for check in checks)}; medians", flush=True)
    document: dict[str, Any] = {"machine": machine, "verified": [asdict(check) for check in checks]}
    for name, rows in groups.items():
        document[name] = []
        for row in rows:
            document[name].append(asdict(row))
            if not as_json:
                print(_line(name, row), flush=True)
    if as_json:
        print(json.dumps(document, indent=1))
    return 0


def _checks(device: torch.device, small: bool) -> list[Any]:
    """What is measured is verified first, on shapes that end inside tiles."""
    from kernels.recipe import Quantizer, ScaleRule
    from kernels.tools import verify_gemm, verify_twins

    chosen = [Quantizer(scale_rule=rule, hadamard=h) for rule in ScaleRule for h in (0, 16)]
    twins = (("triton packed", verify_twins.triton_packed), ("triton values", verify_twins.triton_values))
    shapes = ((96, 128),) if small else ((192, 256),)
    options: dict[str, Any] = {"device": device, "shapes": shapes, "seeds": 1, "order_is_free": True}
    found = [verify_twins.run(name, twin, chosen=chosen, **options) for name, twin in twins]
    return [*found, *verify_gemm.run(device)]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, Triton in its interpreter"


def _line(group: str, row: Any) -> str:
    text = f"{row.what:<62} {row.time_s * 1e6:10.1f} us"
    if row.moved_bytes:
        text += f" {row.moved_bytes / row.time_s / 1e12:7.3f} TB/s"
    if row.flops:
        text += f" {row.flops / row.time_s / 1e12:7.1f} TFLOP/s"
    if row.share is not None:
        text += (
            f"  {100 * row.share:5.1f} % of copy" if group == "quantisers" else f"  {row.share:5.2f}x BF16"
        )
    return text + "".join(f"  {ratio:.1f}x {name}" for name, ratio in row.ratios.items())


def _tune(device: torch.device) -> int:
    from kernels.tools import tuning

    path = tuning.run(device)
    if path is None:
        print("kernels bench --tune: this GPU multiplies no MX elements: nothing to tune", file=sys.stderr)
        return 3
    print(path)
    return 0

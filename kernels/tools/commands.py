"""The commands of `python -m kernels`: options and output. Each command imports its modules only when it runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from kernels.formats import Element
    from kernels.recipe import Format
    from kernels.tools.verify_twins import Outcome

_TARGETS = ("sm_90", "sm_100", "sm_103", "sm_120", "gfx942", "gfx950")  # default targets of `kernels prove`


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=int, default=2, help="number of random inputs of each kind (default 2)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where torch sees one"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=min(8, len(os.sched_getaffinity(0))),
        help="number of processes that share the work, most of which is compilation (default: a core each, 8 at most)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def verify(args: argparse.Namespace) -> int:
    """`kernels verify`: every implementation against the specification, element by element."""
    from kernels.tools import oracles, verify_processes
    from kernels.tools.devices import device_of, triton_missing

    device = device_of(args.device)
    if device is None:
        print("--device cuda: torch sees no GPU; use --device cpu", file=sys.stderr)
        return 3
    outcomes = verify_processes.run(device=device.type, seeds=args.seeds, processes=max(1, args.processes))
    skipped = {}
    if missing := triton_missing(device):
        skipped = {"triton packed": missing, "triton values": missing}
    if why := oracles.torchao_missing():
        skipped["torchao"] = f"no torchao ({why})"
    if not args.json:
        _print_outcomes(outcomes)
    ok = all(outcome.difference is None for outcome in outcomes)
    if args.json:
        document = {
            "ok": ok,
            "device": _device_name(device),
            "twins": [asdict(o) for o in outcomes],
            "skipped": skipped,
        }
        print(json.dumps(document, indent=1))
    else:
        for name, reason in skipped.items():
            print(f"{name:<34} NOT COMPARED: {reason}")
        print(f"{'all equal' if ok else 'DIFFERENCES'} on {_device_name(device)}")
    return 0 if ok else 1


@contextlib.contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Fill new outputs with NaN or 255, so that an entry that a kernel does not write is seen as wrong."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling = torch.utils.deterministic
    filled, filling.fill_uninitialized_memory = filling.fill_uninitialized_memory, True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        filling.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _print_outcomes(outcomes: list[Outcome]) -> None:
    for one in outcomes:
        verdict = "equal" if one.difference is None else f"DIFFERS: {one.difference}"
        moved = f", {one.moved} differ by the order of a sum" if one.moved else ""
        print(
            f"{one.twin:<34} {one.cases:5d} cases {one.elements / 1e6:8.1f} M elements{moved}  {verdict}",
            flush=True,
        )


def _device_name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, Triton in its interpreter"


def prove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", choices=_TARGETS, action="append", help="compile for this target only; may be repeated"
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="one JSON document on stdout")
    shown.add_argument(
        "--table",
        action="store_true",
        help="kernels on tiles as the table of docs/measurements/2026-11-29_sass.md",
    )


def prove(args: argparse.Namespace) -> int:
    """`kernels prove`: compile every kernel for GPUs without having them, and check the instructions."""
    try:
        from kernels.tools import prove
    except ImportError as error:
        print(f"kernels prove: {error.name} is not installed; pip install triton", file=sys.stderr)
        return 3
    found = []
    for target in args.target or _TARGETS:
        for case in prove.cases(target):
            found.append(prove.compiled(target, case))
            if not args.json and not args.table:
                print(prove.line(found[-1]), flush=True)
    complaints = [text for one in found for text in prove.complaints(one)]
    if args.json:
        rows = [asdict(one) | {"per_element": round(one.per_element, 2)} for one in found]
        print(json.dumps({"ok": not complaints, "kernels": rows, "complaints": complaints}, indent=1))
    elif args.table:
        print(prove.table(found))
        print("\n".join(complaints), end="", file=sys.stderr)
    else:
        print(
            "\n".join(complaints)
            or f"{len(found)} kernels: all special instructions of the targets are used, no register is spilled"
        )
    return 1 if complaints else 0


def bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpu", action="store_true", help="measure the CPU's kernels instead of the GPU's")
    parser.add_argument(
        "--tune", action="store_true", help="measure tilings of native products and keep the best"
    )
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[8192, 16384, 32768],
        metavar="N",
        help="with --tune: tokens of a micro batch, micro batch size x 8192 (default 8192 16384 32768)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def bench(args: argparse.Namespace) -> int:
    """`kernels bench`: verify, then measure speed."""
    if args.cpu:
        from kernels.tools import bench_cpu

        return bench_cpu.main(json=args.json)
    from kernels.tools.devices import device_of

    device = device_of("cuda")
    if device is None:
        print("kernels bench: torch sees no GPU; use --cpu to measure the CPU's kernels", file=sys.stderr)
        return 3
    if args.tune:
        return _tune(device, args.tokens)
    return bench_report(device, small=False, as_json=args.json)


def bench_report(device: torch.device, *, small: bool, as_json: bool) -> int:
    """Verify, measure and print; with `small` shapes only to test this code, where speed does not matter."""
    import torch

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
                print(_bench_line(name, row), flush=True)
    if as_json:
        print(json.dumps(document, indent=1))
    return 0


def _checks(device: torch.device, small: bool) -> list[Any]:
    """Verify the kernels that will be measured, on shapes that are not multiples of a tile."""
    from kernels.recipe import MAXIMUM_RULES, Quantizer
    from kernels.tools import verify_gemm, verify_twins

    chosen = [Quantizer(scale_rule=rule, hadamard=h) for rule in MAXIMUM_RULES for h in (0, 16)]
    twins = (("triton packed", verify_twins.triton_packed), ("triton values", verify_twins.triton_values))
    shapes = ((96, 128),) if small else ((192, 256),)
    options: dict[str, Any] = {"device": device, "shapes": shapes, "seeds": 1, "order_is_free": True}
    found = [verify_twins.run(name, twin, chosen=chosen, **options) for name, twin in twins]
    return [*found, *verify_gemm.run(device)]


def _bench_line(group: str, row: Any) -> str:
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


def _tune(device: torch.device, tokens: list[int]) -> int:
    from kernels.matmul import tuned_blas
    from kernels.tools import tuning

    paths = [path for path in (tuning.tilings(device, tokens), tuning.blas(device, tokens)) if path]
    if not paths:
        print(
            "kernels bench --tune: this GPU cannot multiply MX elements, so there is nothing to tune; "
            f"{tuned_blas.why_not()}",
            file=sys.stderr,
        )
        return 3
    print(*paths, sep="\n")
    return 0


def quantize_arguments(parser: argparse.ArgumentParser) -> None:
    from kernels.recipe import HADAMARD_SIZES, Rounding, ScaleRule, TensorScale

    parser.add_argument("source", type=Path, metavar="IN.npy", help="a NumPy array")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz", help="the test vectors")
    parser.add_argument(
        "--format", choices=_formats(), default="mxfp4", help="of the elements (default mxfp4)"
    )
    parser.add_argument(
        "--scale-rule",
        choices=[rule.value for rule in ScaleRule],
        default="even",
        help="how a block's largest magnitude becomes its scale (default even); nvfp4 has even, rceil, four-six",
    )
    parser.add_argument(
        "--tensor-scale",
        choices=[one.value for one in TensorScale],
        default="amax",
        help="of nvfp4: from the largest magnitude as Transformer Engine or as torchao computes it, or none",
    )
    parser.add_argument(
        "--hadamard", type=int, choices=HADAMARD_SIZES, default=0, help="points of the transform, 0 for none"
    )
    parser.add_argument(
        "--signs", action="store_true", help="random signs before the transform, drawn from --seed"
    )
    parser.add_argument(
        "--rounding",
        choices=[one.value for one in Rounding],
        default="nearest",
        help="of the elements (default nearest)",
    )
    parser.add_argument("--prescale", type=float, default=1.0, help="1.0, or for example 0.75")
    parser.add_argument("--rows", type=int, default=1, help="rows of a block: 1, or the block's columns")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of stochastic rounding and of signs (default 0)"
    )
    parser.add_argument("--axis", type=int, default=-1, help="the contraction dimension (default -1)")


def quantize(args: argparse.Namespace) -> int:
    """`kernels quantize IN.npy --out OUT.npz ..`: write test vectors."""
    from kernels.recipe import Format, Quantizer, Rounding, ScaleRule, Signs, TensorScale
    from kernels.tools.vectors import VectorError, quantize_file

    format, element = _formats()[args.format]
    try:
        quantizer = Quantizer(
            format=format,
            element=element,
            scale_rule=ScaleRule(args.scale_rule),
            tensor_scale=TensorScale(args.tensor_scale),
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
    signs = " with signs" if args.signs else ""
    how = f"scale rule {args.scale_rule}, Hadamard {args.hadamard}{signs}, rounding {args.rounding}"
    if format is Format.NVFP4:
        how += f", tensor scale {args.tensor_scale}"
    print(f"{args.out}: {shape}, {args.format}, {how}, blocks along axis {args.axis}")
    return 0


def _formats() -> dict[str, tuple[Format, Element]]:
    """Format and element type for each value of `kernels quantize --format`."""
    from kernels.formats import E2M1, E4M3, E5M2
    from kernels.recipe import Format

    return {
        "mxfp4": (Format.MXFP4, E2M1),
        "mxfp8-e4m3": (Format.MXFP8, E4M3),
        "mxfp8-e5m2": (Format.MXFP8, E5M2),
        "nvfp4": (Format.NVFP4, E2M1),
    }

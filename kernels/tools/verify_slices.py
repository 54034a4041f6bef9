"""Runs a part of `kernels verify`, so that several processes share the work: most of the time is compilation.

Usage: python -m kernels.tools.verify_slices --slice I --of N [--device cuda]. Prints a JSON line per kernel and
quantizer, those of the submitted recipe first: if time runs out, the most important comparisons are done.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from kernels.matmul import engine_probe
from kernels.recipe import Quantizer, TensorScale
from kernels.tools import inputs, oracles, verify_gemm, verify_twins
from kernels.tools.commands import poisoned_outputs
from kernels.tools.devices import device_of, triton_missing
from kernels.tools.verify_twins import Outcome

# Some shapes fill whole tiles; of the others the last tile reaches past the edge of the matrix.
_SHAPES = ((64, 128), (96, 160), (32, 256), (64, 384))


@dataclass(frozen=True)
class Case:
    """One comparison, printed as one line."""

    twin: str
    what: str
    compare: Callable[[], list[Outcome]]


def cases(device: torch.device, *, seeds: int) -> list[Case]:
    """All cases, the most important first; every process gets the same list."""
    found = [Case("gemm", "every engine, format and shape", lambda: verify_gemm.run(device))]
    everything = sorted(verify_twins.quantizers(), key=_rank)
    twins = {"triton packed": verify_twins.triton_packed, "triton values": verify_twins.triton_values}
    for quantizer in everything if triton_missing(device) is None else ():
        free = _order_is_free(quantizer, device)
        for name, twin in twins.items():
            found.append(_case(name, twin, device, quantizer, seeds, order_is_free=free))
    home = torch.device("cpu")
    for quantizer in (*everything, *verify_twins.quantizers_of_cpus()):
        found.append(_case("cpu", verify_twins.cpu_values, home, quantizer, seeds))
    if oracles.torchao_missing() is None:
        for quantizer in oracles.quantizers():
            found.append(_case("torchao", oracles.torchao, home, quantizer, seeds, kinds=oracles.KINDS))
    return found


def _order_is_free(quantizer: Quantizer, device: torch.device) -> bool:
    """Whether the device's kernel adds the transform's sums in another order than the specification."""
    from kernels.quantize import triton

    return triton.adds_in_another_order(quantizer.hadamard, triton.target(torch.empty(0, device=device)))


def _rank(quantizer: Quantizer) -> int:
    """Sort key: the number of options in which a quantizer differs from the submitted recipe's."""
    submitted = Quantizer(hadamard=16)
    names = ("format", "scale_rule", "rounding", "hadamard", "signs", "rows", "tensor_scale")
    return sum(getattr(quantizer, name) != getattr(submitted, name) for name in names)


def _case(
    name: str,
    twin: verify_twins.Twin,
    device: torch.device,
    quantizer: Quantizer,
    seeds: int,
    *,
    order_is_free: bool = False,
    kinds: Sequence[str] = tuple(inputs.KINDS),
) -> Case:
    what = f"{engine_probe.described(quantizer, quantizer)} {quantizer.scale_rule.value} {quantizer.rounding.value}"
    if quantizer.rows > 1:
        what += f" blocks of {quantizer.rows} rows"
    if quantizer.tensor_scale is not TensorScale.AMAX:
        what += f" tensor scale {quantizer.tensor_scale.value}"
    if quantizer.prescale != 1.0:
        what += f" pre-scale {quantizer.prescale}"
    shapes = [shape for shape in _SHAPES if not (shape[1] % quantizer.multiple or shape[0] % quantizer.rows)]

    def compare() -> list[Outcome]:
        return [
            verify_twins.run(
                name,
                twin,
                device=device,
                shapes=shapes,
                seeds=seeds,
                chosen=[quantizer],
                order_is_free=order_is_free,
                kinds=kinds,
            )
        ]

    return Case(name, what, compare)


def compared(chosen: list[Case], of: int) -> Iterator[dict[str, object]]:
    """Compare, and return a row per outcome; an exception counts as a difference."""
    for case in chosen:
        began = time.perf_counter()
        try:
            with poisoned_outputs():
                outcomes = case.compare()
        except Exception as error:  # a kernel that does not compile must not hide the others
            words = str(error).strip().splitlines() or ["no message"]
            outcomes = [Outcome(case.twin, 0, 0, 0, f"{type(error).__name__}: {words[0]}"[:300])]
        for outcome in outcomes:
            seconds = time.perf_counter() - began
            yield {**asdict(outcome), "what": case.what, "of": of, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(prog="kernels.tools.verify_slices")
    parser.add_argument("--slice", type=int, default=0)
    parser.add_argument("--of", type=int, default=1, help="number of processes that share the work")
    parser.add_argument("--seeds", type=int, default=1, help="number of random inputs of each kind")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Triton's interpreter computes with NumPy, which would warn of the NaN among the inputs
    np.seterr(all="ignore")
    device = device_of(arguments.device)
    if device is None:
        raise SystemExit("--device cuda: torch sees no GPU; use --device cpu")
    everything = cases(device, seeds=arguments.seeds)
    for row in compared(everything[arguments.slice :: arguments.of], len(everything)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

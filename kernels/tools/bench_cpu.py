"""Measures the speed of the CPU's quantisers, compared with a memory copy and with torchao's best in the same run.

Every function is compared with the specification bit for bit before it is timed. Repetitions are interleaved, so that a
busy machine slows all functions alike, and the median is reported; on one thread of its processor time, which does not
grow while the thread waits for a processor. New memory costs page faults unless the allocator keeps freed memory, as it
does in training (harness/contract/environment.py sets MALLOC_*); the bench therefore counts and prints the page faults
of a copy.
"""

from __future__ import annotations

import json as json_module
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.formats import E4M3, E5M2
from kernels.hadamard import matrix
from kernels.philox import Draw
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule
from kernels.tools.oracles import torchao_missing

_H16 = Quantizer(hadamard=16)
_NVFP4 = Quantizer(format=Format.NVFP4)
_OURS = {  # name -> (quantizer, whether the matrix is a transposed view)
    "quantise-dequantise": (Quantizer(), False),
    "H16 + quantise-dequantise": (_H16, False),
    "transposed": (Quantizer(), True),
    "transposed, H16": (_H16, True),
    "stochastic": (Quantizer(rounding=Rounding.STOCHASTIC), False),
    "nvfp4": (_NVFP4, False),
    "nvfp4, H16": (replace(_NVFP4, hadamard=16), False),
    "nvfp4, transposed": (_NVFP4, True),
    "nvfp4, stochastic": (replace(_NVFP4, rounding=Rounding.STOCHASTIC), False),
    "nvfp4, four-six": (replace(_NVFP4, scale_rule=ScaleRule.FOUR_SIX), False),
}
_TORCHAO = "torchao to_mx + to_dtype"
_TORCHAO_H16 = "H16 + torchao to_mx + to_dtype"
_TORCHAO_NVFP4 = "torchao nvfp4_quantize + dequantise"
_COMPILED = ", compiled"
_FP8 = {"fp8 E4M3": E4M3, "fp8 E5M2": E5M2}
_CODES = "codes and scales"
_COPY = "clone"
_LIMITS = (  # name, its torchao counterpart, smallest allowed speedup over that, longest allowed time in copies
    ("quantise-dequantise", _TORCHAO, 20.0, 4.0),
    ("H16 + quantise-dequantise", _TORCHAO_H16, 12.0, 4.0),
    ("nvfp4", _TORCHAO_NVFP4, 20.0, 4.0),
)
_VERIFIED_ROWS = 512
_DRAW = Draw(seed=1, offset=2)

Work = Callable[[Tensor], object]


def bench(size: int = 4096, repetitions: int = 9) -> dict[str, Any]:
    """Time square matrices of `size` in FP32 and BF16, on one thread and on all that torch uses.

    Raises:
        ValueError: an implementation differs from the specification; nothing is timed then.
    """
    threads = torch.get_num_threads()
    cases, checks = [], []
    missing = torchao_missing()
    failures = {} if missing else {name: _compile_failure(work) for name, work in _theirs().items()}
    try:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(dtype)
            _verify(x)
            for count in sorted({1, threads}):
                torch.set_num_threads(count)
                seconds = _timed(x, repetitions, [name for name, why in failures.items() if not why])
                label = {"dtype": str(dtype).removeprefix("torch."), "threads": count}
                cases += [{**label, **row} for row in _rows(seconds, x.numel())]
                checks += [{**label, **check} for check in _checks(seconds)]
    finally:
        torch.set_num_threads(threads)
    compiled = {name: why or "measured" for name, why in failures.items()}
    machine = {**_machine(x), "torchao_compiled": compiled or f"no torchao: {missing}"}
    found = {"machine": machine, "size": size, "repetitions": repetitions, "bits_equal_reference": True}
    return {**found, "cases": cases, "checks": checks}


def main(json: bool = False, size: int = 4096, repetitions: int = 9) -> int:
    """Print the table, or one JSON document; return 1 when bits are wrong or a limit is not met, else 0."""
    try:
        found = bench(size, repetitions)
    except ValueError as error:
        print(json_module.dumps({"bits_equal_reference": False, "error": str(error)}) if json else error)
        return 1
    print(json_module.dumps(found, indent=2) if json else "\n".join(_table(found)))
    return 0 if all(check["ok"] for check in found["checks"]) else 1


def _ours(x: Tensor, quantizer: Quantizer, transposed: bool) -> Tensor:
    draw = _DRAW if quantizer.rounding is Rounding.STOCHASTIC else None
    return cpu.quantize_dequantize(x.t() if transposed else x, quantizer, draw=draw)


def _verify(x: Tensor) -> None:
    part = x[:_VERIFIED_ROWS]
    for name, (quantizer, transposed) in _OURS.items():
        draw = _DRAW if quantizer.rounding is Rounding.STOCHASTIC else None
        view = part.t() if transposed else part
        expected = reference.dequantize(reference.quantize(view, quantizer, draw=draw)).to(torch.bfloat16)
        got = _ours(part, quantizer, transposed)
        wrong = (got.view(torch.int16) != expected.contiguous().view(torch.int16)).sum().item()
        if wrong:
            raise ValueError(f"{name}, {x.dtype}: {wrong} values of {got.numel()} differ from the reference")
    for name, element in _FP8.items():
        values, scale = cpu.fp8_values(part, element)
        fp8 = reference.quantize_fp8(part, cpu.element_type(element))
        if scale != fp8.scale or not torch.equal(values, fp8.elements.to(torch.bfloat16)):
            raise ValueError(f"{name}, {x.dtype}: values or scale differ from the reference")
    codes, wanted = (quantize(part, Quantizer()) for quantize in (cpu.quantize, reference.quantize))
    if not (torch.equal(codes.elements, wanted.elements) and torch.equal(codes.scales, wanted.scales)):
        raise ValueError(f"{_CODES}, {x.dtype}: elements or scales differ from the reference")


def _theirs() -> dict[str, Work]:
    return {_TORCHAO: _torchao, _TORCHAO_H16: _torchao_h16, _TORCHAO_NVFP4: _torchao_nvfp4}


def _timed(x: Tensor, repetitions: int, compiled: list[str]) -> dict[str, float]:
    """Median seconds of every function, with interleaved repetitions; of the `compiled` also that form."""
    works: dict[str, Work] = {_COPY: torch.clone}
    for name, (quantizer, transposed) in _OURS.items():
        works[name] = lambda x, q=quantizer, t=transposed: _ours(x, q, t)  # type: ignore[misc]
    works[_CODES] = lambda x: cpu.quantize(x, Quantizer())
    for name, element in _FP8.items():
        works[name] = lambda x, e=element: cpu.fp8_values(x, e)  # type: ignore[misc]
    if torchao_missing() is None:
        theirs = _theirs()
        works |= theirs
        torch._dynamo.reset()  # compiled code keeps the number of threads that it was compiled with
        works |= {name + _COMPILED: torch.compile(theirs[name], dynamic=False) for name in compiled}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for repetition in range(repetitions + 1):
        for name, work in works.items():
            start = clock()
            result = work(x)
            taken = clock() - start
            del result
            if repetition:  # the first repetition is not counted: its memory is new and costs page faults
                seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _compile_failure(work: Work) -> str:
    """Why torch.compile cannot serve a function of torchao here (MXFP4: torch 2.13 on a CPU); empty where it can."""
    try:
        torch.compile(work, dynamic=False)(torch.ones(32, 64))
    except Exception as error:  # a missing compiler or an operator that inductor lacks may raise any type
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _torchao(x: Tensor) -> Tensor:
    """torchao's MXFP4 with the same scale rule and the same BF16 output."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    scales, elements = to_mx(x, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.EVEN)
    return to_dtype(elements, scales, torch.float4_e2m1fn_x2, 32, torch.bfloat16)


def _torchao_nvfp4(x: Tensor) -> Tensor:
    """torchao's NVFP4 with a tensor scale and the same BF16 output, as its NVFP4Tensor.dequantize computes it."""
    from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    tensor_scale = per_tensor_amax_to_scale(x.abs().max())
    scales, elements = nvfp4_quantize(x, 16, tensor_scale)
    blocks = f4_unpacked_to_f32(unpack_uint4(elements)).view(x.size(0), -1, 16)
    scaled = blocks * (scales.float() * tensor_scale).view(x.size(0), -1, 1)
    return scaled.view(x.shape).to(torch.bfloat16)


def _torchao_h16(x: Tensor) -> Tensor:
    return _torchao((x.view(-1, 16) @ (matrix(16) / 4).to(x.dtype)).view(x.shape))


def _rows(seconds: dict[str, float], elements: int) -> list[dict[str, Any]]:
    rows = []
    for name, taken in seconds.items():
        theirs = _best(seconds, _counterpart(name)) if name not in _FP8 else None
        rows.append(
            {
                "name": name,
                "ns_per_element": taken / elements * 1e9,
                "times_clone": taken / seconds[_COPY],
                "torchao_over_this": theirs / taken if theirs else None,
            }
        )
    return rows


def _counterpart(name: str) -> str:
    """What torchao has for a function of ours: for NVFP4 its quantiser without transform, for MXFP4 either."""
    if "nvfp4" in name:
        return _TORCHAO_NVFP4
    return _TORCHAO_H16 if "H16" in name else _TORCHAO


def _best(seconds: dict[str, float], name: str) -> float | None:
    """The shorter time of torchao's function and of its compiled form; None where torchao is not installed."""
    return min((seconds[key] for key in (name, name + _COMPILED) if key in seconds), default=None)


def _checks(seconds: dict[str, float]) -> list[dict[str, Any]]:
    checks = []
    for name, theirs, least, most in _LIMITS:
        ratio = seconds[name] / seconds[_COPY]
        checks.append({"what": f"{name}: times clone", "found": ratio, "at_most": most, "ok": ratio <= most})
        best = _best(seconds, theirs)
        if best:
            gain = best / seconds[name]
            checks.append(
                {"what": f"{name}: over torchao", "found": gain, "at_least": least, "ok": gain >= least}
            )
    return checks


def _machine(x: Tensor) -> dict[str, Any]:
    missing = torchao_missing()
    faults = _page_faults(x)
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchao": _version("torchao") if missing is None else f"not compared: {missing}",
        "engine": cpu.engine(),
        "page_faults_of_a_clone": faults,
        "allocator": "keeps freed memory, as in training" if faults < 1000 else (
            "gives freed memory back: fresh tensors cost page faults; training sets MALLOC_* "
            "(harness/contract/environment.py)"
        ),
    }  # fmt: skip


def _page_faults(x: Tensor) -> int:
    for _ in range(2):
        x.clone()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x.clone()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _compiled_lines(found: dict[str, str] | str) -> list[str]:
    if isinstance(found, str):
        return [found]
    return [f"{name} under torch.compile: {what}" for name, what in found.items()]


def _table(found: dict[str, Any]) -> list[str]:
    machine = found["machine"]
    lines = [
        f"{machine['cpu']}, torch {machine['torch']}, torchao {machine['torchao']}, engine {machine['engine']}",
        *_compiled_lines(machine["torchao_compiled"]),
        f"allocator {machine['allocator']} ({machine['page_faults_of_a_clone']} page faults a clone)",
        f"{found['size']} x {found['size']}, medians of {found['repetitions']} interleaved repetitions; "
        "bits equal the reference",
        "",
        f"{'':<44}{'ns/element':>12}{'x clone':>10}{'torchao / this':>16}",
    ]
    last = None
    for case in found["cases"]:
        label = f"{case['dtype']}, {case['threads']} thread{'s' if case['threads'] > 1 else ''}"
        if label != last:
            lines.append(label)
            last = label
        gain = "" if case["torchao_over_this"] is None else f"{case['torchao_over_this']:.1f}"
        row = f"  {case['name']:<42}{case['ns_per_element']:>12.3f}{case['times_clone']:>10.2f}{gain:>16}"
        lines.append(row)
    lines += ["", "limits"]
    for check in found["checks"]:
        limit = f"at most {check['at_most']:g}" if "at_most" in check else f"at least {check['at_least']:g}"
        verdict = "met" if check["ok"] else "MISSED"
        label = f"{check['dtype']}, {check['threads']} threads"
        lines.append(f"  {label:<22}{check['what']:<44}{check['found']:>8.2f}  {limit:<12} {verdict}")
    return lines

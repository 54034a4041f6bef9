"""Tests the GEMM engines and attention kernels of a run before the model is built.

An installed library may lack a kernel, or its kernel may compute wrong values.

kernels.matmul.gemm.choose skips a GEMM engine that fails. With `model.attention: torch` the run uses the first
attention kernel that is right; with a kernel chosen by name, the run stops if that kernel is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from harness.contract.attempt_rows import EngineProbe
from harness.contract.config import Config
from kernels import architectures
from kernels.matmul import engine_probe
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import ENGINES, choose
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Operand
from submission import modules
from submission.fusion_probes import try_fusions
from submission.phases import phases_of

ATTENTION = "attention"
_SEQUENCE = 128
# the values of model.attention
Kernel = Literal["torch", "flash", "cudnn", "efficient", "math", "transformer_engine"]
_BEST_FIRST: tuple[Kernel, ...] = ("torch", "cudnn", "flash", "efficient", "math")
# largest |difference| / |exact| in the 2-norm; attention in BF16 rounds probabilities to 8 bits twice
_TOLERANCE = {torch.bfloat16: 0.02, torch.float32: 0.002}


class DifferentEngines(RuntimeError):
    """An engine passes its test on one rank and fails on another: their GPUs or installations differ."""


def try_all(config: Config, arm: str, home: torch.device) -> tuple[Config, tuple[EngineProbe, ...]]:
    """Try the engines of an arm, the attention and the fused kernels of its model; all ranks try together.

    Returns:
        The configuration with the attention kernel and the fusions that work, and what was tried.

    Raises:
        kernels.matmul.gemm.BackendError: no engine can compute a product.
        submission.modules.BackendMissing: the requested attention kernel is missing or wrong.
        DifferentEngines: the tests gave different results on different ranks.
    """
    # fake tensors (submission/rehearsal) hold no numbers to compare
    if isinstance(torch.empty(1, device=home), FakeTensor):
        return config, ()
    ours = config.arms[arm].transformer_engine == "none"
    gemms = try_gemms([phase.recipe for phase in phases_of(config, arm)], config, arm, home) if ours else ()
    kernel, attention = try_attention(config, home)
    working, fusions = try_fusions(config, home)
    found = (*gemms, *attention, *fusions)
    _require_agreement(found)
    return replace(working, model=replace(working.model, attention=kernel)), found


def try_gemms(
    recipes: Sequence[LinearRecipe], config: Config, arm: str, home: torch.device
) -> tuple[EngineProbe, ...]:
    """Choose an engine for every product of these recipes at the probe's size; returns the tests that this ran."""
    probes = engine_probe.of(torch.empty(0, device=home))
    size = engine_probe.SIZE
    if probes is None:
        return ()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[config.model.dtype]
    products = {
        (
            recipe[which].quantizer(which, Operand.LEFT),
            recipe[which].quantizer(which, Operand.RIGHT),
            recipe[which].gain,
        )
        for recipe in recipes
        for which in Gemm
    }
    for left, right, gain in sorted(products, key=str):
        request = Request(left, right, size, size, size, gain, dtype)
        choose(architectures.of(home), request, config.arms[arm].backend, probes)
    wanted = {engine_probe.described(left, right) for left, right, _ in products}
    return tuple(
        EngineProbe(engine=one.engine, what=one.what, failure=one.failure)
        for one in probes.found
        if one.what in wanted
    )


def try_everything(config: Config, home: torch.device) -> tuple[EngineProbe, ...]:
    """Test every attention kernel, and every engine with every format that it accepts on this device."""
    size, found = engine_probe.SIZE, []
    for recipe in map(_recipe_of, Format):
        pairs = {tuple(recipe.quantizer(which, operand) for operand in Operand) for which in Gemm}
        for engine in ENGINES:
            for left, right in sorted(pairs, key=str):
                if engine.refuses(architectures.of(home), Request(left, right, size, size, size)) is None:
                    failure = engine_probe.failure_of(engine, left, right, home)
                    what = engine_probe.described(left, right)
                    found.append(EngineProbe(engine=engine.name, what=what, failure=failure))
    for kernel in _BEST_FIRST:
        failure = _attention_failure(kernel, config, home)
        found.append(EngineProbe(engine=_kernel_name(kernel), what=ATTENTION, failure=failure))
    return (*found, *try_fusions(config, home)[1])


def _recipe_of(format: Format) -> GemmRecipe:
    """The recipe with which the arms of benchmark.yaml use a format."""
    return GemmRecipe(format, hadamard=16) if format is Format.MXFP4 else GemmRecipe(format)


def try_attention(config: Config, home: torch.device) -> tuple[Kernel, tuple[EngineProbe, ...]]:
    """The attention kernel to use, and the tests.

    Raises:
        submission.modules.BackendMissing: the requested kernel, or every kernel, is missing or wrong.
    """
    asked = config.model.attention
    if asked == "transformer_engine":
        return asked, ()
    tried: list[EngineProbe] = []
    for kernel in _BEST_FIRST if asked == "torch" else (asked,):
        failure = _attention_failure(kernel, config, home)
        tried.append(EngineProbe(engine=_kernel_name(kernel), what=ATTENTION, failure=failure))
        if not failure:
            return kernel, tuple(tried)
    reasons = "; ".join(f"{one.engine}: {one.failure}" for one in tried)
    raise modules.BackendMissing(
        f"model.attention: {asked} does not work here ({reasons}); "
        f"choose torch, which uses any kernel that works"
    )


def _kernel_name(kernel: str) -> str:
    return "torch's choice" if kernel == "torch" else f"torch {kernel}"


def _attention_failure(kernel: str, config: Config, home: torch.device) -> str:
    """Why a kernel fails; empty where output and gradients equal those of attention in FP64 within the tolerance."""
    try:
        return next(_wrong_attention(kernel, config, home), "")
    except Exception as error:  # a build of torch may raise any type
        reason = error.__cause__ or error
        lines = str(reason).strip().splitlines()
        return f"{type(reason).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _wrong_attention(kernel: str, config: Config, home: torch.device) -> Iterator[str]:
    model, tensor = config.model, config.parallelism.tensor
    size = model.hidden_size // model.attention_heads
    dtype = torch.bfloat16 if model.dtype == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(3)
    heads = (model.attention_heads // tensor, model.query_groups // tensor, model.query_groups // tensor)
    operands = [torch.randn(1, n, _SEQUENCE, size, generator=generator).to(dtype) for n in heads]
    gradient = torch.randn(1, heads[0], _SEQUENCE, size, generator=generator).to(dtype)
    exact = [x.double().requires_grad_() for x in operands]
    wanted = _attention(*exact)
    expected = [wanted, *torch.autograd.grad(wanted, exact, gradient.double())]
    given = [x.to(home).requires_grad_() for x in operands]
    out = modules.attend(kernel, *given, scale=size**-0.5)
    found = [out, *torch.autograd.grad(out, given, gradient.to(home))]
    for what, got, right in zip(("output", "dQ", "dK", "dV"), found, expected, strict=True):
        error = ((got.cpu().double() - right).norm() / right.norm()).item()
        if not error <= _TOLERANCE[dtype]:
            yield f"{what} differs by {error:.1e} of its norm from attention in FP64, allowed: {_TOLERANCE[dtype]}"


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention in FP64, straight from its definition."""
    times = query.size(1) // key.size(1)
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.size(-1))
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ value


def _require_agreement(found: tuple[EngineProbe, ...]) -> None:
    everyone: list[tuple[EngineProbe, ...] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    first = {(one.engine, one.what): one.failure for one in everyone[0] or ()}
    for rank, theirs in enumerate(everyone):
        for one in theirs or ():
            here = first.get((one.engine, one.what), one.failure)
            if bool(one.failure) != bool(here):
                worse, better, why = (rank, 0, one.failure) if one.failure else (0, rank, here)
                raise DifferentEngines(
                    f"{one.engine} ({one.what}) is right on rank {better} and fails on rank {worse} ({why}): "
                    f"look at that rank's GPU and installation (./run.sh doctor, ./run.sh qualify)"
                )

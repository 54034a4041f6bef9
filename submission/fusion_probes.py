"""Tries the fused kernels of a model on this GPU before it is built; one that is wrong or missing is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.contract.attempt_rows import EngineProbe
from harness.contract.config import Config
from kernels.fused import reference
from submission.fused_modules import QUANTISE

FUSION = "between the products"
_TOKENS = 96
# of the norm of the difference to the norm: a result in BF16 is rounded to 8 bits once
_TOLERANCE = {torch.bfloat16: 0.01, torch.float32: 1e-4}


def try_fusions(config: Config, home: torch.device) -> tuple[Config, tuple[EngineProbe, ...]]:
    """The configuration with the fusions that work, and what was tried; a CPU runs the specification itself."""
    if home.type == "cpu":
        return config, ()
    tried = tuple(
        EngineProbe(engine=f"fused {name}", what=FUSION, failure=failure_of(name, config, home))
        for name in config.model.fusions
    )
    kept = tuple(name for name, one in zip(config.model.fusions, tried, strict=True) if not one.failure)
    return replace(config, model=replace(config.model, fusions=kept)), tried


def failure_of(name: str, config: Config, home: torch.device) -> str:
    """Empty where results and gradients on this device are those of the specification on the CPU.

    Quantising jointly must give the bits of the fused kernel and the quantiser one after the other on this device.
    """
    try:
        if name == QUANTISE:
            from kernels.fused import joint_probe

            return joint_probe.difference(home)
        from kernels.fused import triton

        return next(_wrong(name, triton, config, home), "")
    except Exception as error:  # whatever a compiler or a driver raises
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def _wrong(name: str, kernels: Any, config: Config, home: torch.device) -> Iterator[str]:
    dtype = torch.bfloat16 if config.model.dtype == "bf16" else torch.float32
    found = _results(name, kernels, config, home, dtype)
    wanted = _results(name, reference, config, torch.device("cpu"), dtype)
    for place, (got, right) in enumerate(zip(found, wanted, strict=True)):
        got, right = got.cpu().double(), right.double()
        error = ((got - right).norm() / right.norm()).item()
        if not error <= _TOLERANCE[dtype]:
            yield (
                f"result {place + 1} differs by {error:.1e} of its norm from the specification, "
                f"allowed: {_TOLERANCE[dtype]}"
            )


def _results(
    name: str, kernels: Any, config: Config, home: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Everything that a fusion computes, forward and backward, of the same numbers on every device."""
    model, tensor, generator = config.model, config.parallelism.tensor, torch.Generator().manual_seed(5)

    def draw(*shape: int, type: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(home, type)

    if name == "rope":
        groups, head = model.query_groups // tensor, model.hidden_size // model.attention_heads
        heads = model.attention_heads // model.query_groups
        angles = 40 * torch.randn(_TOKENS, head // 2, generator=generator)
        cos, sin = angles.cos().to(home), angles.sin().to(home)
        made = kernels.rope(draw(_TOKENS, 1, groups, (heads + 2) * head), cos, sin, heads)
        gradients = [draw(*x.shape) for x in made]
        return (*made, kernels.rope_backward(*gradients, cos, sin))
    if name == "swiglu":
        width = model.ffn_hidden_size // tensor
        x = draw(_TOKENS, 2 * width)
        return kernels.swiglu(x), kernels.swiglu_backward(draw(_TOKENS, width), x)
    if name == "cross_entropy":
        columns = model.vocab_size // tensor
        logits, gradient = 4 * draw(_TOKENS, columns), draw(_TOKENS, type=torch.float32)
        labels = torch.randint(columns + 1, (_TOKENS,), generator=generator).to(home)
        log_sums, chosen = kernels.cross_entropy(logits, labels, 1)  # a label of 0 lies in another shard
        return log_sums, chosen, kernels.cross_entropy_backward(logits, labels, log_sums, gradient, 1)
    x, residual, past, dnormed = (draw(_TOKENS, model.hidden_size) for _ in range(4))
    gain = 1 + draw(model.hidden_size) / 8
    stream, normed, roots = kernels.norm(x, residual, gain, model.norm_epsilon)
    return stream, normed, roots, *kernels.norm_backward(past, dnormed, stream, gain, roots)

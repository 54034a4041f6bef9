"""Operations that one accelerator did in a second, as a log tells them."""

from __future__ import annotations

import math

from compliance.rule_input import Case, System

TFLOP_PER_SEQUENCE = 421.59  # forward and backward of one sequence of 8,192 tokens; facts of the model, TR
_ATTENTION = 52.7  # of these; causal, 32 layers of width 4,096; facts of the model
_SCRIPTED_S = 10.0


def tflops_per_accelerator(case: Case, system: System | None) -> float | None:
    """TFLOP/s of one accelerator over the run, evaluations included; None for a scripted run of seconds."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    accelerators = (system.accelerators if system else None) or _accelerators(case)
    if not accelerators or not samples or not seconds or seconds < _SCRIPTED_S:
        return None
    return TFLOP_PER_SEQUENCE * samples / seconds / accelerators


def fastest_tflops(*, linear: float, attention: float) -> float:
    """TFLOP/s of a sequence whose matrix products and attention run at these peaks, one after the other."""
    seconds = (TFLOP_PER_SEQUENCE - _ATTENTION) / linear + _ATTENTION / attention
    return TFLOP_PER_SEQUENCE / seconds


def _accelerators(case: Case) -> int | None:
    """As batch and parallelism of the log imply: data parallel x tensor x pipeline x context."""
    ways = case.integers("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
    batch = case.integers("global_batch_size", "micro_batch_size", "gradient_accumulation_steps")
    return max(1, batch[0] // (batch[1] * batch[2])) * math.prod(ways) if ways and batch else None

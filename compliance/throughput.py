"""Computes the operations per second of one accelerator from a log."""

from __future__ import annotations

import math

from compliance.rule_input import Case, System

TFLOP_PER_SEQUENCE = (
    421.59  # forward and backward pass of one sequence of 8,192 tokens; a fact of the model (TR)
)
_ATTENTION = 52.7  # share of attention in it: causal, 32 layers of width 4,096; a fact of the model
_SCRIPTED_S = 10.0


def tflops_per_accelerator(case: Case, system: System | None) -> float | None:
    """TFLOP/s of one accelerator over the run, evaluations included; None for a scripted run of a few seconds."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    accelerators = (system.accelerators if system else None) or _accelerators(case)
    if not accelerators or not samples or not seconds or seconds < _SCRIPTED_S:
        return None
    return TFLOP_PER_SEQUENCE * samples / seconds / accelerators


def fastest_tflops(*, linear: float, attention: float) -> float:
    """TFLOP/s of a sequence if its matrix products and then its attention run at these peaks."""
    seconds = (TFLOP_PER_SEQUENCE - _ATTENTION) / linear + _ATTENTION / attention
    return TFLOP_PER_SEQUENCE / seconds


def _accelerators(case: Case) -> int | None:
    """Accelerators that batch and parallelism of the log imply: data parallel x tensor x pipeline x context."""
    ways = case.integers("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
    batch = case.integers("global_batch_size", "micro_batch_size", "gradient_accumulation_steps")
    return max(1, batch[0] // (batch[1] * batch[2])) * math.prod(ways) if ways and batch else None

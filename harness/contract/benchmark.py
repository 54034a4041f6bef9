"""The benchmark and its scaled proxy: name, quality target, number of runs and evaluation, each stated once.

compliance judges logs by its own values (compliance/benchmark.py), so that a mistake here does not spread to it;
tests/test_benchmark.py holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """What the rules fix for everyone who runs a benchmark.

    Args:
        name: submission_benchmark in the log, and the name of the results directory.
        target_log_perplexity: nats per token.
        lower_is_better: the direction in which the target is reached.
        runs: number of runs of a valid score; 0: any number.
        evaluation_interval_samples: training sequences from one evaluation to the next, before they are rounded up to
            whole steps.
        evaluation_sequences: validation sequences of one evaluation.
        is_scaled: whether it is the proxy at toy scale, whose logs are no results.
    """

    name: str
    target_log_perplexity: float
    runs: int
    evaluation_interval_samples: int
    evaluation_sequences: int
    lower_is_better: bool = True
    is_scaled: bool = False

    def reached(self, log_perplexity: float, target: float) -> bool:
        """Whether an evaluation reaches the target, which may differ from the benchmark's."""
        return log_perplexity <= target if self.lower_is_better else log_perplexity >= target


# training_rules v6.0, closed table and Benchmark Results (ten runs)
BENCHMARK = Benchmark(
    name="llama31_8b",
    target_log_perplexity=3.3,
    runs=10,
    evaluation_interval_samples=12_288,
    evaluation_sequences=1024,
)
PROXY = Benchmark(
    name="llama31_8b_proxy",
    target_log_perplexity=4.2,
    runs=0,
    evaluation_interval_samples=128,
    evaluation_sequences=64,
    is_scaled=True,
)
BY_NAME = {one.name: one for one in (BENCHMARK, PROXY)}

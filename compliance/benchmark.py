"""Name, quality target, number of runs and evaluation of the benchmark and of its scaled proxy.

`rulesets/*.yaml` hold the same numbers with the source of each. tests/test_benchmark.py tests that both are equal,
and equal to those in harness/contract/benchmark.py, which compliance may not import.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """The values that the rules fix for every run of a benchmark.

    Args:
        name: submission_benchmark of the log, and the name of the directory of results.
        target_log_perplexity: nats per token.
        lower_is_better: the direction in which the target is reached.
        runs: number of runs of a valid score; 0: any number.
        evaluation_interval_samples: training sequences from one evaluation to the next, before rounding up to whole
            steps.
        evaluation_sequences: validation sequences of one evaluation.
        is_scaled: True for the proxy at toy scale, whose logs are not results.
    """

    name: str
    target_log_perplexity: float
    runs: int
    evaluation_interval_samples: int
    evaluation_sequences: int
    lower_is_better: bool = True
    is_scaled: bool = False

    def reached(self, log_perplexity: float, target: float) -> bool:
        """Whether an evaluation reaches the target. The caller may pass another target than the benchmark's."""
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

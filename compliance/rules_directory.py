"""Rules over the logs of one directory, the runs of one submission: C14, C15 and C18."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from compliance.case import Case, Violation

_SHARED = (  # C18: what ten runs of one submission have in common
    "submission_org",
    "submission_platform",
    "submission_benchmark",
    "submission_division",
    "submission_status",
    "global_batch_size",
    "gradient_accumulation_steps",
    "micro_batch_size",
    "opt_base_learning_rate",
    "opt_end_learning_rate",
    "opt_learning_rate_warmup_steps",
    "opt_learning_rate_decay_steps",
    "lowest_numerical_precision_in_linear",
    "lowest_numerical_precision_in_attn",
    "lowest_numerical_precision_in_comm",
    "tensor_parallelism",
    "pipeline_parallelism",
    "context_parallelism",
    "expert_parallelism",
)
_SAME_VALUES = 3  # evaluations in common that no chance explains: float32 losses agree in one by luck


def unique_seeds(cases: Sequence[Case]) -> Iterator[Violation]:
    """C14: no two runs share a seed."""
    first: dict[int, str] = {}
    for case in cases:
        seed = case.log.seed
        if seed is None:
            continue
        if seed in first:
            message = f"{first[seed]} has the same seed; each run draws its own"
            yield case.error("C14", case.log.points["seed"], seed, "unique over all runs", message)
        first.setdefault(seed, case.parsed.path)


def separate_runs(cases: Sequence[Case]) -> Iterator[Violation]:
    """C15: no two runs share their evaluation values or their time stamps."""
    for i, case in enumerate(cases):
        for other in cases[:i]:
            same = {e.log_perplexity for e in case.log.evaluations} & {
                e.log_perplexity for e in other.log.evaluations
            }
            fewest = min(len(case.log.evaluations), len(other.log.evaluations))
            if same and len(same) >= min(_SAME_VALUES, fewest):
                message = f"{other.parsed.path} holds the same values: one run under two names"
                at = case.of("eval_accuracy")[0]
                yield case.error("C15", at, f"{len(same)} values in common", "values of its own", message)
            start = case.log.points.get("run_start")
            if start and start.time_ms == other.log.run_start_ms:
                message = f"{other.parsed.path} started in the same millisecond"
                yield case.error("C15", start, start.time_ms, "a time of its own", message)


def same_configuration(cases: Sequence[Case]) -> Iterator[Violation]:
    """C18: global batch size, hyperparameters, precision and platform are equal in all files."""
    for key in _SHARED:
        told = [case for case in cases if key in case.log.points]
        for case in told[1:]:
            point, first = case.log.points[key], told[0].log.points[key]
            if point.value != first.value:
                message = f"{told[0].parsed.path}:{first.line} has another: one submission, one configuration"
                yield case.error("C18", point, point.value, first.value, message)


DirectoryRule = Callable[[Sequence[Case]], Iterable[Violation]]
RULES: tuple[DirectoryRule, ...] = (unique_seeds, separate_runs, same_configuration)

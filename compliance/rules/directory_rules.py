"""Rules over the logs of one directory, the runs of one submission: C14, C15 and C18."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from compliance.rule_input import Case, Violation
from compliance.rules.clock_rules import RUN_PHASE

_OWN = ("train_samples",)  # some vendors log the samples of the run
_MORE = ("init_checkpoint_step", "target_accuracy")
_SAME_VALUES = 2  # evaluations in common that no chance explains: float32 losses agree in one by luck
_SAME_TIMES = 3  # milliseconds in common; two runs at once share one or two by luck
_TIMED_MS = 1_000  # blocks that are all shorter are scripted
_DISTINCT = 3  # blocks of different lengths, below which equal lengths say nothing


def unique_seeds(cases: Sequence[Case]) -> Iterator[Violation]:
    """C14: no two runs share a seed, whatever file and line logged it.

    Source: training_rules, random seeds; mlperf-logging, seed_checker.py (which compares file and line as well).
    Breaks it: the same seed in two of ten logs; one seed in all of them.
    """
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
    """C15: no two runs share their evaluation values or their time stamps.

    Source: training_rules, Benchmark Results (ten runs are ten runs); no two published logs share either.
    Breaks it: one log under two names; a copy with shifted times; a copy with another seed.
    """
    values = [{e.log_perplexity for e in case.log.evaluations} for case in cases]
    times = [{e.time_ms for e in case.parsed.events if e.key in RUN_PHASE} for case in cases]
    for i, case in enumerate(cases):
        for k, other in enumerate(cases[:i]):
            same, fewest = values[i] & values[k], min(len(values[i]), len(values[k]))
            if same and len(same) >= min(_SAME_VALUES, fewest):
                message = f"{other.parsed.path} holds the same values: one run under two names"
                at = case.of("eval_accuracy")[0]
                yield case.error("C15", at, f"{len(same)} values in common", "values of its own", message)
            start = case.log.points.get("run_start")
            if start and start.time_ms == other.log.run_start_ms:
                message = f"{other.parsed.path} started in the same millisecond"
                yield case.error("C15", start, start.time_ms, "a time of its own", message)
            elif start and len(shared := times[i] & times[k]) >= _SAME_TIMES:
                message = f"{other.parsed.path} has the same time stamps: parts of one run in two files"
                yield case.error("C15", start, f"{len(shared)} times in common", "times of its own", message)


def separate_lengths(cases: Sequence[Case]) -> Iterator[Violation]:
    """C15: no two runs take the same milliseconds for every block.

    Source: the published logs: no two runs agree in the milliseconds of their blocks.
    Breaks it: a copy with another seed, shifted times and changed values (warning).
    """
    lengths = [_lengths(case) for case in cases]
    for i, case in enumerate(cases):
        for k, other in enumerate(cases[:i]):
            told = len(set(lengths[i])) >= _DISTINCT and max(lengths[i]) >= _TIMED_MS
            if told and lengths[i] == lengths[k]:
                message = f"every block of {other.parsed.path} is as long: a copy with shifted times?"
                at = case.log.points.get("run_start")
                yield case.warning("C15", at, "equal block times", "block times of its own", message)


def _lengths(case: Case) -> list[int]:
    """Milliseconds of every block."""
    marks = [event for event in case.parsed.events if event.key in ("block_start", "block_stop")]
    return [after.time_ms - before.time_ms for before, after in zip(marks[::2], marks[1::2], strict=False)]


def same_configuration(cases: Sequence[Case]) -> Iterator[Violation]:
    """C18: organisation, platform, batch size, hyperparameters, precision and parallelism are equal in all files.

    Source: training_rules, Benchmark Results: the runs of one result use one system and one configuration.
    Breaks it: batch size 64 in one of ten; two platforms; fp8 in one and mxfp4 in nine.
    """
    keys = [key for key in cases[0].ruleset.keys if key not in _OWN] if cases else []
    for key in (*keys, *_MORE):
        told = [case for case in cases if key in case.log.points]
        for case in told[1:]:
            point, first = case.log.points[key], told[0].log.points[key]
            if point.value != first.value:
                message = f"{told[0].parsed.path}:{first.line} has another: one submission, one configuration"
                yield case.error("C18", point, point.value, first.value, message)
        if told and len(told) < len(cases) and key not in cases[0].ruleset.required:
            silent = next(case for case in cases if key not in case.log.points)
            message = f"{told[0].parsed.path} logs it: one submission, one program"
            yield silent.error("C18", key, "absent", told[0].log.points[key].value, message)


def same_program(cases: Sequence[Case]) -> Iterator[Violation]:
    """C18: a key is logged by the same file and line in all runs.

    Source: mlperf-logging README (metadata.file and lineno name the caller); true of every published set.
    Breaks it: one of ten logs written by another version of the program (warning).
    """
    first = cases[0] if cases else None
    for case in cases[1:]:
        for key in ("run_start", "seed", "global_batch_size", "run_stop"):
            mine, theirs = (one.log.points.get(key) for one in (case, first) if one is not None)
            if mine is None or theirs is None:
                continue
            found, expected = (
                f"{event.metadata.get('file')}:{event.metadata.get('lineno')}" for event in (mine, theirs)
            )
            if found != expected:
                message = (
                    f"as {theirs.key} of the first log: another version of the program, or edited by hand?"
                )
                yield case.warning("C18", mine, found, expected, message)
                break


def across(directories: Sequence[Sequence[Case]]) -> Iterator[Violation]:
    """C14, C15: no two runs of one organisation share a seed, values or time stamps, whatever their system.

    Source: training_rules, random seeds; Benchmark Results.
    Breaks it: the logs of one system again under the name of another; seeds drawn once for two systems.
    """
    home = {case.parsed.path: number for number, cases in enumerate(directories) for case in cases}
    for i, cases in enumerate(directories):
        for others in directories[:i]:
            for rule in (unique_seeds, separate_runs):
                within = {(v.rule, v.line, v.message) for v in rule(cases)}
                for violation in rule([*others, *cases]):
                    here = home.get(violation.file) == i
                    if here and (violation.rule, violation.line, violation.message) not in within:
                        yield violation


DirectoryRule = Callable[[Sequence[Case]], Iterable[Violation]]
RULES: tuple[DirectoryRule, ...] = (
    unique_seeds,
    separate_runs,
    separate_lengths,
    same_configuration,
    same_program,
)

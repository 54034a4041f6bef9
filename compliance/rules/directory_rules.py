"""Rules that compare the runs of one submission with each other: C14, C15 and C18."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import comb
from statistics import median_high

from compliance.rule import rule
from compliance.rule_input import Case, Finding, Runs, TwoSystems
from compliance.rules.clock_rules import RUN_PHASE
from compliance.runlog import integer

_OWN = ("train_samples",)  # it may differ, because some vendors log the samples of the run here
_MORE = ("init_checkpoint_step", "target_accuracy")
# Two different runs, rounded to d decimals, agree at one evaluation with a probability of 13.5 x 10^-d (measured on
# 12,235 pairs of public runs of equal batch size). _CHANCE doubles it. A loss in float32 has at most _FINEST decimals.
_CHANCE, _FINEST = 30.0, 6.6
# Two runs that agree are an error if chance produces the agreement with a probability below _CERTAIN, and a question
# below _ODD. Among pairs of public runs, rounded to 2 .. 6 decimals, the lowest such probability is 2e-6.
_CERTAIN, _ODD = 1e-8, 10**-6.5
_SAME_TIMES = 3  # equal time stamps; two concurrent runs share one or two by chance
_TIMED_MS = 1_000  # a log with only shorter blocks is scripted
_DISTINCT = 3  # fewest different block lengths for a comparison


@rule(
    "C14",
    source="training_rules, random seeds; mlperf-logging, seed_checker.py (which also compares file and line).",
    breaks="the same seed in two of ten logs; one seed in all of them.",
)
def unique_seeds(runs: Runs) -> Iterator[Finding]:
    """No two runs share a seed, even if different files or lines logged it."""
    first: dict[int, Case] = {}
    for case in runs.cases:
        for event in case.of("seed"):
            seed = integer(event.value)
            if seed is None:
                continue
            if first.setdefault(seed, case) is not case:
                message = f"{first[seed].parsed.path} has the same seed: draw a seed for each run"
                yield case.error(event, seed, "unique over all runs", message)


@rule(
    "C15",
    source="training_rules, Benchmark Results (ten separate runs); no two published logs share values or times.",
    breaks="one log under two names; a copy with shifted times; a copy with another seed.",
)
def separate_runs(runs: Runs) -> Iterator[Finding]:
    """No two runs share their evaluation values or their time stamps."""
    cases = runs.cases
    times = [{e.time_ms for e in case.parsed.events if e.key in RUN_PHASE} for case in cases]
    for i, case in enumerate(cases):
        for k, other in enumerate(cases[:i]):
            yield from copied(case, other)
            start = case.log.points.get("run_start")
            if start and start.time_ms == other.log.run_start_ms:
                message = f"{other.parsed.path} started in the same millisecond: submit each run once"
                yield case.error(start, start.time_ms, "another time", message)
            elif start and len(shared := times[i] & times[k]) >= _SAME_TIMES:
                message = f"{other.parsed.path} has the same time stamps, so both hold parts of one run: submit it once"
                yield case.error(start, f"{len(shared)} equal times", "other times", message)


def copied(case: Case, other: Case) -> Iterator[Finding]:
    """Reports two runs that agree at more evaluations than chance explains, at the coarser rounding of the two."""
    decimals = min(_decimals(case), _decimals(other))
    pairs = [
        (round(mine.log_perplexity, decimals), round(theirs.log_perplexity, decimals))
        for mine, theirs in zip(case.log.evaluations, other.log.evaluations, strict=False)
    ]
    same = sum(mine == theirs for mine, theirs in pairs)
    luck = _luck(same, len(pairs), min(1.0, _CHANCE * 10 ** -min(decimals, _FINEST)))
    if luck < _ODD:
        report = case.error if luck < _CERTAIN else case.question
        message = f"{other.parsed.path} holds the same values: submit each run once"
        found = f"{same} of {len(pairs)} values are equal"
        yield report(case.of("eval_accuracy")[0], found, "other values", message)


def _decimals(case: Case) -> int:
    """Returns the median number of decimals of a log's values."""
    told = [repr(evaluation.log_perplexity) for evaluation in case.log.evaluations]
    return median_high(len(value.partition(".")[2]) for value in told) if told else 0


def _luck(same: int, of: int, chance: float) -> float:
    """Returns the probability of at least that many agreements (the tail of a binomial distribution)."""
    if same == 0:
        return 1.0
    return sum(comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(same, of + 1))


@rule(
    "C15",
    source="the published logs: no two runs have equal block times in milliseconds.",
    breaks="a copy with another seed, shifted times and changed values (warning).",
)
def separate_lengths(runs: Runs) -> Iterator[Finding]:
    """No two runs have the same block times in milliseconds."""
    lengths = [_lengths(case) for case in runs.cases]
    for i, case in enumerate(runs.cases):
        for k, other in enumerate(runs.cases[:i]):
            told = len(set(lengths[i])) >= _DISTINCT and max(lengths[i]) >= _TIMED_MS
            if told and lengths[i] == lengths[k]:
                message = (
                    f"{other.parsed.path} has equal times of all blocks: check for a copy with shifted times"
                )
                at = case.log.points.get("run_start")
                yield case.question(at, "equal block times", "other block times", message)


def _lengths(case: Case) -> list[int]:
    """Returns the milliseconds of every block."""
    marks = [event for event in case.parsed.events if event.key in ("block_start", "block_stop")]
    return [after.time_ms - before.time_ms for before, after in zip(marks[::2], marks[1::2], strict=False)]


@rule(
    "C18",
    source="training_rules, Benchmark Results (one system and one configuration).",
    breaks="batch size 64 in one of ten logs; two platforms; fp8 in one log and mxfp4 in nine.",
)
def same_configuration(runs: Runs) -> Iterator[Finding]:
    """Organisation, platform, batch size, hyperparameters, precision and parallelism are equal in all logs."""
    cases = runs.cases
    keys = [key for key in cases[0].ruleset.keys if key not in _OWN] if cases else []
    for key in (*keys, *_MORE):
        told = [case for case in cases if key in case.log.points]
        for case in told[1:]:
            point, first = case.log.points[key], told[0].log.points[key]
            if point.value != first.value:
                message = f"{told[0].parsed.path}:{first.line} has another value: all runs must use one configuration"
                yield case.error(point, point.value, first.value, message)
        unsaid = (case for case in cases if key not in case.log.points and not case.parsed.may_lack(key))
        silent = next(unsaid, None)
        if told and silent and key not in silent.ruleset.required:
            message = f"{told[0].parsed.path} logs this key: all runs of a result must use one program"
            yield silent.error(key, "absent", told[0].log.points[key].value, message)


@rule(
    "C18",
    source="mlperf-logging README (metadata.file and lineno name the caller); every published result obeys it.",
    breaks="one log of ten written by another version of the program (warning).",
)
def same_program(runs: Runs) -> Iterator[Finding]:
    """The same file and line log a key in all runs."""
    first = runs.cases[0] if runs.cases else None
    for case in runs.cases[1:]:
        for key in ("run_start", "seed", "global_batch_size", "run_stop"):
            mine, theirs = (one.log.points.get(key) for one in (case, first) if one is not None)
            if mine is None or theirs is None:
                continue
            found, expected = (
                f"{event.metadata.get('file')}:{event.metadata.get('lineno')}" for event in (mine, theirs)
            )
            if found != expected:
                message = f"as {theirs.key} of the first log: check for another program version or an edit"
                yield case.warning(mine, found, expected, message)
                break


@rule(
    "C14",
    source="training_rules, random seeds; Benchmark Results.",
    breaks="the same ten seeds for two systems.",
)
def unique_seeds_of_two_systems(systems: TwoSystems) -> Iterator[Finding]:
    """No two runs of one organisation share a seed, even on different systems."""
    yield from _shared(systems, unique_seeds.function)


@rule(
    "C15",
    source="training_rules, random seeds; Benchmark Results.",
    breaks="the logs of one system submitted again for another system.",
)
def separate_runs_of_two_systems(systems: TwoSystems) -> Iterator[Finding]:
    """No two runs of one organisation share values or time stamps, even on different systems."""
    yield from _shared(systems, separate_runs.function)


def _shared(systems: TwoSystems, function: Callable[[Runs], Iterable[Finding]]) -> Iterator[Finding]:
    """Yields findings in the second system's logs that only appear in comparison with the first system's logs."""
    mine = {case.parsed.path for case in systems.second}
    within = {(finding.line, finding.message) for finding in function(Runs(cases=systems.second))}
    for finding in function(Runs(cases=(*systems.first, *systems.second))):
        if finding.file in mine and (finding.line, finding.message) not in within:
            yield finding

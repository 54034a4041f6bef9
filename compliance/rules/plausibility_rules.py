"""Rules that find times and seeds that no real run has: C2, C3, C14 and C16.

The figures behind each bound are the extremes of 230 public runs (rounds v5.1 and v6.0, 23 systems).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median

from compliance.rule import rule
from compliance.rule_input import Case, Finding, Runs, Submission
from compliance.rules.clock_rules import RUN_PHASE
from compliance.rules.interval_rules import TIMED_MS, durations
from compliance.rules.submission_rules import ms_per_sample
from compliance.runlog import text
from compliance.throughput import fastest_tflops, tflops_per_accelerator

_FIRST_MS = 1_500_000_000_000  # 2017; earlier times are not milliseconds, which C2 reports
_SHORTEST_INIT_MS = 1_000  # public runs: at least 4.9 s
_EQUAL, _SCRIPTED = 0.5, 0.9  # share of a run's blocks with equal times; public runs: at most 0.29
_FEWEST = 5  # fewest blocks to compare
_DIGIT = 0.6  # share of a run's times that end in the same digit; public runs: at most 0.30
_FEWEST_TIMES = 10
_OFF_THE_CLOCK = 0.1  # time of an evaluation / time of its forward passes; public runs: at least 0.62
_SLOW_RUN = 1.2  # multiple of the median run's time per sample; public runs: at most 1.057
_SHARE = 0.5  # share of the TFLOP/s that the logged formats allow; public runs: at most 0.38
_COUNTED_SEEDS = 100  # the largest seed of each public result is at least 5,731
_WORD = 1 << 32


@rule(
    "C3",
    source="the published logs: at least 4.9 s from init_start to run_start.",
    breaks="init_start logged after the initialisation, 4 ms before run_start (warning).",
)
def short_initialisation(case: Case) -> Iterator[Finding]:
    """The initialisation of a model of 8 billion parameters takes at least a second."""
    log, start = case.log, case.log.points.get("run_start")
    if start is None or log.init_start_ms is None or case.ruleset.is_scaled:
        return
    took_ms = start.time_ms - log.init_start_ms
    if 0 <= took_ms < _SHORTEST_INIT_MS and start.time_ms >= _FIRST_MS:
        message = "the initialisation is too short to be complete: log init_start before the model is built"
        expected = f">= {_SHORTEST_INIT_MS} ms (published: >= 4,900)"
        yield case.question(start, f"{took_ms} ms after init_start", expected, message)


@rule(
    "C16",
    source="the published logs: at most 29 % of a run's blocks have equal times in milliseconds.",
    breaks="399,360 ms for every block; equal times for six blocks of ten (warning).",
)
def equal_blocks(case: Case) -> Iterator[Finding]:
    """The blocks of a run have different times in milliseconds."""
    blocks = durations(case, "block")
    if len(blocks) < _FEWEST or not case.ruleset.even_speed:
        return
    length, count = Counter(length for _, length in blocks).most_common(1)[0]
    share = count / len(blocks)
    if length < TIMED_MS or share <= _EQUAL:
        return
    at = next(event for event, took in blocks if took == length)
    report = case.error if share >= _SCRIPTED else case.question
    message = "measured block times differ: these were not measured"
    yield report(
        at, f"{count} of {len(blocks)} blocks take {length} ms", "at most half (published: 29 %)", message
    )


@rule(
    "C2",
    source="mlperf-logging, time_ms; the published logs: at most 30 % of a run's times end in one digit.",
    breaks="times in whole seconds; in hundredths of a second (warning).",
)
def whole_milliseconds(case: Case) -> Iterator[Finding]:
    """The clock has a resolution of milliseconds."""
    times = {event.time_ms for event in case.parsed.events if event.key in RUN_PHASE}
    if len(times) < _FEWEST_TIMES or case.ruleset.is_scaled:
        return
    digit, count = Counter(time % 10 for time in times).most_common(1)[0]
    if count > _DIGIT * len(times):
        message = "the times are rounded or written by hand: log milliseconds of the clock"
        found = f"{count} of {len(times)} times end in {digit}"
        at = case.log.points.get("run_start")
        yield case.question(at, found, f"<= {_DIGIT:.0%} (published: <= 30 %)", message)


@rule(
    "C16",
    source="training_rules (evaluation is timed); published logs: at least 0.62 of the time of the forward passes.",
    breaks="100 ms for an evaluation of 1,024 sequences, whose forward passes take 11 s.",
)
def evaluation_on_the_clock(case: Case) -> Iterator[Finding]:
    """An evaluation takes at least a tenth of the time of its forward passes."""
    blocks = [length for _, length in durations(case, "block")]
    taken = [
        (event, length) for event, length in durations(case, "eval") if length
    ]  # C6 reports evaluations without time
    reached = [evaluation.samples for evaluation in case.log.evaluations]
    if len(blocks) < 3 or not taken or len(reached) < 2 or not case.ruleset.even_speed:
        return
    samples, typical = reached[1] - reached[0], median(blocks)
    if samples <= 0 or typical < TIMED_MS:
        return
    forward_ms = (
        typical / samples * case.ruleset.eval_samples / 3
    )  # the backward pass costs twice the forward pass
    event, shortest = min(taken, key=lambda one: one[1])
    if shortest < _OFF_THE_CLOCK * forward_ms:
        message = (
            f"{case.ruleset.eval_samples} sequences cannot be evaluated that fast: log eval_start before them"
        )
        expected = f"about {forward_ms:.0f} ms (published: >= 0.62 of it)"
        yield case.error(event, f"{shortest} ms", expected, message)


@rule(
    "C16",
    source="the published results: the slowest run takes 1.057 times the median run's time per sample.",
    breaks="two of ten runs at half the speed of the others (warning).",
)
def slow_runs(runs: Runs) -> Iterator[Finding]:
    """No run is much slower per sample than the others of its submission."""
    ended = [
        case for case in runs.cases if not case.aborted
    ]  # an aborted run trains on after its last evaluation
    timed = [(case, speed) for case in ended if (speed := ms_per_sample(case)) is not None]
    if len(timed) < 3:
        return
    typical = median(speed for _, speed in timed)
    for case, speed in timed:
        if speed > _SLOW_RUN * typical and case.ruleset.even_speed:
            message = (
                f"{speed / typical:.2f} of the median run (published: <= 1.057): check for other hardware"
            )
            at = case.log.points["run_stop"]
            yield case.question(at, f"{speed:.3f} ms per sample", f"about {typical:.3f}", message)


@rule(
    "C16",
    source="data sheets; attention is 52.7 of 421.59 TFLOP per sequence; published runs: at most 0.38 of this bound.",
    breaks="4,630 TFLOP/s per MI355X in mxfp4 with attention in bfloat16 (warning).",
)
def share_of_peak(submission: Submission) -> Iterator[Finding]:
    """A run reaches at most half of the TFLOP/s that its formats allow on its accelerators."""
    system = submission.system
    if system is None or not system.peaks:
        return
    fastest = max(system.peaks.values())
    for case in submission.cases:
        rate, bound = tflops_per_accelerator(case, system), _bound(case, system.peaks, fastest)
        if rate is None or rate > fastest or case.ruleset.is_scaled:
            continue  # the rule throughput reports a rate above every peak
        if rate > _SHARE * bound:
            message = f"no published run exceeds 0.38 of the bound: check the times and the number of {system.model}"
            found = f"{rate:.0f} TFLOP/s per accelerator, {rate / bound:.2f} of the bound"
            expected = f"<= {_SHARE * bound:.0f}, {_SHARE:g} of it"
            yield case.question(case.log.points["run_stop"], found, expected, message)


def _bound(case: Case, peaks: Mapping[str, float], fastest: float) -> float:
    """Returns TFLOP/s at the dense peaks of the logged formats, or of the fastest format if none is logged."""
    keys = ("lowest_numerical_precision_in_linear", "lowest_numerical_precision_in_attn")
    points = [case.log.points.get(key) for key in keys]
    linear, attention = (
        peaks.get(text(point.value) or "", fastest) if point else fastest for point in points
    )
    return fastest_tflops(linear=linear, attention=attention)


@rule(
    "C14",
    source="training_rules, random seeds (from clock or system); published results: the largest seed is >= 5,731.",
    breaks="the seeds 0 .. 9; seeds that differ only by multiples of 2^32 (warning).",
)
def drawn_seeds(runs: Runs) -> Iterator[Finding]:
    """Seeds are drawn at random, not counted, and differ in the lower 32 bits, which a generator uses."""
    seeded = [(case, case.log.seed) for case in runs.cases if case.log.seed is not None]
    seeds = [seed for _, seed in seeded]
    if len(seeds) >= 3 and min(seeds) >= 0 and max(seeds) < _COUNTED_SEEDS and len(set(seeds)) == len(seeds):
        message = "the seeds are counted: draw them from the clock or the system's randomness"
        at = seeded[0][0].log.points["seed"]
        found = f"seeds {min(seeds)} .. {max(seeds)}"
        expected = f"a largest seed >= {_COUNTED_SEEDS} (published: >= 5,731)"
        yield seeded[0][0].question(at, found, expected, message)
    first: dict[int, tuple[Case, int]] = {}
    for case, seed in seeded:
        other, known = first.setdefault(seed % _WORD, (case, seed))
        if known != seed:
            message = f"{other.parsed.path} has the same seed modulo 2^32, hence the same random numbers: draw another"
            yield case.question(case.log.points["seed"], seed, "unique in 32 bits", message)

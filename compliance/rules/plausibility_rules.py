"""Rules on whether times and throughput are plausible: C16."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from statistics import median

from compliance.mllog import Event
from compliance.rule_input import Case, Submission, System, Violation
from compliance.rules.clock_rules import RUN_PHASE
from compliance.runlog import samples_of

_TIMED_MS = 1_000  # a shorter block is scripted: its speed says nothing
_FASTEST_BLOCK, _FAST_BLOCK = 0.75, 0.9  # of the median block's time; public logs: 0.979 and more
_SLOW, _PAUSED = 3, 5  # times the median block; public logs: at most 1.4
_EVALUATION = 0.3  # of the time its forward passes should take; public logs: 0.62 and more
_FASTEST_RUN, _FAST_RUN = 0.75, 0.9  # of the median run's time per sample; public sets: 0.94 and more
TFLOP_PER_SEQUENCE = 421.59  # forward and backward of one sequence of 8,192 tokens; facts of the model, TR
_ANY_PEAK = 15_000.0  # TFLOP/s, the fastest of accelerators.yaml
_CERTAIN = 3  # times that, where only the log says how many accelerators ran
_SCRIPTED_S = 10.0


def even_speed(case: Case) -> Iterator[Violation]:
    """C16: no block is much faster or slower than the others; evaluations take the time of their forward passes.

    Source: training_rules, Run Results (never paused); public logs: blocks take 0.979 to 1.402 of the median one.
    Breaks it: a block of 60 s among blocks of 300 s; a pause or a splice of an hour; an evaluation in 10 ms
    (warning).
    """
    blocks, evaluations = _durations(case, "block"), _durations(case, "eval")
    if len(blocks) < 3 or not case.of("eval_accuracy") or not case.ruleset.even_speed:
        return
    typical = median(duration for _, duration in blocks)
    if typical < _TIMED_MS:
        return
    event, fastest = min(blocks, key=lambda block: block[1])
    if fastest < _FAST_BLOCK * typical:
        report = case.error if fastest < _FASTEST_BLOCK * typical else case.warning
        message = "a block is as long as the others: a time was edited, or samples were skipped"
        yield report("C16", event, f"{fastest} ms", f"about {typical:.0f} ms, as the median block", message)
    yield from _pauses(case, typical)
    samples = (samples_of(case.of("eval_accuracy")[0]) or 0) or case.ruleset.eval_interval_samples
    forward_ms = typical / samples * case.ruleset.eval_samples / 3  # backward costs twice the forward pass
    took_time = [evaluation for evaluation in evaluations if evaluation[1]]  # none: C6
    shortest = min(took_time, key=lambda evaluation: evaluation[1], default=None)
    if shortest and shortest[1] < _EVALUATION * forward_ms:
        message = f"{case.ruleset.eval_samples} sequences cannot be evaluated that fast"
        yield case.warning("C16", shortest[0], f"{shortest[1]} ms", f"about {forward_ms:.0f} ms", message)


def _pauses(case: Case, typical: float) -> Iterator[Violation]:
    """The longest time without a record, against the blocks and against the other records of its key."""
    marks = [event for event in case.parsed.events if event.key in RUN_PHASE]
    gaps: dict[str, list[tuple[int, Event]]] = {}
    for before, after in itertools.pairwise(marks):
        gaps.setdefault(after.key, []).append((after.time_ms - before.time_ms, after))
    for found in gaps.values():
        usual = max(typical, median(gap for gap, _ in found))
        longest, event = max(found, key=lambda gap: gap[0])
        if longest > _SLOW * usual:
            report = case.error if longest > _PAUSED * usual else case.warning
            message = "the clock of a run is never paused: a hang, or parts of two runs in one file"
            yield report(
                "C16", event, f"{longest} ms since the record before", f"about {usual:.0f} ms", message
            )


def _durations(case: Case, name: str) -> list[tuple[Event, int]]:
    """Stops of whole intervals with their milliseconds; an aborted run's last one is cut short."""
    found: list[tuple[Event, int]] = []
    opened: Event | None = None
    for event in case.parsed.events:
        if event.key == f"{name}_start":
            opened = event
        elif event.key == f"{name}_stop" and opened is not None:
            found.append((event, event.time_ms - opened.time_ms))
            opened = None
    return found[:-1] if case.aborted else found


def even_runs(submission: Submission) -> Iterator[Violation]:
    """C16: no run is much faster per sample than the others of its submission.

    Source: the published sets: one system and one configuration give times per sample within 6 %.
    Breaks it: the clock of one of ten runs halved; eight of its intervals cut out.
    """
    timed = [(case, speed) for case in submission.cases if (speed := _ms_per_sample(case)) is not None]
    if len(timed) < 3:
        return
    typical = median(speed for _, speed in timed)
    for case, speed in timed:
        if speed < _FAST_RUN * typical and case.ruleset.even_speed:
            report = case.error if speed < _FASTEST_RUN * typical else case.warning
            message = "this run is faster per sample than the others: another system, or an edited clock"
            at = case.log.points["run_stop"]
            yield report(
                "C16", at, f"{speed:.3f} ms per sample", f"about {typical:.3f}, as the median run", message
            )


def _ms_per_sample(case: Case) -> float | None:
    """None for a run too short to say anything (scripted)."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    return 1000 * seconds / samples if samples and seconds and samples > 0 and seconds > 10 else None


def throughput(submission: Submission) -> Iterator[Violation]:
    """C16: the throughput is physically possible on the named accelerators.

    Source: 421.59 TFLOP per sequence; data sheets; the published logs reach 376 .. 2,355 TFLOP/s.
    Breaks it: a clock divided by ten; 8 accelerators named where 72 ran; 184,320 samples in a minute.
    """
    system = submission.system
    for case in submission.cases:
        rate, peak, name = tflops_per_accelerator(case, system), 0.0, "an accelerator"
        if system is not None and system.peaks:
            peak, name = max(system.peaks.values()), system.model
        elif rate is None or case.ruleset.is_scaled:
            continue
        if rate is not None and rate > (peak or _ANY_PEAK):
            certain = peak or rate > _CERTAIN * _ANY_PEAK
            report = case.error if certain else case.warning
            message = "faster than the accelerator: edited times, or more accelerators than the log says"
            expected = f"<= {peak or _ANY_PEAK} TFLOP/s of {name}"
            at = case.log.points["run_stop"]
            yield report("C16", at, f"{rate:.0f} TFLOP/s per accelerator", expected, message)


def tflops_per_accelerator(case: Case, system: System | None) -> float | None:
    """TFLOP/s of one accelerator over the run, evaluations included; None for a scripted run of seconds."""
    samples, seconds = case.log.samples_at_stop, case.log.duration_s
    accelerators = (system.accelerators if system else None) or _accelerators(case)
    if not accelerators or not samples or not seconds or seconds < _SCRIPTED_S:
        return None
    return TFLOP_PER_SEQUENCE * samples / seconds / accelerators


def _accelerators(case: Case) -> int | None:
    """As batch and parallelism of the log imply: data parallel x tensor x pipeline x context."""
    ways = case.integers("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
    batch = case.integers("global_batch_size", "micro_batch_size", "gradient_accumulation_steps")
    return max(1, batch[0] // (batch[1] * batch[2])) * math.prod(ways) if ways and batch else None

"""Steps that train: two layers in every arm with the real executor, and a run that a signal stops."""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from compliance import mllog
from harness.base.text import plural, printable
from harness.config import memory
from harness.contract import attempt_rows, file_names, metrics_rows, qualify_rows
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.config import Config
from harness.contract.ending import Reason
from harness.contract.metrics_rows import TrainRow
from harness.contract.qualify_rows import TrialAnswer
from harness.qualify import bench as benches
from harness.qualify import children, settings, step_budgets
from harness.qualify.answer import Claim, Table, Verdict
from harness.qualify.bench import Bench
from harness.qualify.children import Child, Ended
from harness.qualify.node_steps import NO_GPU

_SEED = 1
_LONGEST = 400
_UNTRAINED = 0.5  # nats around the expected loss of an untrained model
_ALIKE = 0.02  # relative difference of the first losses of two arms with the same weights and data
_FIRST_STEP = 1.25  # times the median of the later steps
_KERNELS = 1.15  # an operator of the rehearsal may be several kernels, for example in reductions and attention backward
_PLAN_LOW, _PLAN_HIGH = 0.6, 1.05  # limits, as shares of the memory that plan predicts
_REPLAYED = f"{settings.ARMS[0]} in a CUDA graph"
_REPLAYED_ALIKE = 1e-3  # relative difference of losses
_PATIENCE_S = 60.0  # a training that is told to stop needs this long to write run_stop


class CorpusMissing(Exception):
    """The byte corpus could not be written."""


def trial(bench: Bench, arm: str) -> Iterator[Claim | Table]:
    """Run a few steps of one arm; reports its results."""
    ensure_corpus(bench)
    config = _config(bench)
    answer, ended, _ = _tried(bench, arm, config, arm)
    yield _learns(arm, answer, config)
    yield from _alike(bench, arm, answer)
    yield _formats(arm, answer)
    known = {claim.claim: claim for claim in _on_gpu(arm, answer, config)} if bench.on_gpu else {}
    why = f"not reached: the trial ended while {answer.stage}" if bench.on_gpu else NO_GPU
    for claim in _names(arm).values():
        yield known.get(claim, Claim(claim=claim, verdict=Verdict.OPEN, found=why))
    yield from _troubles(bench, arm, answer, ended)
    if answer.step_s:
        yield _figures(arm, answer)


def replayed(bench: Bench) -> Iterator[Claim | Table]:
    """Train the steps of mxfp4 once more as replays of a CUDA graph; compares losses and times with those before."""
    alike = f"{_REPLAYED}: the losses are those without"
    read = f"{_REPLAYED}: the kernels of the graph are read"
    if not bench.on_gpu:
        yield from (Claim(claim=claim, verdict=Verdict.OPEN, found=NO_GPU) for claim in (alike, read))
        return
    ensure_corpus(bench)
    config = _config(bench)
    config = replace(config, parallelism=replace(config.parallelism, cuda_graph=True))
    answer, ended, attempt = _tried(bench, "graph", config, settings.ARMS[0])
    before = qualify_rows.read_trial(attempt.parent / settings.ARMS[0])
    yield _same_losses(alike, answer, before)
    yield _nodes(read, answer)
    yield from _troubles(bench, _REPLAYED, answer, ended)
    if answer.step_s:
        yield _figures(_REPLAYED, answer)


def _same_losses(claim: str, answer: TrialAnswer, before: TrialAnswer | None) -> Claim:
    pairs = list(zip(answer.loss, before.loss if before else (), strict=False))
    if len(pairs) < 2:
        why = f"not reached: {answer.stage}" if before else "no losses without a graph to compare with"
        return Claim(claim=claim, verdict=Verdict.OPEN, found=why)
    off = max(abs(a - b) / b for a, b in pairs)
    return _judged(
        claim, off <= _REPLAYED_ALIKE, f"largest relative difference in {len(pairs)} steps {off:.1e}",
        f"at most {_REPLAYED_ALIKE:g}, because attention's backward pass may add in any order",
        "set parallelism.cuda_graph: false, and report which step differs first",
    )  # fmt: skip


def _nodes(claim: str, answer: TrialAnswer) -> Claim:
    if not answer.graphs:
        found = f"no graph was replayed: {answer.stage}"
        return Claim(claim=claim, verdict=Verdict.OPEN, found=found)
    (graph,) = answer.graphs
    kernels = sum(graph.kernels.values())
    found = graph.unread or f"{kernels:,} kernels, {graph.products} products, {graph.replays} replays"
    return Claim(claim=claim, verdict=Verdict.OPEN if graph.unread else Verdict.PROVEN, found=found)


def ensure_corpus(bench: Bench) -> None:
    """Build a corpus from Python's own library, without download.

    If an interrupted step left a part, it is built again.

    Raises:
        CorpusMissing: the message has the builder's output.
    """
    if (bench.data / "valid.idx").exists():  # this file is written last
        return
    bench.data.mkdir(exist_ok=True)
    command = benches.module("submission.corpus.byte_corpus", "--out", bench.data)
    (ended,) = bench.run(
        "corpus", Child(name="corpus", command=command, environment=bench.training_environment())
    )
    if ended.code != 0:
        raise CorpusMissing(f"{bench.data}: exit status {ended.code}: {ended.last_words}")


def _config(bench: Bench, *, long: bool = False) -> Config:
    return settings.trial(
        bench.data, on_gpu=bench.on_gpu, ranks=bench.ranks, long=long, accelerator=bench.accelerator
    )


def _tried(bench: Bench, name: str, config: Config, arm: str) -> tuple[TrialAnswer, Ended, Path]:
    attempt = _attempt(bench, name, config, arm)
    command = benches.torchrun(
        bench.ranks, "submission.tools.step_trial", "--attempt", attempt, "--steps", settings.STEPS
    )
    asked = Child(name=name, command=command, environment=bench.training_environment())
    (ended,) = bench.run("trials", asked)
    return qualify_rows.read_trial(attempt) or TrialAnswer(stage="starting"), ended, attempt


def _attempt(bench: Bench, name: str, config: Config, arm: str) -> Path:
    directory = bench.home / benches.ATTEMPTS / name
    directory.mkdir(parents=True)
    run = RunIdentity(arm=arm, seed=_SEED, campaign="qualify")
    attempt_rows.write_config(directory / file_names.CONFIG, AttemptConfig(config=config, run=run))
    return directory


def _formats(arm: str, answer: TrialAnswer) -> Claim:
    claim = f"{arm}: every GEMM ran in its recipe's format"
    if answer.gemms is None:
        return Claim(claim=claim, verdict=Verdict.OPEN, found=f"not reached: {answer.stage}")
    ways = ", ".join(f"{gemm} {way}" for gemm, way in answer.gemms.items())
    return Claim(claim=claim, verdict=Verdict.PROVEN if answer.proven else Verdict.FAILED, found=ways)


def _learns(arm: str, answer: TrialAnswer, config: Config) -> Claim:
    claim, loss = f"{arm}: the loss falls", answer.loss
    if len(loss) < 2:
        return Claim(claim=claim, verdict=Verdict.OPEN, found=f"not reached: {answer.stage}")
    # RMSNorm gives unit inputs; with a head of this spread logits are Gaussian and cost half their variance
    start = math.log(config.model.vocab_size) + config.model.hidden_size * config.model.init_std**2 / 2
    good = all(map(math.isfinite, loss)) and abs(loss[0] - start) < _UNTRAINED and loss[-1] < loss[0]
    found = f"{loss[0]:.3f} to {loss[-1]:.3f} in {len(loss)} steps"
    if math.isfinite(answer.evaluation_loss):
        found += f", validation {answer.evaluation_loss:.3f}"
    size = "true width" if not config.benchmark.is_scaled else "toy scale"
    found += f"; {config.model.layers} layers at {size}, {plural(answer.ranks, 'rank')}"
    return Claim(
        claim=claim,
        verdict=Verdict.PROVEN if good else Verdict.FAILED,
        found=found,
        expected=f"begins within {_UNTRAINED} of {start:.2f} (an untrained model's loss), then falls",
    )


def _alike(bench: Bench, arm: str, answer: TrialAnswer) -> Iterator[Claim]:
    """Compare with an arm that was tried before."""
    for other in settings.ARMS:
        before = qualify_rows.read_trial(bench.home / benches.ATTEMPTS / other) if other != arm else None
        if before is None or not before.loss or not answer.loss:
            continue
        off = abs(answer.loss[0] - before.loss[0]) / before.loss[0]
        good = off <= _ALIKE
        yield Claim(
            claim=f"{arm} and {other} begin with the same loss",
            verdict=Verdict.PROVEN if good else Verdict.FAILED,
            found=f"{answer.loss[0]:.4f} and {before.loss[0]:.4f}",
            expected=f"within {100 * _ALIKE:.0f} %: same weights and tokens, other formats",
        )


def _names(arm: str) -> Mapping[str, str]:
    """The claims that only a GPU can show."""
    return {
        "first": f"{arm}: the first timed step takes as long as the later ones",
        "memory": f"{arm}: peak memory is what plan predicts",
        "launches": f"{arm}: a step launches no more than the rehearsal counted",
        "waits": f"{arm}: the host waits no more often than the rehearsal counted",
        "hidden": f"{arm}: a step does not wait for the GPU",
    }


def _on_gpu(arm: str, answer: TrialAnswer, config: Config) -> Iterator[Claim]:
    """The claims that the trial has reached."""
    names = _names(arm)
    if len(answer.step_s) > 2:
        ratio = answer.step_s[0] / statistics.median(answer.step_s[1:])
        yield _judged(
            names["first"], ratio <= _FIRST_STEP, f"{ratio:.2f} of their median", f"at most {_FIRST_STEP}",
            "look for a shape that the warm-up missed, or for a build in the timed steps",
        )  # fmt: skip
    if answer.peak_bytes is not None:
        planned = memory.predicted(config)
        tensors = planned.total - planned.libraries
        share = answer.peak_bytes / tensors
        yield _judged(
            names["memory"], _PLAN_LOW <= share <= _PLAN_HIGH,
            f"{answer.peak_bytes / 2**30:.1f} GiB, {100 * share:.0f} % of plan's {tensors / 2**30:.1f} GiB",
            f"{100 * _PLAN_LOW:.0f} to {100 * _PLAN_HIGH:.0f} %", "correct harness/config/memory.py",
        )  # fmt: skip
    yield from _within_budget(arm, answer, names)
    if answer.sync_failure is not None:
        found = answer.sync_failure or "none"
        yield _judged(
            names["hidden"], not answer.sync_failure, printable(found, _LONGEST), "no wait",
            "look for a copy from pageable memory, a read of a value or nonzero at that line",
        )  # fmt: skip


def _within_budget(arm: str, answer: TrialAnswer, names: Mapping[str, str]) -> Iterator[Claim]:
    budget = step_budgets.budget(answer.platform, arm, answer.ranks)
    launches = answer.launches
    if launches is not None and answer.waits is not None:
        waits = sum(answer.waits.values())
        if budget is None:
            why = f"no counts for {answer.platform}"
            yield Claim(claim=names["launches"], verdict=Verdict.OPEN, found=f"{launches:,} launches; {why}")
            yield Claim(claim=names["waits"], verdict=Verdict.OPEN, found=f"{waits} waits; {why}")
            return
        busiest = ", ".join(f"{count} {name}" for name, count in list((answer.busiest or {}).items())[:3])
        most = round(_KERNELS * budget.launches)
        yield _judged(
            names["launches"], launches <= most, printable(f"{launches:,}; most {busiest}", _LONGEST),
            f"at most {most:,}: {budget.launches:,} operators and {_KERNELS - 1:.0%}, as some are several kernels",
            "look for launches that the rehearsal does not count",
        )  # fmt: skip
        sites = ", ".join(f"{count}x {site}" for site, count in (answer.sync_sites or {}).items())
        yield _judged(
            names["waits"], waits <= budget.waits, printable(f"{waits}; torch warns at {sites or 'no line'}", _LONGEST),
            f"at most {budget.waits}", "look at the lines that torch warns of",
        )  # fmt: skip


def _judged(claim: str, good: bool, found: str, expected: str, fix: str) -> Claim:
    verdict = Verdict.PROVEN if good else Verdict.FAILED
    return Claim(claim=claim, verdict=verdict, found=found, expected=expected, fix="" if good else fix)


def _troubles(bench: Bench, arm: str, answer: TrialAnswer, ended: Ended) -> Iterator[Claim]:
    for text in answer.trouble:
        verdict = Verdict.FAILED if text.startswith("proving") else Verdict.OPEN
        claim = f"{arm}: the measurements of a step succeed"
        yield Claim(claim=claim, verdict=verdict, found=bench.shown(text))
    if answer.stage == "done":
        return
    claim = f"{arm}: the trial runs to its end"
    if ended.code is None and bench.cut_off:
        yield Claim(claim=claim, verdict=Verdict.OPEN, found=f"cut off while {answer.stage}")
    else:
        found = bench.shown(f"exit status {ended.code} while {answer.stage}: {ended.last_words}")
        yield Claim(claim=claim, verdict=Verdict.FAILED, found=found, fix=bench.place(ended.log))


def _figures(arm: str, answer: TrialAnswer) -> Table:
    times = ", ".join(f"{1e3 * seconds:,.0f}" for seconds in answer.step_s)
    rows = [
        ("steps", f"{times} ms"),
        ("losses", ", ".join(f"{loss:.3f}" for loss in answer.loss)),
        ("building", f"{answer.build_s:.1f} s"),
        ("warming up", f"{answer.warm_up_s:.1f} s"),
        ("attention", answer.attention or "not reached"),
    ]
    if answer.peak_bytes is not None and answer.reserved_bytes is not None:
        rows.append(
            (
                "memory",
                f"{answer.peak_bytes / 2**30:.1f} GiB, allocator {answer.reserved_bytes / 2**30:.1f} GiB",
            )
        )
    if answer.calls is not None:
        rows.append(("in one step", ", ".join(f"{count:,} {what}" for what, count in answer.calls.items())))
    where = f"{answer.device}, {plural(answer.ranks, 'rank')}"
    return Table(title=f"{arm} on {where}", head=("what", "measured"), rows=tuple(rows))


def stopped_by_a_signal(bench: Bench) -> Iterator[Claim]:
    """Start a real training and stop it in its third step; its log must be closed."""
    ensure_corpus(bench)
    config = _config(bench, long=True)
    attempt = _attempt(bench, "stopped", config, settings.ARMS[0])
    command = benches.torchrun(bench.ranks, "submission", "--attempt", attempt)
    asked = Child(name="stopped", command=command, environment=bench.training_environment())
    told: list[float] = []

    def watch(pids: Mapping[str, int]) -> bool:
        steps = sum(isinstance(row, TrainRow) for row in metrics_rows.read(attempt / file_names.METRICS))
        if steps >= 3 and not told:
            children.tell(pids["stopped"], signal.SIGTERM)
            told.append(time.monotonic())
        return bool(told) and time.monotonic() - told[0] > _PATIENCE_S

    (ended,) = bench.run("stopped", asked, watch=watch)
    claim = "a run that gets SIGTERM closes its log"
    if not told:
        open_ = ended.code is None and bench.cut_off
        found = "cut off before its third step" if open_ else bench.shown(ended.last_words)
        yield Claim(claim=claim, verdict=Verdict.OPEN if open_ else Verdict.FAILED, found=found)
        return
    status = attempt_rows.read_status(attempt)
    ending = status.ending if status else None
    closed = _last_key(attempt / file_names.LOG) == "run_stop"
    good = closed and ending is not None and ending.reason is Reason.INTERRUPTED
    said = ending.reason.value if ending else "nothing"
    found = f"run_stop is {'the last event' if closed else 'missing'}, {file_names.STATUS} says {said}"
    yield _judged(claim, good, found, "run_stop, interrupted", bench.place(ended.log))


def _last_key(path: Path) -> str:
    """Key of the last record of a log."""
    try:
        events = mllog.read(path).events
    except OSError:
        return ""
    return events[-1].key if events else ""

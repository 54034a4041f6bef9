"""Runs the benchmark by the rules (training_rules, llama31_8b, closed division), in the order of the log's lines."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.contract.attempt_rows import EngineProbe, Proof
from harness.contract.config import Config
from harness.contract.diagnostics_rows import Row
from harness.contract.ending import Ending, Reason, is_disk_full
from harness.contract.events import Events
from harness.contract.metrics_rows import StragglerRow
from submission.record import Record, Step
from submission.watchdog.interface import Unwatched, Watch


class Executor(Protocol):
    """The interface of the part that trains: Megatron in a run, a script in the tests of this file."""

    def build(self) -> None:
        """Build process groups, model, optimizer and schedule."""

    def probes(self) -> Sequence[EngineProbe]:
        """The tests of engines while building; engines that failed are not used."""

    def described(self) -> dict[str, Any]:
        """Keys and values for the log, read back from the built objects."""

    def warm_up(self) -> None:
        """Run steps on synthetic data without lasting effect, and prove that they used the recipe's formats."""

    def resume(self, directory: Path) -> int:
        """Load a checkpoint; returns the number of samples it was trained on."""

    def precision(self) -> dict[str, Any]:
        """Keys of the log that disclose the precision, from the formats that ran in the warm-up."""

    def index_data(self) -> None:
        """Determine the order of the sequences from the documents' number and lengths; reads no token."""

    def barrier(self) -> None:
        """Wait until all ranks have called it."""

    def open_data(self) -> None:
        """Open the data set; its tokens may be read from now on."""

    def train_step(self) -> Step:
        """Run one optimizer step."""

    def culprits(self, result: Any) -> str:
        """The ranks where a step, or the evaluation (None), first computed NaN or infinity, as text.

        All ranks call it together."""

    def diagnosis(self) -> Sequence[Row]:
        """Quantisation errors of the last step, if the configuration observes it: a row per layer and GEMM."""

    def evaluate(self) -> float:
        """Validation log perplexity, the same on every rank."""

    def stragglers(self) -> Sequence[StragglerRow]:
        """Ranks that were slow both before and after the last evaluation; all ranks must call it together."""

    def save(self, home: Path) -> Any:
        """Write a checkpoint below `home`; returns an object with `directory` and `bytes`."""

    def proof(self) -> Proof:
        """The content of proof.json."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; the signal handler raises it wherever the run is."""


def run(
    executor: Executor, config: Config, events: Events, record: Record, watch: Watch | None = None
) -> Ending:
    """Train until the quality target, the step limit or a failure, and log the run.

    However it ends, all open intervals of the log are closed: run_start is always followed by run_stop.
    """
    clock, watch = _Clock(events, record), watch or Unwatched()
    watch.begin(clock.stop_for_ever, record.take_over)
    try:
        clock.samples = _initialize(executor, config, events, record)
        clock.start()
        executor.open_data()
        ending = _train(executor, config, clock, record, watch)
        # before run_stop, because without a proof of precision the run is not a success
        record.proof(executor.proof())
        clock.stop(ending)
    except Interrupted as signal:
        ending = watch.explain(Ending(reason=Reason.INTERRUPTED, message=str(signal)))
        clock.stop(ending)
    except Exception as error:
        ending = watch.explain(failed(error))
        clock.stop(ending)
        record.ended(ending, clock.samples)
        watch.leave()
        raise
    record.ended(ending, clock.samples)
    watch.leave()
    return ending


def failed(error: Exception) -> Ending:
    """The ending of a training that stops with this error."""
    reason = Reason.DISK_FULL if is_disk_full(error) else Reason.EXCEPTION
    return Ending(reason=reason, message=f"{type(error).__name__}: {error}")


def _initialize(executor: Executor, config: Config, events: Events, record: Record) -> int:
    """init_start to init_stop: build, warm up on synthetic data, log what was built. Returns samples trained before."""
    record.state("starting")
    events.point("cache_clear", record.caches_cleared)
    events.start("init_start")
    events.point("submission_benchmark", config.benchmark.name)
    events.point("submission_org", config.system.submitter)
    events.point("submission_platform", config.system.name)
    events.point("submission_division", config.system.division)
    events.point("submission_status", config.system.status)
    executor.build()
    record.passed_over(executor.probes())
    record.state("warmup")
    executor.warm_up()
    samples = _resume(executor, config, record)
    _index_data(executor, record, samples)
    for key, value in {**executor.described(), **executor.precision()}.items():
        events.point(key, value)
    executor.barrier()
    events.end("init_stop")
    return samples


def _train(executor: Executor, config: Config, clock: _Clock, record: Record, watch: Watch) -> Ending:
    """Train blocks of eval_interval_steps and evaluate after each, until the loss is at or below the target."""
    gbs, target = config.batch.global_batch_size, config.evaluation.target_log_perplexity
    step = clock.samples // gbs  # a resumed run goes on where its checkpoint was written
    results = _Results(executor, config, record)
    while step < config.schedule.max_steps:
        clock.open_block()
        record.state("training", clock.samples)
        to_go = config.eval_interval_steps - step % config.eval_interval_steps
        last = step + min(to_go, config.schedule.max_steps - step)
        while step < last:
            result = executor.train_step()
            step += 1
            clock.samples = step * gbs
            looked_at = config.diagnostics.looks_at(step)
            bad = results.add(step, result, read=looked_at or step == last or _is_save_due(config, step))
            if looked_at:
                record.diagnosis(step, clock.samples, executor.diagnosis())
            watch.progress(step)
            if bad:
                return bad
            if step % config.eval_interval_steps:
                _save_if_due(executor, config, record, step)
                watch.progress(step)
        if step % config.eval_interval_steps:
            break  # the step limit is inside a block, where the rules allow no evaluation
        clock.close_block()
        record.state("evaluating", clock.samples)
        log_perplexity = clock.evaluate(executor)
        record.evaluation(step, clock.samples, log_perplexity, clock.elapsed_s)
        watch.progress(step)
        if not math.isfinite(log_perplexity):
            return _not_finite(f"validation loss {log_perplexity} after step {step}", executor, None)
        record.stragglers(executor.stragglers(), step=step, samples=clock.samples)
        _save_if_due(executor, config, record, step)
        watch.progress(step)
        if config.benchmark.reached(log_perplexity, target):
            return Ending(reason=Reason.TARGET)
    return Ending(reason=Reason.STEP_LIMIT, message=f"{step} steps without reaching {target}")


class _Results:
    """Records steps in order. It reads a late step after the next launch, so no step waits for its figures.

    All ranks read the same steps at the same points, because they search together for non-finite values.
    """

    def __init__(self, executor: Executor, config: Config, record: Record):
        self._executor, self._config, self._record = executor, config, record
        self._open: tuple[int, Step] | None = None

    def add(self, step: int, result: Step, *, read: bool) -> Ending | None:
        """Add a step that was launched. Returns the ending if a step that was read is not finite.

        Args:
            read: wait for its figures, because an evaluation, a checkpoint or a look at the step follows.
        """
        ending, self._open = self._read(), (step, result)
        if ending is None and (read or not result.is_late):
            ending = self._read()
        return ending

    def _read(self) -> Ending | None:
        if self._open is None:
            return None
        (step, result), self._open = self._open, None
        self._record.step(step, step * self._config.batch.global_batch_size, result)
        loss, norm = result.loss, result.gradient_norm
        if math.isfinite(loss) and math.isfinite(norm):
            return None
        what = f"training loss {loss}, gradient norm {norm} in step {step}"
        return _not_finite(what, self._executor, result)


def _not_finite(what: str, executor: Executor, result: Step | None) -> Ending:
    return Ending(reason=Reason.NOT_FINITE, message=f"{what}: {executor.culprits(result)}")


def _resume(executor: Executor, config: Config, record: Record) -> int:
    """Load the checkpoint to resume, if any; after the warm-up, so that the warm-up cannot change the loaded state."""
    if not config.checkpoint.resume:
        return 0
    directory, began = Path(config.checkpoint.resume).expanduser(), time.monotonic()
    record.state("resuming")
    samples = executor.resume(directory)
    step = samples // config.batch.global_batch_size
    record.checkpoint("resumed from", directory, step=step, samples=samples, seconds=time.monotonic() - began)
    return samples


def _index_data(executor: Executor, record: Record, samples: int) -> None:
    """Index the data set before run_start and record the time; docs/data.md gives both readings of the rules."""
    record.state("indexing", samples)
    began = time.monotonic()
    executor.index_data()
    record.indexed(time.monotonic() - began)


def _is_save_due(config: Config, step: int) -> bool:
    every = config.checkpoint.every_steps
    return bool(every) and step % every == 0


def _save_if_due(executor: Executor, config: Config, record: Record, step: int) -> None:
    """Save a checkpoint if one is due. It counts as run time, so a line in the record states its seconds."""
    if not _is_save_due(config, step):
        return
    samples = step * config.batch.global_batch_size
    record.state("saving", samples)
    began = time.monotonic()
    saved = executor.save(record.checkpoints(config.checkpoint.directory))
    seconds = time.monotonic() - began
    record.checkpoint(
        "saved", saved.directory, step=step, samples=samples, seconds=seconds, size_bytes=saved.bytes
    )


class _Clock:
    """Writes the timed part of the log; every interval that is opened is also closed, whatever happens in between."""

    def __init__(self, events: Events, record: Record):
        self._events, self._record = events, record
        self._open: str | None = None  # block | eval
        self._began: float | None = None
        self.samples = 0  # sequences trained on so far: steps done x global batch size

    @property
    def elapsed_s(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def start(self) -> None:
        with self._record.lock:
            self._events.start("run_start")
            self._began = time.monotonic()

    def open_block(self) -> None:
        self._begin("block")

    def close_block(self) -> None:
        self._end()

    def evaluate(self, executor: Executor) -> float:
        self._begin("eval")
        log_perplexity = executor.evaluate()
        if math.isfinite(log_perplexity):  # JSON has no NaN
            self._events.point("eval_accuracy", log_perplexity, samples_count=self.samples)
        self._end()
        return log_perplexity

    def stop(self, ending: Ending) -> None:
        with self._record.lock:
            self._record.make_room()
            if self._began is None:
                return
            if self._open:
                self._end()
            self._events.end("run_stop", status=ending.outcome, samples_count=self.samples)
            self._began = None

    def stop_for_ever(self, ending: Ending) -> None:
        """Close log and record from the watchdog's thread, whatever the training thread is doing."""
        self._record.lock.acquire()  # never released, because the training thread must write nothing after this
        self.stop(ending)
        self._record.ended(ending, self.samples)

    def _begin(self, interval: str) -> None:
        with self._record.lock:
            self._events.start(f"{interval}_start", samples_count=self.samples)
            self._open = interval

    def _end(self) -> None:
        with self._record.lock:
            self._events.end(f"{self._open}_stop", samples_count=self.samples)
            self._open = None

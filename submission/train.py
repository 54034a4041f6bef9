"""A run by the rules (training_rules, llama31_8b, closed division): read top to bottom it is the log's time line."""

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
    """What trains: Megatron in a run, a script in the tests of this file."""

    def build(self) -> None:
        """Process groups, model, optimizer, schedule."""

    def probes(self) -> Sequence[EngineProbe]:
        """The engines that were tried while building; those with a failure are passed over."""

    def described(self) -> dict[str, Any]:
        """Log keys and values, read back from what was built."""

    def warm_up(self) -> None:
        """Steps on synthetic data that leave no trace, and the proof that they ran in the recipe's formats."""

    def resume(self, directory: Path) -> int:
        """Load a checkpoint; the samples it has been trained on."""

    def precision(self) -> dict[str, Any]:
        """The disclosure keys of precision, from what ran in the warm-up."""

    def index_data(self) -> None:
        """The order of the sequences, from number and lengths of the documents: no token is read."""

    def barrier(self) -> None:
        """All ranks have come here."""

    def open_data(self) -> None:
        """First touch of the data set: its tokens are read from here on."""

    def train_step(self) -> Step:
        """One optimizer step."""

    def culprits(self, result: Any) -> str:
        """Which ranks brought forth the value that was not finite in a step's result, or in the evaluation (None).

        All ranks ask together."""

    def diagnosis(self) -> Sequence[Row]:
        """What quantising did in the last step, which the configuration looks at: a row per layer and GEMM."""

    def evaluate(self) -> float:
        """Validation log perplexity, the same on every rank."""

    def stragglers(self) -> Sequence[StragglerRow]:
        """Ranks that were slow since the last evaluation and before it; all ranks ask together."""

    def save(self, home: Path) -> Any:
        """Write a checkpoint below `home`: an object with `directory` and `bytes`."""

    def proof(self) -> Proof:
        """The content of proof.json."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM: raised by the signal handler, wherever the run is."""


def run(
    executor: Executor, config: Config, events: Events, record: Record, watch: Watch | None = None
) -> Ending:
    """Train until the quality target, the step limit or a failure, and log it.

    Every way out closes what is open in the log: a run that began also stops.
    """
    clock, watch = _Clock(events, record), watch or Unwatched()
    watch.begin(clock.stop_for_ever, record.take_over)
    try:
        clock.samples = _initialize(executor, config, events, record)
        clock.start()
        executor.open_data()
        ending = _train(executor, config, clock, record, watch)
        record.proof(
            executor.proof()
        )  # before run_stop: a run that cannot prove its precision has not succeeded
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
    """The ending of a training that this error ends."""
    reason = Reason.DISK_FULL if is_disk_full(error) else Reason.EXCEPTION
    return Ending(reason=reason, message=f"{type(error).__name__}: {error}")


def _initialize(executor: Executor, config: Config, events: Events, record: Record) -> int:
    """init_start .. init_stop: build, warm up on synthetic data, log what was built; the samples trained before."""
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
    """Blocks of eval_interval_steps, each followed by an evaluation, until one is at or below the target."""
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
            break  # the step limit lies inside a block: the rules know no evaluation there
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
    """Records steps in their order, a late one once the next is launched: no step waits for its own figures.

    Every rank reads the same steps at the same places, because all look for a value that is not finite together.
    """

    def __init__(self, executor: Executor, config: Config, record: Record):
        self._executor, self._config, self._record = executor, config, record
        self._open: tuple[int, Step] | None = None

    def add(self, step: int, result: Step, *, read: bool) -> Ending | None:
        """Take a step that was launched; the ending where one that was read is not finite.

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
    """After the warm-up, of which so nothing can be left in what is loaded."""
    if not config.checkpoint.resume:
        return 0
    directory, began = Path(config.checkpoint.resume).expanduser(), time.monotonic()
    record.state("resuming")
    samples = executor.resume(directory)
    step = samples // config.batch.global_batch_size
    record.checkpoint("resumed from", directory, step=step, samples=samples, seconds=time.monotonic() - began)
    return samples


def _index_data(executor: Executor, record: Record, samples: int) -> None:
    """Before run_start, and said so: docs/data.md gives both readings of the rules."""
    record.state("indexing", samples)
    began = time.monotonic()
    executor.index_data()
    record.indexed(time.monotonic() - began)


def _is_save_due(config: Config, step: int) -> bool:
    every = config.checkpoint.every_steps
    return bool(every) and step % every == 0


def _save_if_due(executor: Executor, config: Config, record: Record, step: int) -> None:
    """Inside the timed run, and said so: whoever reads its times can see what they contain."""
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
    """The timed part of the log: intervals are opened and closed in pairs, whatever happens in between."""

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
        if math.isfinite(log_perplexity):  # NaN is no JSON
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
        """Close log and record from the watchdog's thread, whatever the training thread does by now."""
        self._record.lock.acquire()  # and never released: the training thread must write nothing after this
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

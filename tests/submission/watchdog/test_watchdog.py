"""Real trainings of the tiny model over gloo, in which one rank has an accident: who is named, and nobody is left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from compliance import mllog
from harness.base.paths import ROOT
from harness.contract.config import to_mapping
from harness.contract.ending import Reason
from harness.records import attempt as attempts
from tests.busy import ENDLESS_S, slowness
from tests.submission.configurations import small_config

HANG_S, SILENCE_S = 6.0, 8.0  # on a quiet machine; a busy one gets what it needs
CLOSING_S = 25.0  # about 2 s on a quiet machine
STEP = 3
# on a busy machine torchrun takes the exit status away before anybody has read it
KILLED = re.compile(rf"(was killed by SIGKILL|died) in step {STEP}")


@dataclass(frozen=True)
class Aftermath:
    directory: Path
    said: str  # by torchrun and its ranks
    slowness: float  # of this machine, before and after the training

    def within(self, *patience_s: float) -> bool:
        """Whether the end came in the given time, told for a quiet machine."""
        return self.took_s < sum(patience_s) * self.slowness

    @property
    def status(self) -> dict:
        return json.loads((self.directory / "status.json").read_text())

    @property
    def events(self) -> list:
        return list(mllog.read(self.directory / "result.txt").events)

    @property
    def took_s(self) -> float:
        """From the last step's line in metrics.jsonl to the last word."""
        names = ("status.json", "metrics.jsonl")
        end, step = ((self.directory / name).stat().st_mtime for name in names)
        return end - step


@pytest.fixture
def accident(data_directory, tmp_path):
    def run(fault: str, rank: int, *, step: int = STEP, **parallelism: int) -> Aftermath:
        before = slowness()
        layout = {"gpus_per_node": 2, "threads_per_rank": 1, **parallelism}
        config = small_config(
            data_directory,
            parallelism=layout,
            watchdog={"hang_s": HANG_S * before, "silence_s": SILENCE_S * before},
            evaluation={"interval_samples": 32, "sequences": 8, "target_log_perplexity": 0.5},
        )
        document = {"config": to_mapping(config), "run": {"arm": "bf16", "index": 0, "seed": 3}}
        (tmp_path / "config.json").write_text(json.dumps(document))
        ranks = str(config.parallelism.world_size)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
        script = ["-m", "tests.submission.watched", "--attempt", str(tmp_path), "--fault", fault]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        line = [sys.executable, *launcher, *script, "--rank", str(rank), "--step", str(step)]
        with (tmp_path / "stdout.log").open("wb") as log:
            code = subprocess.run(line, env=environment, cwd=ROOT, stdout=log, stderr=log, timeout=ENDLESS_S)
        said = (tmp_path / "stdout.log").read_text()
        assert code.returncode == 1, said
        assert survivors(tmp_path) == []
        return Aftermath(directory=tmp_path, said=said, slowness=max(before, slowness()))

    yield run
    for pid in survivors(tmp_path):  # of a test that failed
        psutil.Process(pid).kill()


def survivors(directory: Path) -> list[int]:
    """Processes of an attempt that still run."""
    words = [(process.pid, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [pid for pid, line in words if str(directory) in line]


def require_aborted_log(after: Aftermath, *, samples: int) -> None:
    """The log that rank 0 closed: open intervals first, then run_stop, and no result of the rules."""
    tail = [(event.key, event.metadata.get("samples_count")) for event in after.events[-2:]]
    assert tail == [("block_stop", samples), ("run_stop", samples)], after.said
    assert after.events[-1].metadata["status"] == "aborted"
    assert after.status["outcome"] == "aborted"
    assert not Reason(after.status["reason"]).is_result
    assert attempts.result(after.directory) is None
    assert not (after.directory / "index_cache").exists()


def test_a_hung_rank_ends_all_ranks_and_the_log_names_it_and_where_it_stood(accident):
    after = accident("sleep", 1)
    message = after.status["message"]
    assert after.status["reason"] == "hung" and after.within(HANG_S, CLOSING_S), after.said
    assert f"in step {STEP}: rank 1 (process " in message
    assert "watched.py" in message and message.endswith("_sleep; the other 1 wait")
    require_aborted_log(after, samples=8 * (STEP - 1))
    stacks = [(after.directory / f"rank_{rank}_stack.txt").read_text() for rank in range(2)]
    assert "time.sleep(600)" in stacks[1] and "train_step" in stacks[1]
    assert "time.sleep(600)" not in stacks[0] and "torch/distributed" in stacks[0]


def test_a_killed_rank_ends_the_run_within_seconds_and_is_named_with_its_signal(accident):
    after = accident("kill", 1)
    assert after.status["reason"] == "lost_rank" and after.within(CLOSING_S), after.said
    assert "rank 1 (process " in after.status["message"]
    assert KILLED.search(after.status["message"])
    require_aborted_log(after, samples=8 * (STEP - 1))


def test_a_slow_rank_is_noted_and_a_loss_that_is_not_finite_is_traced_to_its_rank(accident):
    after = accident("slow+nan", 1, step=9)
    assert after.status["reason"] == "not_finite", after.said
    assert after.status["message"].endswith("in step 9: first in the loss of rank 1, micro batch 2")
    rows = [json.loads(line) for line in (after.directory / "metrics.jsonl").read_text().splitlines()]
    slow = [(row["samples"], row["rank"]) for row in rows if row["kind"] == "straggler"]
    assert slow == [(64, 1)], "slow at the first evaluation, and at the second again"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stop", "deaf"])
@pytest.mark.parametrize("rank", [1, 0])
def test_a_process_that_falls_silent_is_named_by_the_other_and_killed(accident, fault, rank):
    after = accident(fault, rank)
    assert after.status["reason"] == "lost_rank" and after.within(SILENCE_S, CLOSING_S), after.said
    assert after.status["message"].startswith(f"rank {rank} (process ")
    assert f"last in step {STEP}" in after.status["message"]
    assert ("SIGSTOP" in after.status["message"]) == (fault == "stop")
    if rank == 1:
        require_aborted_log(after, samples=8 * (STEP - 1))


@pytest.mark.slow
def test_rank_0_can_name_itself(accident):
    after = accident("spin", 0)
    assert after.status["reason"] == "hung"
    assert "rank 0 (process " in after.status["message"] and "_spin" in after.status["message"]
    require_aborted_log(after, samples=8 * (STEP - 1))


@pytest.mark.slow
def test_a_training_of_one_rank_is_watched_too(accident):
    after = accident("sleep", 0, gpus_per_node=1)
    assert after.status["reason"] == "hung" and after.status["message"].endswith("_sleep")
    require_aborted_log(after, samples=8 * (STEP - 1))


@pytest.mark.slow
def test_a_killed_rank_0_is_named_by_rank_1(accident):
    after = accident("kill", 0)
    assert after.status["reason"] == "lost_rank"
    assert KILLED.search(after.status["message"])
    assert after.status["message"].startswith("rank 0 (process ")


@pytest.mark.slow
def test_the_error_of_another_rank_is_the_run_s_message(accident):
    after = accident("raise", 1)
    assert after.status["reason"] == "exception"
    assert after.status["message"].startswith("rank 1 (process ")
    assert "ValueError: the script says raise" in after.status["message"]
    require_aborted_log(after, samples=8 * (STEP - 1))


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_traced_to_its_rank(accident):
    after = accident("gradient", 1)
    assert after.status["reason"] == "not_finite"
    assert "every rank's losses are finite; first in the gradients of rank 1" in after.status["message"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{"tensor": 2}, {"pipeline": 2}], ids=["tensor", "pipeline"])
def test_of_four_ranks_in_two_dimensions_the_hung_one_is_named(accident, layout):
    after = accident("sleep", 2, gpus_per_node=4, **layout)
    assert after.status["reason"] == "hung"
    assert "rank 2 (process " in after.status["message"] and "the other 3 wait" in after.status["message"]
    require_aborted_log(after, samples=8 * (STEP - 1))

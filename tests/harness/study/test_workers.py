"""Workers of a study: real processes, with small scripts in the place of trainings."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from harness.base.errors import TrainingFailed
from harness.campaign import store
from harness.campaign.process import Interrupted
from harness.config.file import resolve
from harness.contract import environment
from harness.study import grid, run, workers
from harness.study.workers import fit, number

PROXY = resolve("proxy", aliases={}).config
# stands where a worker stands: takes directories, leaves a result in each
WORKS = "import pathlib, sys\nfor d in sys.argv[1:]: (pathlib.Path(d) / 'result_0.txt').touch()\n"
FAILS = "import sys\nprint('no such file: /dev/nowhere'); sys.exit(4)\n"
SLEEPS = (
    "import pathlib, signal, sys, time\n"
    "def stop(*_): (pathlib.Path(sys.argv[1]) / 'told').touch(); sys.exit(130)\n"
    "signal.signal(signal.SIGINT, stop)\n"
    "(pathlib.Path(sys.argv[1]) / 'pid').touch()\n"
    "time.sleep(60)\n"
)


@pytest.fixture
def job(tmp_path):
    cells = [cell for cell in grid.paper() if cell.name in ("none-f", "h16-fdw", "fp8")]
    config = resolve("proxy", overrides=[f"runs.output={tmp_path}"], aliases={}).config
    return store.create(run.study_config(config, cells, seeds=1, steps=60))


def in_place_of_workers(monkeypatch, script):
    monkeypatch.setattr(workers, "command", lambda d: [sys.executable, "-c", script, *d])


def test_every_core_gets_a_worker_and_the_benchmark_keeps_its_node(monkeypatch):
    monkeypatch.setattr(workers, "accelerators", lambda: 0)
    monkeypatch.setattr(environment, "cores", lambda: 4)
    config = run.study_config(PROXY, grid.paper(), seeds=1, steps=60)
    assert number(config, None) == 4 and number(config, 99) == 13 and number(config, 0) == 1
    parallel = fit(config, 2).parallelism
    assert (parallel.gpus_per_node, parallel.threads_per_rank) == (1, 2)
    assert fit(config, 1) is config
    monkeypatch.setattr(workers, "accelerators", lambda: 8)
    assert number(config, None) == 8
    assert number(resolve("llama31_8b", aliases={}).config, None) == 1


def test_each_worker_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [environment.worker_environment(worker, 2)["CUDA_VISIBLE_DEVICES"] for worker in range(3)]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert environment.worker_environment(1, 8)["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES" not in environment.worker_environment(0, 0)


def test_the_cells_are_dealt_out_and_each_finished_run_is_a_line(job, monkeypatch, capsys):
    in_place_of_workers(monkeypatch, "import time; time.sleep(0.2)\n" + WORKS + "time.sleep(1.5)\n")
    workers.run(job, 2)
    assert all((arm.directory / "result_0.txt").exists() for arm in job.campaigns)
    assert "study: 3 of 3 runs, about 0 min left" in capsys.readouterr().err


def test_a_worker_that_gives_up_is_quoted_and_the_others_finish(job, monkeypatch):
    both = f"import sys\nif 'none-f' in sys.argv[1]:\n exec({FAILS!r})\n{WORKS}"
    in_place_of_workers(monkeypatch, both)
    with pytest.raises(TrainingFailed, match=r"worker 0: no such file: /dev/nowhere .*worker_0\.log"):
        workers.run(job, 3)
    done = [(arm.directory / "result_0.txt").exists() for arm in job.campaigns]
    assert done == [False, True, True]


def test_an_interruption_reaches_every_worker_before_the_study_ends(job, monkeypatch):
    in_place_of_workers(monkeypatch, SLEEPS)
    begun = [arm.directory / "pid" for arm in job.campaigns[:2]]

    def interrupt():
        until = time.monotonic() + 30
        while not all(path.exists() for path in begun) and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        workers.run(job, 2)
    assert all((path.parent / "told").exists() for path in begun)

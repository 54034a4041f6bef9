"""What the watchdog sees: processes of this machine, and where a thread stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest
import torch.distributed as dist

from submission.watchdog import processes, stacks


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def neighbour(pid: int) -> processes.Neighbours:
    found = processes.Neighbours()
    found.meet(replace(processes.me(1, towards="localhost"), pid=pid))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_death_is_seen_at_once_with_its_signal(child, number):
    watched = neighbour(child.pid)
    assert watched.deaths(0.0) == {}
    os.kill(child.pid, number)
    began = time.monotonic()
    assert watched.deaths(10.0) == {1: f"was killed by {number.name}"}
    assert time.monotonic() - began < 5
    assert watched.deaths(0.0) == {}, "a death is told once"


def test_an_exit_status_is_seen():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read(); sys.exit(3)"], stdin=-1)
    watched = neighbour(process.pid)
    process.stdin.close()
    assert watched.deaths(20.0) == {1: "ended with exit status 3"}
    process.wait()


def test_a_stopped_process_is_seen_and_can_be_ended(child):
    watched = neighbour(child.pid)
    assert not watched.stopped(1)
    os.kill(child.pid, signal.SIGSTOP)
    until = time.monotonic() + 5
    while not watched.stopped(1) and time.monotonic() < until:
        time.sleep(0.01)
    assert watched.stopped(1) and not watched.stopped(2)
    watched.kill(1)
    assert watched.deaths(10.0) == {1: "was killed by SIGKILL"}


_SPIN = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
_SPIN_WHEN_IDLE = _SPIN + "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"


def test_the_time_that_a_process_waits_for_a_core_is_known():
    """Two processes share one core; the one that runs only when the core is idle waits nearly all the time."""
    both = [
        subprocess.Popen([sys.executable, "-c", f"{code}while True: pass"])
        for code in (_SPIN, _SPIN_WHEN_IDLE)
    ]
    try:
        starved = neighbour(both[1].pid)
        until = time.monotonic() + 60
        while starved.waited_s(1) < 1.0 and time.monotonic() < until:
            time.sleep(0.05)
        assert starved.waited_s(1) >= 1.0
        assert starved.waited_s(2) == 0.0, "no such rank on this machine"
        os.kill(both[1].pid, signal.SIGSTOP)
        while not starved.stopped(1) and time.monotonic() < until:
            time.sleep(0.01)
        before_s = starved.waited_s(1)
        time.sleep(0.3)
        assert starved.waited_s(1) == before_s, "a stopped process does not wait for a core"
    finally:
        for process in both:
            process.kill()
            process.wait()


def test_processes_of_another_machine_are_not_taken_for_ours(child):
    watched = processes.Neighbours()
    watched.meet(replace(processes.me(1, towards="localhost"), pid=child.pid, machine="another"))
    watched.kill(1)
    assert watched.deaths(0.2) == {} and psutil.pid_exists(child.pid)


def test_a_thread_that_waits_for_a_handle_is_told_from_one_that_works(tmp_path):
    gate, ready = threading.Event(), threading.Semaphore(0)

    def waits():
        ready.release()
        gate.wait()

    def works():
        ready.release()
        while not gate.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=function) for function in (waits, works)]
    for thread in threads:
        thread.start()
        ready.acquire()
    time.sleep(0.2)
    places = [stacks.place(thread.ident) for thread in threads]
    path = tmp_path / "stack.txt"
    stacks.write(path, training=threads[1].ident, why="a test")
    gate.set()
    # Event.wait is Python itself, so the waiting thread stands in threading.py, on a lock
    assert "threading.py" in places[0].line and not places[1].waits
    assert "works" in places[1].line
    assert path.read_text().startswith("a test\n\nthread training:")
    assert stacks.place(-1).line == "no line: the thread has ended"


def test_an_executor_that_is_closed_leaves_no_process_group(executor):
    made = executor(arm="bf16")
    assert dist.is_initialized()
    made.close()
    assert not dist.is_initialized()

"""What a step starts ends with its time, with the command, and by itself; its words are kept."""

from __future__ import annotations

import os
import sys
import time

import psutil

from harness.qualify import children
from harness.qualify.children import Child

TREE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def python(text: str, name: str = "one") -> Child:
    return Child(name=name, command=[sys.executable, "-c", text], environment=dict(os.environ))


def run(directory, *asked, seconds=20.0, stopped=lambda: False, **more):
    return children.run(asked, directory, until=time.monotonic() + seconds, stopped=stopped, **more)


def test_a_child_that_ends_by_itself_tells_how(tmp_path):
    fine, broken = run(
        tmp_path, python("print('{}')"), python("print('half', end=''); raise ValueError('no')", "two")
    )
    assert (fine.code, fine.lines()) == (0, ["{}"])
    assert broken.code == 1 and broken.lines() == [], "a line without its end was cut off"
    assert list(children.failures([fine, broken])) == ["exit status 1: ValueError: no"]


def test_nothing_is_left_when_the_time_is_up(tmp_path):
    began = time.monotonic()
    (ended,) = run(tmp_path, python(TREE), seconds=1.5)
    assert time.monotonic() - began < 10 and ended.code is None
    pids = [int(pid) for pid in ended.lines()[0].split()]
    time.sleep(0.3)  # the kernel reaps
    assert len(pids) == 2 and not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids
    )


def test_nothing_is_left_when_the_command_is_told_to_stop(tmp_path):
    began = time.monotonic()
    (ended,) = run(tmp_path, python(TREE), stopped=lambda: time.monotonic() - began > 1)
    assert ended.code is None and time.monotonic() - began < 10


def test_a_step_may_watch_its_children(tmp_path):
    seen = []
    (ended,) = run(
        tmp_path, python("import time; time.sleep(60)"), watch=lambda pids: bool(seen.append(pids) or 1)
    )
    assert ended.code is None and seen[0].keys() == {"one"}

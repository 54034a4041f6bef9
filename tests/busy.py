"""How busy this machine is, for tests that must wait: by the wall clock, never by what a quiet machine needs."""

from __future__ import annotations

import os
import time

from harness.contract.environment import cores

ENDLESS_S = 1800.0  # a limit against hangs alone


def slowness() -> float:
    """Wall seconds that a CPU second of a process takes here now, at least 1: 11 beside 20 busy loops on two cores."""
    wall, used = time.perf_counter(), time.process_time()
    while time.process_time() - used < 0.05:
        pass
    spun = (time.perf_counter() - wall) / 0.05
    return max(1.0, spun, os.getloadavg()[0] / cores())

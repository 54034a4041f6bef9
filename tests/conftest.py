"""What surrounds a test must not change it: a submitter's environment (SEED, ..), a parent that ignores Ctrl-C."""

from __future__ import annotations

import signal

import pytest

from harness.contract.environment import ALIASES

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a background job of a shell ignores it, and every process that a test starts and interrupts would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_aliases(monkeypatch):
    for name in ALIASES:
        monkeypatch.delenv(name, raising=False)

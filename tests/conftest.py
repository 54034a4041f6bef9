"""What surrounds a test must not change it: a submitter's environment (SEED, ..), a parent that ignores Ctrl-C."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from harness.contract.environment import ALIASES

# Triton's interpreter stands in for a GPU; Triton reads the choice when it is first imported, by whichever test that is
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "0")  # unset, Triton 3.9 warns

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a background job of a shell ignores it, and every process that a test starts and interrupts would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_aliases(monkeypatch):
    for name in ALIASES:
        monkeypatch.delenv(name, raising=False)

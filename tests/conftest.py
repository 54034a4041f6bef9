"""A submitter's environment (SEED, DATADIR, ..) must not change what the tests see."""

from __future__ import annotations

import pytest

from harness.contract.environment import ALIASES


@pytest.fixture(autouse=True)
def no_aliases(monkeypatch):
    for name in ALIASES:
        monkeypatch.delenv(name, raising=False)

from __future__ import annotations

import pytest

from submission import caches
from tests.submission.configurations import small_config


@pytest.fixture
def dropped_all(monkeypatch):
    calls = []
    monkeypatch.setattr(caches, "_drop_everything", lambda: calls.append(1))
    return calls


def test_the_data_files_leave_the_page_cache_without_privilege(data_directory, dropped_all):
    assert caches.clear(small_config(data_directory)) is True
    assert not dropped_all, "a rehearsal leaves the rest of the machine alone"


def test_missing_data_is_not_called_cleared(tmp_path, dropped_all):
    """The log then says cache_clear false, and the checker refuses the run."""
    assert caches.clear(small_config(tmp_path)) is False

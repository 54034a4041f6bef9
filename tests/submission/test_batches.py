from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from harness.base.paths import ROOT as REPOSITORY
from tests.busy import ENDLESS_S
from tests.submission.configurations import LENGTH, small_config, write_data


@pytest.fixture
def opened(executor, data_directory, tmp_path):
    from submission import batches

    def open_with(seed):
        return batches.index_datasets(
            small_config(data_directory), seed=seed, cache=tmp_path / f"index{seed}"
        )

    executor()
    return open_with


def test_validation_is_the_file_in_its_order_whatever_the_seed(opened, data_directory):
    tokens = np.fromfile(data_directory / "valid.bin", dtype=np.uint16)
    for seed in (1, 2):
        _, valid = opened(seed)
        for index in range(8):
            expected = tokens[index * LENGTH : (index + 1) * LENGTH + 1]
            assert valid[index]["tokens"].tolist() == expected[:-1].tolist()
            assert valid[index]["labels"].tolist() == expected[1:].tolist()


def test_training_order_follows_the_seed(opened):
    first, again, other = (opened(seed)[0] for seed in (1, 1, 2))
    orders = [
        torch.stack([dataset[index]["tokens"] for index in range(8)]) for dataset in (first, again, other)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_too_few_validation_sequences_are_an_error(executor, data_directory, tmp_path):
    from submission import batches

    executor()
    config = small_config(data_directory, evaluation={"sequences": 8000})
    with pytest.raises(Exception, match="8000 needed"):
        batches.index_datasets(config, seed=1, cache=tmp_path / "index")


def resident_pages(path):
    """Pages of a file that lie in the page cache: Linux's mincore on a mapping that itself reads nothing."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = (ctypes.c_char * len(mapped)).from_buffer(mapped)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        failed = mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), found)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in found)


def test_the_index_is_built_without_a_page_of_tokens_which_the_first_step_reads(executor, tmp_path):
    from submission import caches

    write_data(tmp_path)
    tokens = [tmp_path / "train.bin", tmp_path / "valid.bin"]
    made = executor(data={"directory": str(tmp_path)})
    assert all(resident_pages(path) for path in tokens), "just written"
    assert caches.clear(made._config) is True
    if any(resident_pages(path) for path in tokens):
        pytest.skip("this file system keeps its files in memory: nothing can be seen here")
    made.index_data()
    assert [resident_pages(path) for path in tokens] == [0, 0]
    made.open_data()
    made.train_step()
    assert resident_pages(tokens[0])
    made.evaluate()
    assert resident_pages(tokens[1])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_group_leaves_the_workers_alone_until_the_rank_ends(name):
    command = [sys.executable, "-m", "tests.submission.signalled_rank", name]
    done = subprocess.run(
        command, cwd=REPOSITORY, start_new_session=True, capture_output=True, text=True, timeout=ENDLESS_S
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] is None
    assert found["alive"] == found["workers"] and len(found["alive"]) == 2
    until = time.monotonic() + 3
    while any(os.path.exists(f"/proc/{pid}") for pid in found["workers"]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in found["workers"]), "they end with their rank"

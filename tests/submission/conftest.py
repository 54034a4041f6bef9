"""One CPU rank in the test process."""

from __future__ import annotations

import gc
import socket

import pytest
import torch

from tests.submission.configurations import small_config, write_data


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    write_data(directory)
    return directory


@pytest.fixture
def one_rank(monkeypatch):
    """Environment of a single rank as torchrun would set it, one thread; the process group is left behind closed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    from submission import parallel

    parallel.shut_down()
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture
def executor(one_rank, data_directory, tmp_path):
    """Make a built executor: executor(arm="mxfp4", dtype="bf16", warmup=..)."""
    from harness.contract.environment import Ranks
    from submission.executor import MegatronExecutor

    def make(*, arm: str = "mxfp4", dtype: str = "bf16", seed: int = 5, **changes):
        config = small_config(data_directory, dtype=dtype, **changes)
        made = MegatronExecutor(
            config, arm=arm, seed=seed, ranks=Ranks.from_environment(), cache=tmp_path / "index"
        )
        made.build()
        return made

    return make

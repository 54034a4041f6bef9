from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.submission.configurations import LENGTH, small_config


@pytest.fixture
def opened(executor, data_directory, tmp_path):
    from submission import batches

    def open_with(seed):
        return batches.open_datasets(small_config(data_directory), seed=seed, cache=tmp_path / f"index{seed}")

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
        batches.open_datasets(config, seed=1, cache=tmp_path / "index")

"""Data sets and iterators: Megatron's GPTDataset, seeded for training, in file order for validation."""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core import parallel_state
from megatron.core.datasets import helpers
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split

from harness.contract.config import Config
from submission import device

Batch = dict[str, torch.Tensor]
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Vocabulary:
    """The part of a tokenizer that GPTDataset reads; the corpus already holds tokens."""

    def __init__(self, size: int):
        self.vocab_size, self.eod, self.pad = size, 0, -1
        self.unique_identifiers = OrderedDict(vocabulary="prepared", vocab_size=size)
        self.special_tokens_dict = {"eod_token": self.eod}


class OrderedValidationDataset(GPTDataset):
    """GPTDataset that keeps the validation split in file order.

    Megatron shuffles the documents and samples of every split; the benchmark evaluates the first N sequences without
    shuffling (MLCommons reference, small_llm_pretraining).
    """

    def _build_document_sample_shuffle_indices(self) -> tuple[Any, Any, Any]:
        if self.index_split != Split.valid:
            return super()._build_document_sample_shuffle_indices()
        documents = np.asarray(self.indices, dtype=np.int32)
        samples = helpers.build_sample_idx(
            self.dataset.sequence_lengths.copy(),
            documents,
            self.config.sequence_length,
            1,
            self._get_num_tokens_per_epoch(),
            True,
            self.config.add_extra_token_to_sequence,
        )
        sequences = samples.shape[0] - 1
        if self.num_samples is not None and sequences < self.num_samples:
            raise ValueError(f"validation data: {sequences} sequences, {self.num_samples} needed")
        return documents, samples, np.arange(sequences, dtype=np.uint32)


def index_datasets(config: Config, *, seed: int, cache: Path) -> tuple[GPTDataset, GPTDataset]:
    """Training and validation sets with the order of their sequences; reads only .idx files, no tokens.

    Args:
        seed: determines the order of the training documents and sequences.
        cache: directory on storage that all ranks share; one rank builds the index there.
    """
    prefixes = [
        f"{config.data.directory}/{name}" for name in (config.data.train_prefix, config.data.valid_prefix)
    ]
    settings = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=config.model.sequence_length,
        tokenizer=_Vocabulary(config.model.vocab_size),
        blend_per_split=[([prefixes[0]], None), ([prefixes[1]], None), None],
        path_to_cache=str(cache),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    sizes = [config.train_samples, config.evaluation.sequences, 0]
    train, valid, _ = BlendedMegatronDatasetBuilder(
        OrderedValidationDataset, sizes, lambda: True, settings
    ).build()
    return train, valid


class _Slices(torch.utils.data.Sampler[list[int]]):
    """Index lists of consecutive sequences, computed when read: a list for 1.2 million steps would be too large."""

    def __init__(self, starts: range, length: int):
        self.starts, self.length = starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, start + self.length)) for start in self.starts)


def batches(dataset: GPTDataset, *, micro_batch_size: int, total: int, first: int = 0) -> Iterator[Batch]:
    """This rank's micro batches in order: sequence k of a global batch goes to data-parallel rank k // micro batch.

    Args:
        total: number of sequences, over all ranks.
        first: number of sequences to skip because an earlier run trained on them; a multiple of the global batch.
    """
    rank = parallel_state.get_data_parallel_rank()
    step = micro_batch_size * parallel_state.get_data_parallel_world_size()
    starts = range(first + rank * micro_batch_size, total, step)
    sampler = _Slices(starts, micro_batch_size)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=2 if torch.cuda.is_available() else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_rank,
    )
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, _GROUP_SIGNALS
    )  # blocked until the worker ignores them (_leave_signals_to_the_rank)
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_signals_to_the_rank(_: int) -> None:
    """Make a data loader's worker ignore signals, and end when its rank ends.

    torchrun signals whole process groups. A worker inherits the rank's signal handler and would die from the signal.
    torch would then raise RuntimeError in the rank while the rank closes its log.
    """
    for number in _GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    device.die_with_parent(signal.SIGKILL)


def synthetic_batches(config: Config, *, home: torch.device) -> Iterator[Batch]:
    """Endless random tokens for the warm-up. They use no data, and their own generator leaves torch's unchanged."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch.micro_batch_size, config.model.sequence_length)
    positions = torch.arange(shape[1]).expand(shape).contiguous()
    while True:
        tokens, labels = torch.randint(config.model.vocab_size, (2, *shape), generator=generator)
        batch = {
            "tokens": tokens,
            "labels": labels,
            "position_ids": positions,
            "loss_mask": torch.ones(shape),
        }
        yield {key: value.to(home) for key, value in batch.items()}

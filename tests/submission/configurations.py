"""Small configurations and data for the tests of the submission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.contract import build
from harness.contract.config import Config

VOCAB, LENGTH = 512, 64
MODEL = {
    "layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "attention_heads": 4,
    "query_groups": 2,
    "vocab_size": VOCAB,
    "sequence_length": LENGTH,
}


def small_config(
    directory: Path, *, dtype: str = "fp32", steps: int = 20, **changes: dict[str, Any]
) -> Config:
    """A two-layer Llama; keyword arguments override keys of a section: `parallelism={"tensor": 2}`."""
    sections: dict[str, Any] = {
        "profile": "proxy",
        "benchmark": "llama31_8b_proxy",
        "system": {"submitter": "test", "name": "test"},
        "model": {**MODEL, "dtype": dtype},
        "data": {
            "directory": str(directory),
            "train_prefix": "train",
            "valid_prefix": "valid",
            "corpus": "python",
        },
        "batch": {"global_batch_size": 8, "micro_batch_size": 2},
        "schedule": {"base_lr": 4e-3, "warmup_steps": 4, "max_steps": steps},
        "optimizer": {},
        "evaluation": {"interval_samples": 40, "sequences": 8, "target_log_perplexity": 0.5},
        "parallelism": {"threads_per_rank": 1},
        "warmup": {},
        "watchdog": {},
        "runs": {"count": 1, "arms": ["mxfp4"]},
        "launch": {},
        "arms": {name: {"recipe": name} for name in ("mxfp4", "fp8", "bf16")},
        "recipes": {
            "mxfp4": {key: {"format": "mxfp4", "hadamard": 16} for key in ("fprop", "dgrad", "wgrad")},
            "fp8": {key: {"format": "fp8"} for key in ("fprop", "dgrad", "wgrad")},
            "bf16": {key: {"format": "bf16"} for key in ("fprop", "dgrad", "wgrad")},
        },
    }
    for section, keys in changes.items():
        sections[section] = {**sections.get(section, {}), **keys}
    return build.build(Config, sections, "")


def write_data(directory: Path) -> None:
    """Text a small model can learn: each token has four successors."""
    from submission import device

    device.install()
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    generator = torch.Generator().manual_seed(7)
    successors = torch.randint(1, VOCAB, (VOCAB, 4), generator=generator)
    for name, documents in (("train", 60), ("valid", 12)):
        builder = IndexedDatasetBuilder(str(directory / f"{name}.bin"), dtype=DType.optimal_dtype(VOCAB))
        for _ in range(documents):
            choices = torch.randint(0, 4, (299,), generator=generator)
            tokens = [int(torch.randint(1, VOCAB, (1,), generator=generator))]
            for choice in choices.tolist():
                tokens.append(int(successors[tokens[-1], choice]))
            builder.add_document(torch.tensor([*tokens, 0]), [len(tokens) + 1])
        builder.finalize(str(directory / f"{name}.idx"))

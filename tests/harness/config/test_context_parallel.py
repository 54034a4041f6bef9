"""Asking for context parallelism is refused with the reason and with what there is instead."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.config.file import resolve


@pytest.mark.parametrize(
    "key",
    ["parallelism.context", "parallelism.context_parallelism", "parallelism.context_parallel_size",
     "context_parallelism", "parallelism.cp", "parallelism.cp_size"],
)  # fmt: skip
def test_context_parallelism_is_refused_with_the_reason(key):
    with pytest.raises(ConfigError) as refused:
        resolve("llama31_8b", overrides=[f"{key}=2"], aliases={})
    said = str(refused.value)
    assert said.startswith(f"--set {key}=2: {key}: no such key; context parallelism is always 1")
    assert "exists in Transformer Engine only, on GPUs" in said and "parallelism.tensor" in said


@pytest.mark.parametrize("key", ["parallelism.contest", "model.rope_context_length"])
def test_another_unknown_key_is_not_taken_for_it(key):
    with pytest.raises(ConfigError, match=r"no key '.*; keys: ") as refused:
        resolve("llama31_8b", overrides=[f"{key}=2"], aliases={})
    assert "always 1" not in str(refused.value)

"""Which attention and norm a run computes with."""

from __future__ import annotations

import pytest
import torch


def attend(kernel):
    from types import SimpleNamespace

    from megatron.core.transformer.enums import AttnMaskType

    from submission.modules import CausalAttention

    settings = SimpleNamespace(
        context_parallel_size=1, num_attention_heads=4, num_query_groups=2, kv_channels=16
    )
    groups = SimpleNamespace(tp=SimpleNamespace(size=lambda: 1))
    made = CausalAttention(settings, 1, AttnMaskType.causal, "self", pg_collection=groups, kernel=kernel)
    torch.manual_seed(0)
    q, k, v = (torch.randn(8, 2, heads, 16) for heads in (4, 2, 2))
    return made(q, k, v, None)


def test_every_kernel_of_this_machine_attends_to_the_same_tokens():
    first = attend("math")
    assert torch.allclose(attend("torch"), first, atol=1e-6) and torch.allclose(
        attend("flash"), first, atol=1e-6
    )


def test_a_kernel_that_is_not_here_stops_the_run_before_the_clock(executor):
    with pytest.raises(RuntimeError, match=r"model\.attention: cudnn does not work here"):
        executor(model={"attention": "cudnn"})


@pytest.mark.parametrize("what", ["attention", "norm"])
def test_transformer_engines_are_refused_where_it_is_not_installed(executor, what):
    with pytest.raises(
        RuntimeError, match=rf"model\.{what}: found transformer_engine, .*model\.{what}=torch"
    ):
        executor(model={what: "transformer_engine"})


def test_the_proof_names_the_attention_and_the_norm(executor):
    made = executor(model={"attention": "math"})
    made.warm_up()
    made.index_data()
    made.open_data()
    made.train_step()
    proof = made.proof()
    assert (proof.attention, proof.norm) == ("torch math", "torch")

"""The prediction of harness/config/memory.py against what a built model, its optimizer and autograd hold."""

from __future__ import annotations

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

from harness.config import memory
from submission import batches as submission_batches
from submission import device
from submission.step import _forward_step, train_step
from submission.warmup import _torch_optimizers

SHAPE = {
    "layers": 3,
    "hidden_size": 256,
    "ffn_hidden_size": 896,
    "attention_heads": 8,
    "query_groups": 2,
    "vocab_size": 1024,
    "sequence_length": 512,
}


def kept_bytes(made, config):
    """Storages that autograd keeps of one micro batch, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in made.trainer.model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address comes twice
        return tensor

    batch = next(submission_batches.synthetic_batches(config, home=made.trainer.home))
    with device.megatron(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, losses = _forward_step(made.trainer)(iter([batch]), made.trainer.model)
        losses(output)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    ("arm", "fusions"),
    [("bf16", ()), ("mxfp4", ()), ("bf16", ("rope", "swiglu", "cross_entropy", "norm"))],
    ids=["bf16", "mxfp4", "fused"],
)
def test_weights_gradients_optimizer_and_activations_are_within_ten_percent(executor, arm, fusions):
    """The fused norm keeps on a CPU what a GPU keeps; the last norm is torch's."""
    shape = {**SHAPE, "fusions": fusions}
    made = executor(arm=arm, model=shape, batch={"global_batch_size": 2, "micro_batch_size": 2})
    config, model = made._config, made.trainer.model
    need = memory.predicted(config, on_gpu=bool(fusions))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    gradients = sum(buffer.grad_data.nbytes for buffer in model.buffers)
    assert need.weights == weights
    assert need.gradients == pytest.approx(gradients, rel=0.01)
    train_step(made.trainer, submission_batches.synthetic_batches(config, home=made.trainer.home))
    (adamw,) = _torch_optimizers(made.trainer.optimizer)
    states = sum(t.nbytes for state in adamw.state.values() for t in state.values() if t.numel() > 1)
    masters = sum(p.nbytes for group in adamw.param_groups for p in group["params"])
    assert need.optimizer == pytest.approx(states + masters, rel=0.1)
    tokens = 2 * 512
    outside = tokens * (
        (2 if fusions else 4) * 1024 + 2 * 256 + 16 * 256 // 2
    )  # the loss's logits, the head's input, the final norm
    assert need.activations + outside == pytest.approx(kept_bytes(made, config), rel=0.1)


def test_recomputation_keeps_the_layers_inputs_and_gives_the_same_step(executor):
    shape = {"model": SHAPE, "batch": {"global_batch_size": 2, "micro_batch_size": 2}}
    losses, kept = [], []
    for recompute in ("none", "full"):
        made = executor(arm="mxfp4", parallelism={"recompute": recompute, "threads_per_rank": 1}, **shape)
        made.warm_up()  # proves that every GEMM ran as often as the steps demand, twice in Fprop
        torch.manual_seed(0)
        batches = submission_batches.synthetic_batches(made._config, home=made.trainer.home)
        losses.append([train_step(made.trainer, batches).loss for _ in range(2)])
        kept.append(kept_bytes(made, made._config))
        parallel_state.destroy_model_parallel()
        destroy_num_microbatches_calculator()
    assert losses[0] == losses[1]
    assert kept[1] < 0.5 * kept[0]

"""The prediction of harness/config/memory.py against what a built model, its optimizer and autograd hold."""

from __future__ import annotations

import functools
import gc

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.config import memory
from kernels.linear import linear
from submission import batches as submission_batches
from submission import device, precision
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


class LiveStorages(TorchDispatchMode):
    """Memory that was allocated inside, as long as it is in use."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = StorageWeakRef(leaf.untyped_storage())  # an address in use by it is not used anew
                self.made.setdefault(storage.cdata, (storage, leaf.untyped_storage().nbytes()))
        return out

    def bytes(self, besides):
        """Of all that is in use, but for the memory of these tensors."""
        known = {tensor.untyped_storage()._cdata for tensor in besides}
        live = {cdata: size for cdata, (storage, size) in self.made.items() if not storage.expired()}
        return sum(size for cdata, size in live.items() if cdata not in known)


def kept_bytes(made, config):
    """What autograd holds after one forward pass; quantised weights are there already."""
    batch = next(submission_batches.synthetic_batches(config, home=made.trainer.home))
    for _ in range(2):
        live = LiveStorages()
        with device.megatron(), live:
            output, losses = _forward_step(made.trainer)(iter([batch]), made.trainer.model)
            loss = losses(output)
        gc.collect()
    assert loss is not None and output.requires_grad
    return live.bytes(besides=[output, *made.trainer.model.parameters()])


@pytest.mark.parametrize(
    ("arm", "recompute", "fusions"),
    [
        ("bf16", "none", ()),
        ("fp8", "none", ()),
        ("mxfp4", "none", ()),
        ("mxfp4", "fc1", ()),
        ("mxfp4", "none", ("rope", "swiglu", "cross_entropy", "norm", "quantise")),
    ],
)
def test_weights_gradients_optimizer_and_activations_are_as_predicted(executor, arm, recompute, fusions):
    """The fused norm keeps on a CPU what a GPU keeps; the last norm is torch's."""
    batch, runs = {"global_batch_size": 2, "micro_batch_size": 2}, {"arms": [arm]}
    made = executor(
        arm=arm,
        model={**SHAPE, "fusions": fusions},
        batch=batch,
        runs=runs,
        parallelism={"recompute": recompute, "threads_per_rank": 1},
    )
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
    assert need.activations + outside == pytest.approx(kept_bytes(made, config), rel=0.05)


def test_recomputation_keeps_less_and_gives_the_same_step(executor):
    shape = {"model": SHAPE, "batch": {"global_batch_size": 2, "micro_batch_size": 2}}
    losses, kept = [], []
    for recompute in ("none", "fc1", "full"):
        made = executor(arm="mxfp4", parallelism={"recompute": recompute, "threads_per_rank": 1}, **shape)
        made.warm_up()  # proves that every GEMM ran as often as the steps demand, twice in Fprop
        torch.manual_seed(0)
        batches = submission_batches.synthetic_batches(made._config, home=made.trainer.home)
        losses.append([train_step(made.trainer, batches).loss for _ in range(2)])
        kept.append(kept_bytes(made, made._config))
        parallel_state.destroy_model_parallel()
        destroy_num_microbatches_calculator()
    assert losses[0] == losses[1] == losses[2]
    assert kept[2] < 0.5 * kept[0] and kept[1] < 0.8 * kept[0]


@pytest.mark.parametrize("arm", ["mxfp4", "fp8"])
def test_twenty_steps_are_the_same_whether_inputs_wait_quantised_or_in_high_precision(
    executor, arm, monkeypatch
):
    losses = []
    for keeps_input in (False, True):
        monkeypatch.setattr(precision, "linear", functools.partial(_linear, keeps_input=keeps_input))
        made = executor(arm=arm, batch={"global_batch_size": 2, "micro_batch_size": 2})
        torch.manual_seed(0)
        batches = submission_batches.synthetic_batches(made._config, home=made.trainer.home)
        losses.append([train_step(made.trainer, batches).loss for _ in range(20)])
        parallel_state.destroy_model_parallel()
        destroy_num_microbatches_calculator()
    assert losses[0] == losses[1] and len(set(losses[0])) == 20


def _linear(*arguments, keeps_input, **options):
    return linear(*arguments, **{**options, "keeps_input": keeps_input})

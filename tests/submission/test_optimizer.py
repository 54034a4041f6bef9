"""Who updates the weights is what the configuration says, and copies to and from the FP32 shards are Megatron's."""

from __future__ import annotations

import pytest
import torch


def trained(executor, steps=4, **options):
    from submission import parallel

    made = executor(arm="bf16", warmup={"train_steps": 1}, **options)
    made.warm_up()
    made.index_data()
    made.open_data()
    losses, said = [made.train_step().loss for _ in range(steps)], made.proof().optimizer
    parallel.shut_down()
    return losses, said


def test_the_fused_update_trains_as_the_other_and_the_proof_says_which_ran(executor):
    plain, said = trained(executor, dtype="fp32")
    assert said == "torch AdamW, one parameter at a time", "a CPU has no foreach kernels"
    fused, said = trained(executor, dtype="fp32", optimizer={"implementation": "fused"})
    assert said == "torch AdamW, fused"
    assert fused == pytest.approx(plain, abs=1e-5) and plain[3] < plain[0]


def test_transformer_engines_update_is_refused_where_it_is_not_installed(executor):
    wanted = (
        "optimizer.implementation: found transformer_engine, which cannot be imported .*implementation=fused"
    )
    with pytest.raises(RuntimeError, match=wanted):
        executor(optimizer={"implementation": "transformer_engine"})


def test_whose_adam_megatron_builds_does_not_depend_on_what_is_installed(executor, monkeypatch):
    from megatron.core import optimizer as optimizers
    from megatron.core.optimizer import distrib_optimizer

    monkeypatch.setattr(optimizers, "Adam", torch.optim.SGD)  # as if Transformer Engine or Apex were here
    monkeypatch.setattr(optimizers, "USING_PYTORCH_OPTIMIZER", False)
    monkeypatch.setattr(distrib_optimizer, "Adam", torch.optim.SGD)
    monkeypatch.setattr(distrib_optimizer, "HAVE_APEX_OR_TE", True)
    _, said = trained(executor, steps=1)
    assert said == "torch AdamW, one parameter at a time"


@pytest.mark.parametrize("reduce", ["bf16", "fp32"])
def test_gradients_and_weights_are_copied_as_megatron_copies_them(executor, reduce):
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    from submission import device, optimizer

    made = executor(arm="bf16", parallelism={"gradient_reduce": reduce})
    (part,) = optimizer.parts(made.trainer.optimizer)
    for buffer in part.buffers:
        buffer.grad_data.normal_()
    with device.megatron():
        part._copy_model_grads_to_main_grads()
        ours = [main.grad.clone() for main in part.get_parameters()]
        DistributedOptimizer._copy_model_grads_to_main_grads(part)
        theirs = [main.grad for main in part.get_parameters()]
        assert all(map(torch.equal, ours, theirs)) and {x.dtype for x in ours} == {torch.float32}
        for main in part.get_parameters():
            main.data.normal_()
        part._copy_main_params_to_model_params()
        ours = [parameter.detach().clone() for parameter in made.trainer.model.parameters()]
        for buffer in part.buffers:
            buffer.param_data.zero_()
        DistributedOptimizer._copy_main_params_to_model_params(part)
    assert all(map(torch.equal, ours, made.trainer.model.parameters()))

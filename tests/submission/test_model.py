from __future__ import annotations

import pytest
import torch
import yaml

from harness.base.paths import ROOT
from harness.config.file import resolve


def test_the_benchmark_model_has_exactly_its_published_number_of_parameters(one_rank):
    """Built by Megatron on the meta device: no weight is allocated."""
    from harness.contract.environment import Ranks
    from submission import device

    device.install()
    from submission import model, parallel, precision
    from submission.phases import phases_of

    config = resolve("llama31_8b", overrides=["parallelism.gpus_per_node=1"]).config
    parallel.initialize(config, Ranks.from_environment())
    with device.megatron(), torch.device("meta"):
        (llama,) = model.llama(config, precision.Linears(phases_of(config, "mxfp4")))
    assert all(parameter.is_meta for parameter in llama.parameters())
    assert sum(parameter.numel() for parameter in llama.parameters()) == 8_030_261_248
    assert config.model.parameters == 8_030_261_248


def test_the_output_projections_start_smaller_than_the_other_weights(executor):
    """Megatron's and the reference's initialisation: std 0.02, divided by sqrt(2 x layers) where a block ends."""
    from submission.model import unwrap

    llama = unwrap(executor(dtype="fp32").trainer.model)
    layer = llama.decoder.layers[0]
    assert abs(layer.mlp.linear_fc1.weight.std().item() - 0.02) < 0.001
    for ending in (layer.mlp.linear_fc2, layer.self_attention.linear_proj):
        assert abs(ending.weight.std().item() - 0.02 / 4**0.5) < 0.001


@pytest.mark.parametrize(
    ("dtype", "reduce", "gradients"),
    [("bf16", "bf16", torch.bfloat16), ("bf16", "fp32", torch.float32), ("fp32", "fp32", torch.float32)],
)
def test_main_gradients_have_the_type_that_the_configuration_says(executor, dtype, reduce, gradients):
    made = executor(dtype=dtype, parallelism={"gradient_reduce": reduce}, warmup={"train_steps": 1})
    assert {parameter.main_grad.dtype for parameter in made.trainer.model.parameters()} == {gradients}
    made.warm_up()
    narrowest = {"bf16": "bfloat16", "fp32": "fp32"}[dtype]  # the weights travel too
    assert made.precision()["lowest_numerical_precision_in_comm"] == narrowest


def test_gradients_that_are_narrower_than_the_weights_are_disclosed(executor):
    made = executor(dtype="fp32", warmup={"train_steps": 1})
    made.warm_up()
    for buffer in made.trainer.model.buffers:
        buffer.grad_dtype = torch.bfloat16
    assert made.precision()["lowest_numerical_precision_in_comm"] == "bfloat16"


def test_every_preset_keeps_its_gradients_in_bf16():
    """As the docstrings of submission/te/te_linear.py and the memory model say."""
    names = yaml.safe_load((ROOT / "benchmark.yaml").read_text(encoding="utf-8"))["presets"]
    for name in names:
        assert resolve("llama31_8b", preset=name).config.parallelism.gradient_reduce == "bf16", name

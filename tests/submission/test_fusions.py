"""A model with fused kernels trains the losses of the model without them, and the proof names them."""

from __future__ import annotations

import pytest
import torch

from tests.submission.configurations import small_config

FUSIONS = ("rope", "swiglu", "cross_entropy", "norm")
QUANTISE = "quantise"
STEPS = 8


def losses(executor, **options):
    from submission import parallel

    made = executor(**options)
    made.warm_up()
    made.index_data()
    made.open_data()
    found = [made.train_step().loss for _ in range(STEPS)] + [made.evaluate()]
    fused = made.proof().fusions
    made.close()
    parallel.shut_down()
    return found, fused


@pytest.mark.slow
def test_fusions_change_the_losses_no_more_than_one_weight_moved_by_one_step_of_bf16(executor, monkeypatch):
    from submission import model

    options = {"arm": "mxfp4", "dtype": "bf16", "warmup": {"train_steps": 1}}
    plain, _ = losses(executor, **options)
    fused, _ = losses(executor, model={"fusions": (*FUSIONS, QUANTISE)}, **options)
    build = model.llama

    def moved(*arguments):
        stages = build(*arguments)
        with torch.no_grad():
            stages[-1].decoder.final_layernorm.weight[0] += 2**-7
        return stages

    monkeypatch.setattr(model, "llama", moved)
    control, _ = losses(executor, **options)
    assert 0 < difference(plain, fused) < 4 * difference(plain, control)


def difference(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_in_fp32_the_losses_are_those_without_fusions(executor, recompute):
    options = {
        "arm": "bf16",
        "dtype": "fp32",
        "warmup": {"train_steps": 1},
        "parallelism": {"recompute": recompute},
    }
    plain, none = losses(executor, **options)
    fused, found = losses(executor, model={"fusions": FUSIONS}, **options)
    assert (none, found) == ((), FUSIONS)
    assert plain[0] - plain[STEPS - 1] > 0.1 and 0 < difference(plain, fused) < 1e-5


@pytest.mark.parametrize("one", FUSIONS)
def test_quantised_each_fusion_alone_trains_alike(executor, one):
    """Rounded once where Megatron rounds twice, an operand's code may flip."""
    options = {"arm": "mxfp4", "dtype": "bf16", "warmup": {"train_steps": 1}}
    plain, _ = losses(executor, **options)
    fused, found = losses(executor, model={"fusions": (one,)}, **options)
    assert found == (one,)
    assert difference(plain, fused) < 5e-3


@pytest.mark.parametrize("arm", ["mxfp4", "fp8"])
def test_norm_and_swiglu_that_quantise_train_the_same_losses_bit_for_bit(executor, monkeypatch, arm):
    """Every norm, SwiGLU and SwiGLU's gradient hands its source to a quantiser: 3 + 1 of each layer and pass."""
    from kernels.fused import deferred

    computed = []
    compute = deferred.Source.values
    monkeypatch.setattr(deferred.Source, "values", lambda self: computed.append(self.kind) or compute(self))
    options = {"arm": arm, "dtype": "bf16", "warmup": {"train_steps": 1}}
    apart, _ = losses(executor, model={"fusions": FUSIONS}, **options)
    assert not computed
    joint, found = losses(executor, model={"fusions": (*FUSIONS, QUANTISE)}, **options)
    assert joint == apart and found == (*FUSIONS, QUANTISE)
    passes = 2 * (STEPS + 1) * 4  # of layers: steps and the warm-up's, four micro batches each
    assert computed.count(deferred.SWIGLU_GRADIENT) == passes
    assert computed.count(deferred.NORM) > 2 * passes and computed.count(deferred.SWIGLU) > passes


def test_an_arm_without_a_joint_kernel_names_no_joint_quantising(executor):
    _, found = losses(executor, arm="bf16", model={"fusions": (*FUSIONS, QUANTISE)})
    assert found == FUSIONS


def test_a_joint_kernel_that_differs_is_left_out(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from kernels.fused import joint_probe
    from submission import fusion_probes

    config = small_config(tmp_path, model={"fusions": (*FUSIONS, QUANTISE)})
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert fusion_probes.failure_of(QUANTISE, config, here) == ""
    scale = joint_probe.triton.norm_of_rows
    monkeypatch.setattr(
        joint_probe.triton,
        "norm_of_rows",
        lambda *arguments: (*scale(*arguments)[:2], scale(*arguments)[2] / 2),
    )
    assert fusion_probes.failure_of(QUANTISE, config, here) == (
        "norm, FP8 e4m3: the joint kernel differs from the two kernels it replaces"
    )


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fused_kernel_that_is_right_passes_its_probe_and_a_wrong_one_is_left_out(
    tmp_path, monkeypatch, name
):
    pytest.importorskip("triton")
    from kernels.fused import triton
    from submission import fusion_probes

    config = small_config(tmp_path, model={"fusions": FUSIONS, "vocab_size": 96})
    monkeypatch.setattr(fusion_probes, "_TOKENS", 4)
    here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert fusion_probes.failure_of(name, config, here) == ""
    wrong = getattr(triton, f"{name}_backward")
    monkeypatch.setattr(triton, f"{name}_backward", lambda *arguments: scaled(wrong(*arguments)))
    assert "differs by 1.0e-03 of its norm from the specification" in fusion_probes.failure_of(
        name, config, here
    )

    def missing(*_):
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setattr(triton, name, missing)
    assert fusion_probes.failure_of(name, config, here) == "RuntimeError: no kernel image"
    monkeypatch.setattr(fusion_probes, "failure_of", lambda one, *_: "wrong" if one == name else "")
    kept, tried = fusion_probes.try_fusions(config, torch.device("cuda"))
    assert set(kept.model.fusions) == set(FUSIONS) - {name}
    assert {one.engine: one.failure for one in tried}[f"fused {name}"] == "wrong"


def scaled(results):
    return tuple(1.001 * x for x in results) if isinstance(results, tuple) else 1.001 * results

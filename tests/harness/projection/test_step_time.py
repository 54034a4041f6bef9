"""The arithmetic of a projection, checked by hand and by what must grow and shrink."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from compliance import reference_points
from harness.config import derived
from harness.config.file import resolve
from harness.projection import systems
from harness.projection.step_time import Accelerator, Constants, Setup, Work, forecast, work

BOARD = Accelerator(
    name="X1",
    tflops={"bf16": 1000.0, "fp8": 2000.0, "mxfp4": 4000.0},
    memory_tb_s=5.0,
    power_w=1400.0,
    link_gb_s=100.0,
    domain=8,
    network_gb_s=25.0,
    maker="Acme",
    source="Acme X1",
)
LOAD = Work(linear=400.0, head=40.0, attention=50.0, weights=10.0, layer_bytes=2.0, key_value=0.5)
KNOWN = Constants(
    fp8=0.5,
    nvfp4=0.4,
    mxfp4=0.5,
    attention=0.25,
    memory_tb=0.5,
    power=0.5,
    near=0.5,
    far=0.8,
    scale_s=1e-4,
    pieces=0.1,
    exchange=2.0,
    fixed_s=0.02,
    weights_tb=0.05,
    forward=0.3,
    forward_s=0.01,
    reference=1.0,
    samples={"mxfp4": 1.1},
)
ONE_NODE = Setup(accelerator=BOARD, accelerators=8, global_batch_size=32, precision="fp8", attention="bf16")


def made(setup=ONE_NODE, known=KNOWN):
    return forecast(setup, LOAD, known)


def test_every_part_of_a_step_is_what_paper_and_pencil_give():
    assert made().parts_s == pytest.approx(
        {
            "linear layers": 4 * 400 / (2000 * 0.5),
            "output head": 4 * 40 / (1000 * 0.55),
            "attention": 4 * 50 / (1000 * 0.25),
            "memory": 4 * 0.5 / 5,
            "pipeline bubble": 0.0,
            "gradient exchange": 0.5 * 10 * (2 + 1) * 7 / 8 / 100,
            "activation exchange": 0.0,
            "weights": 0.05 / 5,
            "fixed": 0.02,
        }
    )
    assert made().step_s == pytest.approx(1.6 + 160 / 550 + 0.8 + 0.4 + 0.13125 + 0.01 + 0.02)


@pytest.mark.parametrize("domain", [8, 16])
def test_gradients_leave_a_domain_through_the_link_of_each_accelerator(domain):
    far = replace(ONE_NODE, accelerators=64, global_batch_size=64, accelerator=replace(BOARD, domain=domain))
    inside = 0.5 * 30 * (domain - 1) / domain / 100
    domains = 64 // domain
    between = 0.8 * 30 * (domains - 1) / domains / (domain * 25)
    assert made(far).parts_s["gradient exchange"] == pytest.approx(inside + between + 64e-4)


def test_tensor_parallelism_exchanges_activations_and_shares_gradients():
    split = replace(ONE_NODE, tensor=2)
    assert made(split).parts_s["activation exchange"] == pytest.approx(2 * 8 * 1 * 4 * 2 / 100)
    assert made(split).parts_s["gradient exchange"] == made().parts_s["gradient exchange"] / 2


def test_context_parallelism_exchanges_keys_and_values_that_tensor_parallelism_shares():
    long = replace(ONE_NODE, context=4)
    assert made(long).parts_s["activation exchange"] == pytest.approx(2 * 3 * 0.5 * 3 * 4 * 2 / 100)
    wide = replace(long, accelerators=16, context=16, global_batch_size=64)
    network = made(wide).parts_s["activation exchange"]
    assert network == pytest.approx(2 * 3 * 0.5 * 15 * 4 * 2 / 25), (
        "sixteen do not fit into a domain of eight"
    )
    both = made(replace(long, tensor=2)).parts_s["activation exchange"]
    assert both == pytest.approx(2 * (8 + 3 * 0.5 * 3 / 2) * 4 * 2 / 100)


def test_a_pipeline_waits_for_its_first_and_last_stage():
    deep = replace(ONE_NODE, pipeline=4)
    busy = sum(made().parts_s[name] for name in ("linear layers", "output head", "attention", "memory"))
    assert made(deep).parts_s["pipeline bubble"] == pytest.approx(busy * 3 / 16)


def test_time_is_steps_and_evaluations():
    found = made()
    stop = reference_points.reference(32).mean_samples + 12_288 / 2
    busy = found.parts_s["linear layers"] + found.parts_s["output head"]
    busy += found.parts_s["attention"] + found.parts_s["memory"]
    assert found.samples_at_stop == stop
    assert found.evaluation_s == pytest.approx(1024 / 8 * (0.3 * busy / 4 + 0.01))
    assert found.time_s == pytest.approx(stop / 32 * found.step_s + stop / 12_288 * found.evaluation_s)


def test_four_bits_are_faster_a_step_and_need_more_samples():
    four = made(replace(ONE_NODE, precision="mxfp4"))
    assert four.parts_s["linear layers"] == made().parts_s["linear layers"] / 2
    assert four.samples_to_target == pytest.approx(1.1 * made().samples_to_target)


@pytest.mark.parametrize(
    ("better", "part", "factor"),
    [
        ({"memory_tb_s": 10.0}, "memory", 0.5),
        ({"link_gb_s": 200.0}, "gradient exchange", 0.5),
        ({"power_w": 350.0}, "linear layers", 2.0),
        ({"power_w": 350.0}, "attention", 2.0),
        ({"power_w": 4000.0}, "linear layers", 1.0),
    ],
)
def test_a_better_board_shortens_what_depends_on_it(better, part, factor):
    quick = made(replace(ONE_NODE, accelerator=replace(BOARD, **better)))
    assert quick.parts_s[part] == pytest.approx(factor * made().parts_s[part])


def test_smaller_pieces_are_slower_and_a_bias_scales_the_whole_step():
    split = made(replace(ONE_NODE, tensor=2, context=2))
    assert split.parts_s["linear layers"] == pytest.approx(1.2 * made().parts_s["linear layers"])
    biased = made(known=replace(KNOWN, bias={"Acme": 0.1, "X1": 0.05, "X1 fp8": -0.05, "X2": 1.0}))
    assert biased.step_s == pytest.approx(math.exp(0.1) * made().step_s)


def test_an_evaluation_of_many_accelerators_is_a_chain_of_forward_passes():
    """128 data parallel ranks evaluate 1,024 sequences in eight passes, each with its constant time."""
    many = replace(ONE_NODE, accelerators=512, tensor=2, context=2, global_batch_size=128)
    busy = sum(made(many).parts_s[name] for name in ("linear layers", "output head", "attention", "memory"))
    assert made(many).evaluation_s == pytest.approx(8 * (0.3 * busy + 0.01))


def test_the_work_is_that_of_the_plan():
    load, config = work(systems.model()), resolve("llama31_8b", aliases={}).config
    assert load.linear + load.head + load.attention == pytest.approx(derived.tflop_per_sequence(config))
    assert (load.linear, load.head, load.attention) == pytest.approx((343.05, 25.82, 52.78), abs=0.05)
    assert load.weights == pytest.approx(8.03, abs=0.01)
    assert load.key_value == 0.5
    assert load.layer_bytes == pytest.approx(32 * 8192 * 4096 * 2 / 1e9)

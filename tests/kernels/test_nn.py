"""The linear of users outside Megatron: its random numbers, torch.compile, checkpointing, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from kernels import nn, presets
from kernels.randomness import SharedRandomness
from kernels.recipe import Format, GemmRecipe, LinearRecipe, Signs, Stochastic

CHANCE = GemmRecipe(Format.MXFP4, hadamard=16, signs=Signs.STEP, stochastic=Stochastic.ALL)
RANDOM = LinearRecipe("random", CHANCE, CHANCE, CHANCE)
NVIDIA = presets.recipe("nvidia-nvfp4")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(recipe=RANDOM, seed=5, **options):
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 64))
    made[2].load_state_dict(made[0].state_dict())
    return nn.quantize_linears(made, recipe=recipe, seed=seed, **options)


def operand(rows=32):
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def trained(function, x):
    """Output and gradients of x after torch's generator was set."""
    torch.manual_seed(7)
    x = x.detach().clone().requires_grad_()
    y = function(x)
    y.square().sum().backward()
    return y.detach(), x.grad


def test_layers_of_a_model_draw_different_words():
    made = model()
    torch.manual_seed(3)
    first = made[0](operand())
    torch.manual_seed(3)
    assert not torch.equal(first, made[2](operand())), "equal weights, the same call, another layer"
    torch.manual_seed(3)
    assert torch.equal(first, made[0](operand()))


def test_every_gemm_operand_rank_and_seed_has_its_own_stream():
    streams = [
        SharedRandomness(seed, rank).of_call(label, 4).draw(stream)
        for seed, rank, label, stream in [
            (5, 0, "a", "fprop left"), (5, 0, "a", "fprop right"), (5, 0, "a", "wgrad left"),
            (5, 0, "b", "fprop left"), (5, 1, "a", "fprop left"), (6, 0, "a", "fprop left"),
        ]
    ]  # fmt: skip
    assert len({draw.seed for draw in streams}) == len(streams)


def test_a_step_changes_the_signs_of_all_layers_alike():
    made = model()
    shared = made[0].randomness
    assert shared is made[2].randomness

    def signs():
        source = made[2].layer_of(None).randomness
        return source.signs(16, per_step=True, device=torch.device("cpu"))

    before = signs()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.0)
    optimizer.register_step_post_hook(shared.step)
    made(operand()).sum().backward()
    optimizer.step()
    assert shared.steps == 1 and not torch.equal(before, signs())


def test_the_state_dict_carries_seed_and_step_and_a_plain_one_still_loads():
    made, other = model(seed=2**64 - 3), model(seed=1)
    made[0].randomness.step()
    other.load_state_dict(made.state_dict())
    assert (other[2].randomness.seed, other[2].randomness.steps) == (2**64 - 3, 1)
    assert torch.equal(trained(made, operand())[1], trained(other, operand())[1])
    plain = {name: value for name, value in made.state_dict().items() if "randomness" not in name}
    assert len(plain) == 4 and other.load_state_dict(plain)
    assert set(model(nn.AMD_TE).state_dict()) == set(plain), "a recipe without chance has nothing to carry"


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_draws_the_words_of_the_first_forward_pass(reentrant):
    made = model()
    plain = trained(lambda x: made(made(x)), operand())
    again = trained(
        lambda x: checkpoint(made, checkpoint(made, x, use_reentrant=reentrant), use_reentrant=reentrant),
        operand(),
    )
    assert all(map(torch.equal, plain, again))


@pytest.mark.parametrize("recipe", [nn.AMD_TE, NVIDIA, RANDOM], ids=["amd-te", "nvidia-nvfp4", "random"])
def test_torch_compile_traces_it_whole_and_gives_the_same_bits(recipe):
    made = model(recipe)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    for rows in (32, 64):
        assert all(map(torch.equal, trained(made, operand(rows)), trained(compiled, operand(rows))))
    assert sum(ran.calls for ran in made[0].layer.ledger.snapshot().values()) == 2 * 2 * 3


def test_a_compiled_linear_follows_autocast():
    made = torch.nn.Sequential(nn.Linear(64, 64))
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            torch.equal(compiled(operand()), made(operand())) and compiled(operand()).dtype == torch.bfloat16
        )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [nn.AMD_TE, NVIDIA], ids=["amd-te", "nvidia-nvfp4"])
def test_inductor_compiles_it_whole_and_trains_alike(recipe):
    made = model(recipe)
    torch._dynamo.reset()
    compiled = torch.compile(made, fullgraph=True, options={"fallback_random": True})
    for plain, traced in zip(trained(made, operand()), trained(compiled, operand()), strict=True):
        assert torch.linalg.norm(plain - traced) < 0.01 * torch.linalg.norm(plain)  # it has a GELU of its own
    own = torch.compile(made, fullgraph=True)
    assert all(map(torch.equal, trained(own, operand()), trained(own, operand()))), "a seed repeats its words"


@pytest.mark.parametrize("recipe", [nn.AMD_TE, NVIDIA], ids=["amd-te", "nvidia-nvfp4"])
def test_the_operators_keep_torchs_contract(recipe):
    made = nn.Linear(64, 32, recipe=recipe)
    call = torch.tensor(5) if made.rounds_by_chance else None
    torch.library.opcheck(torch.ops.fourmark.linear.default, (operand(), made.weight, made._number, call))
    operands = torch.randn(32, 32), operand().detach(), made.weight.detach()  # it has no gradient of its own
    arguments = *operands, made._number, call, True, True
    torch.library.opcheck(torch.ops.fourmark.linear_backward.default, arguments)


def test_a_copy_counts_in_its_own_ledger():
    made = model(nn.AMD_TE)
    twin = copy.deepcopy(made)
    torch.compile(twin, backend="aot_eager", fullgraph=True)(operand())
    assert twin[0].layer.ledger.snapshot() and not made[0].layer.ledger.snapshot()


def test_tokens_and_features_that_are_no_whole_blocks_are_refused_at_once_where_a_gradient_needs_them():
    made, x = nn.Linear(64, 64), operand(7)
    rule = "7 tokens: wgrad in mxfp4 contracts them in blocks; pad them to a multiple of 32"
    with pytest.raises(ValueError, match=rule):
        made(x)
    with pytest.raises(Exception, match=rule):
        torch.compile(made, backend="aot_eager", fullgraph=True)(x)
    with pytest.raises(ValueError, match="40 output features: dgrad in mxfp4"):
        nn.Linear(64, 40)(operand())
    with torch.no_grad():
        assert made(x).shape == (7, 64)
    made.requires_grad_(False)
    assert torch.autograd.grad(made(x).sum(), x)[0].shape == (7, 64)
    fp8 = GemmRecipe(Format.FP8)
    nn.Linear(64, 40, recipe=LinearRecipe("fp8", fp8, fp8, fp8))(x).sum().backward()

"""An engine that raises or multiplies wrongly is passed over before anything is trained with it."""

from __future__ import annotations

import functools

import pytest
import torch

from kernels import architectures
from kernels.architectures import Platform
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.matmul import engine_probe, gemm
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_probe import Probes, failure_of
from kernels.matmul.engine_protocol import Request
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Operand, Signs, Stochastic

CPU = torch.device("cpu")


class Native(Emulated):
    """A library's engine, which multiplies right."""

    name = "library"

    def backend(self, platform, request):
        return "native"


class Missing(Native):
    """As torch's block-scaled product is where torch was built without FBGEMM."""

    def multiply(self, *operands, **options):
        raise NotImplementedError("mxfp4 scaled_mm requires compile with USE_FBGEMM_GENAI\nand more")


class Wrong(Native):
    """Reads the scales of the left operand in another layout: two rows exchanged."""

    def prepare(self, x, rows, columns):
        first, second = super().prepare(x, rows, columns)
        if first is not None and x.size(0) > 1:
            first.values[[0, 1]] = first.values[[1, 0]]
        return first, second


class WrongWhenAdded(Native):
    """Overwrites what it should add to."""

    def multiply(self, left, right, *, accumulate, **options):
        product = super().multiply(left, right, accumulate=None, **options)
        return product if accumulate is None else accumulate.copy_(product)


@pytest.fixture
def engines(monkeypatch):
    """engines(Missing()): a machine whose library is this one, with nothing tried yet."""

    def install(library):
        monkeypatch.setattr(gemm, "ENGINES", (library, Emulated()))
        monkeypatch.setattr(engine_probe, "_on", functools.cache(Probes))
        monkeypatch.setattr(architectures, "of", lambda device: Platform("sm_100"))

    return install


def layer(recipe):
    return Layer(recipe=LinearRecipe("test", recipe, recipe, recipe), label="l", ledger=Ledger())


def ran(made):
    return {row.how.backend: row.how.engine for row in made.ledger.snapshot().values()}


def operands():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 128, generator=generator), torch.randn(96, 128, generator=generator)


@pytest.mark.filterwarnings("ignore:library cannot multiply")
@pytest.mark.parametrize(
    "library", [Missing(), Wrong(), WrongWhenAdded()], ids=lambda one: type(one).__name__
)
def test_an_engine_that_fails_is_passed_over_and_the_next_one_multiplies_right(engines, library):
    engines(library)
    recipe = GemmRecipe(Format.MXFP4, hadamard=16)
    made, (x, w) = layer(recipe), operands()
    y = made.forward(x, w)
    assert ran(made) == {"emulated": "torch"}
    engines(Native())
    right = layer(recipe)
    assert torch.equal(y, right.forward(x, w)) and ran(right) == {"native": "library"}


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (Missing(), "NotImplementedError: mxfp4 scaled_mm requires compile with USE_FBGEMM_GENAI"),
        (Wrong(), "wrong product of rows: row 0, column 0: got "),
        (WrongWhenAdded(), "wrong product of rows, accumulated: row 0, column 0: got "),
        (Native(), ""),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_reason_is_kept_and_told_once(engines, library, reason):
    engines(library)
    probes = engine_probe.of(torch.empty(0))
    quantizers = [GemmRecipe(Format.MXFP4, hadamard=16).quantizer(Gemm.FPROP, one) for one in Operand]
    on, request = Platform("sm_100"), Request(*quantizers, 256, 256, 256)
    if reason:
        with pytest.warns(RuntimeWarning, match="library cannot multiply mxfp4 H16 on cpu") as told:
            assert gemm.choose(on, request, "auto", probes).name == "torch"
        assert len(told) == 1
    assert gemm.choose(on, request, "auto", probes).name == ("torch" if reason else "library")
    tried = {one.engine: one for one in probes.found}
    assert tried["library"].failure.startswith(reason) and bool(tried["library"].failure) == bool(reason)
    assert tried["library"].what == "mxfp4 H16" and "\n" not in tried["library"].failure


@pytest.mark.filterwarnings("ignore:library cannot multiply")
def test_whoever_insists_on_native_hears_why_there_is_none(engines):
    engines(Missing())
    with pytest.raises(
        gemm.BackendError, match=r"library fails its probe: NotImplementedError: .*torch is emulated"
    ):
        made = layer(GemmRecipe(Format.MXFP4))
        Layer(recipe=made.recipe, label="l", ledger=Ledger(), backend="native").forward(*operands())


@pytest.mark.parametrize(
    ("format", "fails"), [(Format.FP8, False), (Format.MXFP4, True)], ids=["fp8", "mxfp4"]
)
def test_fp8_may_be_summed_as_coarsely_as_matrix_units_do(format, fails):
    class Coarse(Native):
        def multiply(self, left, right, *, accumulate, **options):
            magnitudes = left.values.float().abs() @ right.values.float().abs().t()
            for scale in (left.scale, right.scale):
                magnitudes = magnitudes if scale is None else magnitudes * scale
            product = super().multiply(left, right, accumulate=accumulate, **options)
            return (product.float() + 2.0**-9 * magnitudes).to(product.dtype)

    recipe = GemmRecipe(format)
    found = failure_of(Coarse(), *(recipe.quantizer(Gemm.FPROP, one) for one in Operand), CPU)
    assert found.startswith("wrong product") if fails else not found


def test_nothing_is_tried_twice(engines, monkeypatch):
    engines(Native())
    asked = []
    monkeypatch.setattr(engine_probe, "failure_of", lambda engine, *_: asked.append(engine.name) or "")
    made = layer(GemmRecipe(Format.MXFP4))
    for rows in (64, 128, 192):
        made.forward(torch.randn(rows, 128), torch.randn(96, 128))
    assert asked == ["library"]


@pytest.mark.parametrize("format", Format, ids=lambda one: one.value)
@pytest.mark.parametrize("gemm_", Gemm, ids=lambda one: one.value)
def test_the_engine_of_every_machine_passes(format, gemm_):
    recipe = GemmRecipe(format)
    assert failure_of(Emulated(), *(recipe.quantizer(gemm_, one) for one in Operand), CPU) == ""


@pytest.mark.parametrize("options", [
    {"hadamard": 128, "signs": Signs.STEP, "stochastic": Stochastic.ALL}, {"prescale": 0.75, "gain": 1.02},
    {"weight_rows": 32},
], ids=str)  # fmt: skip
def test_what_a_recipe_can_ask_for_passes(options):
    recipe = GemmRecipe(Format.MXFP4, **options)
    for which in Gemm:
        assert failure_of(Emulated(), *(recipe.quantizer(which, one) for one in Operand), CPU) == ""


def test_shapes_without_numbers_are_not_probed():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert engine_probe.of(torch.empty(4, device="meta")) is None
    with FakeTensorMode():
        assert engine_probe.of(torch.empty(4)) is None

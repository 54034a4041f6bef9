"""What kernels/README.md shows runs and prints what it says; its tables are those of the code."""

from __future__ import annotations

import re

import pytest
import torch

from harness.base.paths import ROOT
from kernels import presets
from kernels.architectures import Platform
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import choose
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Gemm, GemmRecipe, Operand, Quantizer, ScaleRule

README = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def rows(title):
    """The cells of the first table of a section."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_an_example_runs_and_prints_what_it_says(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    promised = [line.removeprefix("# ") for line in code.splitlines() if line.startswith("# ")]
    assert capsys.readouterr().out.splitlines() == promised


def test_training_takes_ten_lines():
    (block,) = [code for code in BLOCKS if "loss.backward" in code]
    lines = block.partition("torch.manual_seed(0)\n")[2].partition("print(")[0].splitlines()
    assert len(lines) <= 10


def test_the_table_of_engines_is_what_would_be_chosen():
    head, _, *body = rows("Which engine multiplies on which device")
    for target, *cells in body:
        on = Platform(target)
        for name, cell in zip(head[1:], cells, strict=True):
            recipe = GemmRecipe(Format(name.lower()))
            pair = [recipe.quantizer(Gemm.FPROP, operand) for operand in Operand]
            request = Request(*pair, 4096, 4096, 4096)
            engine = choose(on, request)
            backend = engine.backend(on, request)
            assert cell == (engine.name if backend == "native" else backend), f"{target} {name}"


def test_the_table_of_presets_has_all_of_them_and_their_formats():
    body = rows("Recipes of papers")[2:]
    assert [row[0] for row in body] == list(presets.PRESETS)
    assert [row[1].lower() for row in body] == [
        preset.recipe.wgrad.format.value for preset in presets.PRESETS.values()
    ]


def test_the_table_of_options_has_every_option_of_a_recipe():
    named = {name for row in rows("Write your own recipe")[2:] for name in row[0].split(", ")}
    assert named == set(GemmRecipe.__dataclass_fields__)


def test_a_scale_rule_is_one_number_for_every_implementation():
    triton = pytest.importorskip("kernels.quantize.triton")
    from kernels.operand_use import Use
    from tests.kernels.conftest import DEVICE

    class Mine:
        value, compares_errors = "mine", False

        def carry(self, element):
            return 0x100000  # between floor and even

    quantizer = Quantizer()
    object.__setattr__(quantizer, "scale_rule", Mine())  # as if it were a member of ScaleRule
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted = reference.quantize(x, quantizer)
    on_cpu, (packed, _) = cpu.quantize(x, quantizer), triton.quantize(x.to(DEVICE), Use(quantizer), None)
    for found in (on_cpu, packed):
        assert torch.equal(found.elements.cpu(), wanted.elements)
        assert torch.equal(found.scales.cpu(), wanted.scales)
    for rule in (ScaleRule.FLOOR, ScaleRule.EVEN):
        assert not torch.equal(wanted.scales, reference.quantize(x, Quantizer(scale_rule=rule)).scales)

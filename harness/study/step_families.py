"""The step budget by kernel family, before and after a change, with the time that each family implies on a chip.

`python -m harness.study.step_families BEFORE.json AFTER.json --preset P --arm A --into PAGE.md` writes the table in the
place of the page's last one for this preset and arm; the files are answers of `bench --count --json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import UsageError
from harness.config import memory
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.contract.config import Config
from harness.contract.files import replace_text
from harness.machine import facts

CHIPS = ("MI355X", "B200", "H100")
_FAMILIES = {  # by the start of an operator's name, the first that fits
    "quantise": ("quantize_kernel", "dequantize_kernel", "cast_kernel", "scale_kernel", "aminmax", "joint_"),
    "products": ("_scaled_mm", "plain", "descriptor", "mm", "addmm"),
    "attention": ("attention",),
    "norms": ("_fused_rms_norm", "norm_kernel", "norm_backward", "column_sums"),
    "RoPE, SwiGLU, cross entropy": ("rope_", "swiglu_", "cross_entropy_"),
    "optimizer": ("_foreach", "_fused_adamw"),
}
_REST = "element-wise and copies"


@dataclass(frozen=True)
class Family:
    """Of one rank and step."""

    launches: int = 0
    bytes: int = 0
    flops: Mapping[str, float] | None = None  # by format


def families(budget: Mapping[str, Any], config: Config, arm: str) -> dict[str, Family]:
    """The operators of one budget, gathered.

    Args:
        budget: an entry of `budgets` in the answer of `bench --count --json`.
    """
    found = {name: Family() for name in (*_FAMILIES, "collectives", _REST)}
    flops = {"products": _product_flops(config, arm), "attention": {"bf16": _attention_flops(config)}}
    for operator, row in budget["operators"].items():
        name = "collectives" if operator in budget["collectives"] else _family(operator)
        old = found[name]
        found[name] = Family(old.launches + row["launches"], old.bytes + row["bytes"], flops.get(name))
    return found


def _family(operator: str) -> str:
    return next((name for name, starts in _FAMILIES.items() if operator.startswith(starts)), _REST)


def _tokens(config: Config) -> int:
    batch = config.batch
    return config.micro_batches * batch.micro_batch_size * config.model.sequence_length


def _product_flops(config: Config, arm: str) -> dict[str, float]:
    """Of the linears in the arm's format and of the head in BF16, on one rank."""
    model, parallel = config.model, config.parallelism
    each = 6.0 * _tokens(config) / parallel.tensor
    recipe = config.recipes[config.arms[arm].recipe]
    found = {"bf16": each * model.hidden_size * model.vocab_size}
    layers = each * model.layers // parallel.pipeline * memory.layer_matrices(config)
    found[recipe.fprop.format] = found.get(recipe.fprop.format, 0.0) + layers
    return found


def _attention_flops(config: Config) -> float:
    """Causal: two products forward and five backward, of half of the positions."""
    model, parallel = config.model, config.parallelism
    layers = model.layers // parallel.pipeline
    return 7.0 * _tokens(config) * model.sequence_length * model.hidden_size * layers / parallel.tensor


def implied_ms(family: Family, chip: str) -> float:
    """At the chip's bandwidth or its matrix rate, whichever takes longer; a format it lacks runs as BF16."""
    known = facts.accelerators()[chip]
    assert known.bandwidth_gb_s is not None
    moving = family.bytes / (known.bandwidth_gb_s * 1e9)
    rates = known.dense_tflops
    computing = sum(
        flops / (rates.get(name, rates["bf16"]) * 1e12) for name, flops in (family.flops or {}).items()
    )
    return 1000 * max(moving, computing)


def table(before: Mapping[str, Any], after: Mapping[str, Any], config: Config, arm: str) -> str:
    """Markdown: launches, GB and implied milliseconds of each family, before and after."""
    first, second = (families(budget, config, arm) for budget in (before, after))
    lines = [
        "| family | launches | GB moved | " + " | ".join(f"ms on {chip}" for chip in CHIPS) + " |",
        "|---" * (3 + len(CHIPS)) + "|",
        *(_row(name, [first[name]], [second[name]]) for name in first),
        _row("sum", list(first.values()), list(second.values())),
    ]
    return "\n".join(lines)


def _row(name: str, before: list[Family], after: list[Family]) -> str:
    cells = [name]
    cells.append(" -> ".join(f"{sum(one.launches for one in side):,}" for side in (before, after)))
    cells.append(" -> ".join(f"{sum(one.bytes for one in side) / 1e9:,.0f}" for side in (before, after)))
    for chip in CHIPS:
        sides = (sum(implied_ms(one, chip) for one in side) for side in (before, after))
        cells.append(" -> ".join(f"{side:,.0f}" for side in sides))
    return f"| {' | '.join(cells)} |"


def _budget(path: Path, arm: str) -> Mapping[str, Any]:
    found: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["budgets"]
    for budget in found:
        if budget["arm"] == arm:
            return budget
    raise UsageError(
        f"{path}: found no budget of arm {arm}; count it with `bench --count --arm {arm} --json`"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.study.step_families")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    config = resolve(BENCHMARK_PROFILE, preset=arguments.preset).config
    before, after = (_budget(path, arguments.arm) for path in (arguments.before, arguments.after))
    replace_text(arguments.into, with_table(
        arguments.into.read_text(encoding="utf-8"),
        f"{arguments.preset}, {arguments.arm}", table(before, after, config, arguments.arm),
    ))  # fmt: skip


def with_table(page: str, name: str, rows: str) -> str:
    """The page with the table of this name in the place of the one it has, or at its end."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    old_start, old_end = page.find(begin), page.find(end)
    if old_start < 0 or old_end < 0:
        return f"{page.rstrip()}\n\n{begin}{rows}{end}\n"
    return page[: old_start + len(begin)] + rows + page[old_end:]


if __name__ == "__main__":
    main()

"""Proof of precision: compares the format and number of executed GEMMs with what the recipe and the steps demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from harness.contract.attempt_rows import ProvenGemm
from kernels.ledger import Ledger, Ran
from kernels.recipe import Gemm, LinearRecipe, Operand, Quantizer, Rounding, TensorScale
from submission.phases import Phase


class ProofError(Exception):
    """A GEMM ran in another format than its recipe names, or not as often as the steps demand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """The GEMMs that must have run since the ledger was cleared."""

    labels: Sequence[str]  # every linear of this rank's transformer layers
    phase: Phase
    forward_passes: int  # micro batches of training and of evaluation
    backward_passes: int  # micro batches of training
    recomputed: str = ""  # suffix of the labels whose Fprop runs again in the backward pass; "" if none does


def verify(ledger: Ledger, demand: Demand) -> None:
    """Compare the ledger with the demand.

    Raises:
        ProofError: they differ; the message names the first GEMM.
    """
    ran = ledger.snapshot()
    for label in demand.labels:
        recipe = demand.phase.of(label)
        for gemm in Gemm:
            wanted = demand.forward_passes if gemm is Gemm.FPROP else demand.backward_passes
            if gemm is Gemm.FPROP and demand.recomputed and label.endswith(demand.recomputed):
                wanted += demand.backward_passes
            _verify_one(label, gemm, ran.get((label, gemm)), recipe, wanted)
    strangers = {label for label, _ in ran} - set(demand.labels)
    if strangers:
        raise ProofError(f"GEMMs of a recipe ran outside the transformer layers: {sorted(strangers)}")


def _verify_one(label: str, gemm: Gemm, ran: Ran | None, recipe: LinearRecipe, wanted: int) -> None:
    where = f"{label} {gemm.value}"
    if ran is None:
        if wanted:
            raise ProofError(
                f"{where}: the recipe '{recipe.name}' was not applied: the ledger has no such GEMM"
            )
        return
    expected = [recipe[gemm].quantizer(gemm, operand) for operand in Operand]
    found = [ran.how.left, ran.how.right]
    for operand, got, want in zip(Operand, found, expected, strict=True):
        if got != want:
            raise ProofError(
                f"{where}: ran {_described(got)}, the recipe '{recipe.name}' says {_described(want)} "
                f"({operand.value} operand)"
            )
    if ran.how.gain != recipe[gemm].gain:
        raise ProofError(
            f"{where}: ran with gain {ran.how.gain}, the recipe '{recipe.name}' says {recipe[gemm].gain}"
        )
    if ran.how.mean_split != recipe[gemm].mean_split:
        raise ProofError(
            f"{where}: ran with mean_split {ran.how.mean_split}, the recipe '{recipe.name}' says "
            f"{recipe[gemm].mean_split}"
        )
    if ran.calls != wanted:
        raise ProofError(f"{where}: ran {ran.calls} times, the steps demand {wanted}")


def gather(ledger: Ledger) -> list[ProvenGemm]:
    """How GEMMs ran on all ranks: one row per layer and GEMM, with calls per rank.

    Raises:
        ProofError: ranks that hold parts of the same layer ran it differently.
    """
    mine = {key: _proven(key, ran) for key, ran in ledger.snapshot().items()}
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    merged: dict[tuple[str, Gemm], ProvenGemm] = {}
    for rank, part in enumerate(everyone):
        for key, row in part.items():
            if merged.setdefault(key, row) != row:
                raise ProofError(
                    f"{key[0]} {key[1].value}: rank {rank} ran {row}, another rank {merged[key]}"
                )
    order = [gemm.value for gemm in Gemm]
    return sorted(merged.values(), key=lambda row: (natural(row.layer), order.index(row.gemm)))


def _described(quantizer: Quantizer) -> str:
    """A quantizer as text: the format, then every option that differs from its default."""
    parts = [f"{quantizer.format.value} with transform {quantizer.transform}"]
    if quantizer.format.is_blocked:
        parts += [f"scale rule {quantizer.scale_rule.value}", f"{quantizer.rounding.value} rounding"]
        of_tensor = quantizer.tensor_scale
        parts += [f"tensor scale {of_tensor.value}"] * (of_tensor is not TensorScale.AMAX)
        parts += [f"pre-scale {quantizer.prescale}"] * (quantizer.prescale != 1.0)
        parts += [f"blocks of {quantizer.rows} rows"] * (quantizer.rows > 1)
    else:
        parts[0] += f" ({quantizer.element.name.upper()})"
    return ", ".join(parts)


def _proven(key: tuple[str, Gemm], ran: Ran) -> ProvenGemm:
    how = ran.how
    chance = [
        operand.value
        for operand, quantizer in zip(Operand, (how.left, how.right), strict=True)
        if quantizer.rounding.is_random
    ]
    by = next((one.rounding for one in (how.left, how.right) if one.rounding.is_random), Rounding.NEAREST)
    return ProvenGemm(
        layer=key[0],
        gemm=key[1].value,
        format=how.format.value,
        transform=how.transform,
        scale_rule=how.left.scale_rule.value if how.format.is_blocked else None,
        rounding=f"{by.value} {' and '.join(chance)}" if chance else by.value,
        prescale=how.left.prescale,
        block_rows=how.right.rows,
        gain=how.gain,
        backend=how.backend,
        engine=how.engine,
        calls=ran.calls,
    )


def natural(label: str) -> tuple[int, str]:
    """Sorts labels `layers.<n>.<name>` by layer."""
    _, number, rest = label.split(".", 2)
    return int(number), rest

"""Megatron's parallel linears with our three GEMMs, each in the format its recipe says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from harness.config import Config
from kernels.linear import linear
from kernels.recipe import LinearRecipe, from_mapping
from kernels.registry import Ledger


def recipe_of(config: Config, arm: str) -> LinearRecipe:
    name = config.arms[arm].recipe
    return from_mapping(name, dataclasses.asdict(config.recipes[name]))


class Linears:
    """The two linear classes of a model under one recipe, and the ledger of what they ran.

    Only `_forward_impl` is overridden: initialisation, collectives around the layer, bias and checkpoints stay
    Megatron's. The classes are made per instance because Megatron constructs them itself, without a place for ours.
    """

    def __init__(self, recipe: LinearRecipe):
        self.recipe, self.ledger = recipe, Ledger()
        body = {"_forward_impl": self._forward_impl()}
        self.column: type = type("RecipeColumnParallelLinear", (ColumnParallelLinear,), dict(body))
        self.row: type = type("RecipeRowParallelLinear", (RowParallelLinear,), dict(body))

    def _forward_impl(self) -> Any:
        recipe, ledger = self.recipe, self.ledger

        def forward(layer: Any, input: Any, weight: Any, *_: Any, **options: Any) -> Any:
            if options.get("grad_output_buffer") is not None or options.get("bias") is not None:
                raise ValueError(
                    f"{layer.label}: deferred embedding gradients and biases are not part of this model"
                )
            return linear(
                input,
                weight,
                recipe=recipe,
                label=layer.label,
                ledger=ledger,
                fuse_wgrad=hasattr(weight, "main_grad"),
                allreduce_dgrad=options["allreduce_dgrad"],
                sequence_parallel=options["sequence_parallel"],
                tp_group=options["tp_group"],
            )

        return forward

    def name(self, model: torch.nn.Module) -> None:
        """Give every linear of the transformer layers its label, numbered over all pipeline stages."""
        for label, module in linear_layers(model):
            module.label = label


def linear_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Every parallel linear inside the transformer layers, whoever implements it: what a recipe must reach."""
    for layer in model.decoder.layers:  # type: ignore[union-attr]
        for name, module in layer.named_modules():
            if isinstance(module, (ColumnParallelLinear, RowParallelLinear)):
                yield f"layers.{layer.layer_number - 1}.{name}", module

"""A torch.nn.Linear whose three GEMMs run in the formats of a recipe."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import linear_op
from kernels.deoscillation import DeOscillation, Settings, Weight, quantizer_of
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.presets import AMD_TE
from kernels.randomness import SharedRandomness, call_number
from kernels.recipe import LinearRecipe, Stochastic

_STATE = "randomness"  # key of a layer's state_dict


class Linear(torch.nn.Linear):
    """torch.nn.Linear with quantised GEMMs; in_features, out_features and tokens in multiples of 32.

    torch.compile traces it without a graph break. Recipes that draw random numbers add `randomness` to the state_dict.

    Args:
        recipe: formats and transforms of Fprop, Dgrad and Wgrad.
        backend: "auto" for any kind of engine, or only "native" | "emulated" | "reference".
        seed: of the random numbers; needed by recipes that draw any.
        randomness: shared by the layers of a model, instead of a seed; its step() follows each optimizer step.
        label: the layer's name in its ledger and in the randomness; layers of one randomness need different names.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        recipe: LinearRecipe = AMD_TE,
        backend: str = "auto",
        seed: int = 0,
        randomness: SharedRandomness | None = None,
        label: str = "linear",
        **factory: torch.device | torch.dtype | None,
    ):
        super().__init__(in_features, out_features, bias, **factory)
        self.randomness = SharedRandomness(seed) if randomness is None else randomness
        self.layer = Layer(recipe=recipe, label=label, ledger=Ledger(), backend=backend)
        self._number = linear_op.register(self)

    @classmethod
    def from_linear(cls, module: torch.nn.Linear, **options: Any) -> Linear:
        """Give an existing layer a recipe; the new layer shares the old one's parameters."""
        made = cls(
            module.in_features,
            module.out_features,
            module.bias is not None,
            device=torch.device("meta"),
            **options,
        )
        made.weight, made.bias = module.weight, module.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        """(.., in_features) -> (.., out_features) in the input's type, or in that of torch.autocast.

        Raises:
            ValueError: tokens or features that are not whole blocks, where a gradient needs them.
        """
        x = input.reshape(-1, self.in_features)
        call = call_number() if self.rounds_by_chance else None
        compiling = torch.compiler.is_compiling()
        y = self._traced(x, call) if compiling else linear(x, self.weight, self.layer_of(call))
        y = y.view(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def rounds_by_chance(self) -> bool:
        recipe = self.layer.recipe
        return any(
            one.stochastic is not Stochastic.NONE for one in (recipe.fprop, recipe.dgrad, recipe.wgrad)
        )

    def layer_of(self, call: Tensor | None) -> Layer:
        """The layer with the random numbers of one forward pass and its backward pass."""
        source = self.randomness.of_call(self.layer.label, 0 if call is None else int(call))
        return dataclasses.replace(self.layer, randomness=source)

    def _traced(self, x: Tensor, call: Tensor | None) -> Tensor:
        where, weight = x.device.type, self.weight
        if torch.is_autocast_enabled(where):
            dtype = torch.get_autocast_dtype(where)
            x, weight = x.to(dtype), weight.to(dtype)
        needed = [torch.is_grad_enabled() and operand.requires_grad for operand in (x, weight)]
        return torch.ops.fourmark.linear(x, weight, self._number, call, *needed)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._number = linear_op.register(self)  # a copy is another layer

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.layer.recipe.is_random:
            destination[prefix + _STATE] = self.randomness.state()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        state = state_dict.pop(prefix + _STATE, None)  # absent in a checkpoint of torch.nn.Linear
        if state is not None:
            self.randomness.load_state(state)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def quantize_linears(
    model: torch.nn.Module, *, seed: int = 0, skip: Sequence[str] = (), **options: Any
) -> torch.nn.Module:
    """Replace every torch.nn.Linear of a model by a `Linear` with the same parameters, in place.

    All of them share one randomness, the attribute `randomness` of each: call its step() after each optimizer step.

    Args:
        skip: names of linears to leave alone, with * and ? as in file names: ("lm_head", "layers.2[6-9].*").
        options: of `Linear`: recipe, backend, randomness.

    Raises:
        ValueError: an entry of `skip` that names no linear.
    """
    options.setdefault("randomness", SharedRandomness(seed))
    found = [
        (module, child_name, f"{name}.{child_name}" if name else child_name)
        for name, module in model.named_modules()
        for child_name, child in module.named_children()
        if type(child) is torch.nn.Linear
    ]
    for pattern in skip:
        if not any(fnmatch.fnmatchcase(label, pattern) for *_, label in found):
            raise ValueError(f"skip: '{pattern}' names no torch.nn.Linear of this model")
    for module, child_name, label in found:
        if not any(fnmatch.fnmatchcase(label, pattern) for pattern in skip):
            made = Linear.from_linear(getattr(module, child_name), label=label, **options)
            setattr(module, child_name, made)
    return model


def deoscillate(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    ratio: float = 4.0,
    start: int = 0,
) -> DeOscillation:
    """Let an optimizer set weights of this model's `Linear`s that oscillate to their quantised value.

    Args:
        optimizer: updates the weights themselves, in FP32.
        steps, ratio, start: see kernels.deoscillation.Settings.

    Raises:
        ValueError: no FP32 weight of a `Linear`, or a recipe whose weights have no fixed quantised value.
    """
    weights = [
        Weight(module.weight, module.weight, quantizer_of(module.layer.recipe.fprop))
        for module in model.modules()
        if isinstance(module, Linear) and module.weight.dtype is torch.float32
    ]
    if not weights:
        raise ValueError("de-oscillation: the model has no quantised linear with an FP32 weight")
    made, done = DeOscillation(Settings(steps=steps, ratio=ratio, start=start), weights), itertools.count()
    optimizer.register_step_pre_hook(lambda *_: made.before_update(next(done)))
    optimizer.register_step_post_hook(lambda *_: made.after_update())
    return made

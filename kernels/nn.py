"""A torch.nn.Linear whose three GEMMs run in the formats of a recipe."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.philox import Randomness
from kernels.recipe import Format, GemmRecipe, LinearRecipe

_GEMM = GemmRecipe(Format.MXFP4, hadamard=16)
AMD_TE = LinearRecipe(
    "amd-te", _GEMM, _GEMM, _GEMM
)  # the recipe that AMD submitted with ROCm Transformer Engine in round v6.0


class Linear(torch.nn.Linear):
    """torch.nn.Linear with quantised GEMMs; in_features, out_features and tokens in multiples of 32.

    Args:
        recipe: formats and transforms of Fprop, Dgrad and Wgrad.
        backend: "auto" for any kind of engine, or only "native" | "emulated" | "reference".
        seed: of the random numbers; needed by recipes that draw any.
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
        **factory: torch.device | torch.dtype | None,
    ):
        super().__init__(in_features, out_features, bias, **factory)
        self.layer = Layer(
            recipe=recipe, label="linear", ledger=Ledger(), randomness=Randomness(seed), backend=backend
        )

    @classmethod
    def from_linear(cls, module: torch.nn.Linear, **options: LinearRecipe | str | int) -> Linear:
        """Give an existing layer a recipe; the new layer shares the old one's parameters."""
        made = cls(module.in_features, module.out_features, module.bias is not None, device=torch.device("meta"),
                   **options)  # type: ignore[arg-type]  # fmt: skip
        made.weight, made.bias = module.weight, module.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        """(.., in_features) -> (.., out_features) in the input's type, or in that of torch.autocast."""
        y = linear(input.reshape(-1, self.in_features), self.weight, self.layer)
        y = y.view(*input.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def quantize_linears(model: torch.nn.Module, **options: LinearRecipe | str | int) -> torch.nn.Module:
    """Replace every torch.nn.Linear of a model by a `Linear` with the same parameters, in place."""
    for name, child in model.named_children():
        if type(child) is torch.nn.Linear:
            setattr(model, name, Linear.from_linear(child, **options))
        else:
            quantize_linears(child, **options)
    return model

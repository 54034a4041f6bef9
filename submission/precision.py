"""Megatron's parallel linears with our three GEMMs, each in the format that the recipe names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

from kernels.fused.deferred import joins
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.observe.observer import Observer
from kernels.philox import Randomness
from kernels.recipe import Gemm, Operand
from kernels.weights import WeightCache
from submission.phases import Phase
from submission.recompute import FC1, Outputs

_ATTENTION_OUTPUT = "self_attention.linear_proj"  # the linear whose input is the output of attention
PARALLEL_LINEARS: tuple[type, ...] = (ColumnParallelLinear, RowParallelLinear)


class Linears:
    """The two linear classes of a model under an arm's recipes, the ledger of what ran, and the quantised weights.

    Only `_forward_impl` is overridden: initialisation, collectives around the layer, bias and checkpoints stay
    Megatron's. Each instance creates its own classes, because Megatron's constructor calls cannot pass an instance.

    Args:
        phases: in order; the first one is entered.
        seed: of the run, for recipes that draw random numbers; every rank draws its own roundings and the same signs.
        backend: "auto", or "native" | "emulated" | "reference" to require one.
        keep_weights: keep quantised weights from micro batch to micro batch, which costs memory.
        recomputed: takes the outputs of fc1, which autograd must not keep.
        joint: quantise a norm's or SwiGLU's result where it is computed, in formats that have a joint kernel.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        *,
        seed: int = 0,
        rank: int = 0,
        backend: str = "auto",
        keep_weights: bool = True,
        recomputed: Outputs | None = None,
        joint: bool = False,
    ):
        self.phases, self.phase = tuple(phases), phases[0]
        self.ledger, self.backend = Ledger(), backend
        self._weights = WeightCache() if keep_weights else None
        self._randomness = Randomness(seed, rank)
        self.recomputed, self._joint = recomputed, joint
        self.observer: Observer | None = None  # is shown every GEMM from now on
        body = {
            "_forward_impl": self._forward_impl(),
            "joins_input": lambda layer: self._joins(layer, Gemm.FPROP),
            "joins_gradient": lambda layer: self._joins(layer, Gemm.DGRAD),
        }
        self.column: type = type("RecipeColumnParallelLinear", (ColumnParallelLinear,), dict(body))
        self.row: type = type("RecipeRowParallelLinear", (RowParallelLinear,), dict(body))

    def megatron_options(self) -> dict[str, Any]:
        """Options that these linears need in Megatron's TransformerConfig, in addition to the model's."""
        return {}

    def enter(self, phase: Phase) -> None:
        """Use another phase's recipe from the next GEMM on."""
        self.phase = phase

    def due(self) -> Phase:
        """The phase of the next optimizer step."""
        return [phase for phase in self.phases if phase.first_step <= self._randomness.step][-1]

    def weights_changed(self) -> None:
        """Call after every optimizer step: clears cached weights, because torch does not count Megatron's writes."""
        if self._weights is not None:
            self._weights.changed()
        self._randomness.step += 1

    def begin_pass(self) -> None:
        """Call before the forward passes of a step or an evaluation.

        Weights that an evaluation quantised are quantised again, so that every step makes the same launches.
        """
        if self._weights is not None:
            self._weights.changed()
        self._randomness.begin_pass()

    def start_over(self) -> None:
        """Reset everything except the ledger: weights are quantised again, and random numbers start from the first."""
        if self._weights is not None:
            self._weights.changed()
        self._randomness.go_on(step=0, used=0)

    @property
    def steps(self) -> int:
        """Number of optimizer steps so far."""
        return self._randomness.step

    @property
    def drawn(self) -> int:
        """Number of random tensors that this rank has drawn."""
        return self._randomness._used

    def skip_draws(self, count: int) -> None:
        """Count the random tensors of a replayed graph."""
        self._randomness.skip(count)

    def go_on(self, *, step: int, drawn: int) -> None:
        """Continue from a checkpoint with other weights, after `step` optimizer steps and `drawn` random tensors."""
        if self._weights is not None:
            self._weights.changed()
        self._randomness.go_on(step=step, used=drawn)
        self.enter(self.due())

    def _joins(self, layer: Any, which: Gemm) -> bool:
        """Whether this GEMM and Wgrad quantise their common operand in a way that has a joint kernel.

        Under sequence parallelism the ranks exchange inputs in BF16; an observer looks at every operand in BF16. The
        mean of X, and with it the sums of dY, are known only after all values are.
        """
        recipe = self.phase.of(layer.label)
        gathers = which is Gemm.FPROP and layer.sequence_parallel and isinstance(layer, ColumnParallelLinear)
        splits = recipe[which].mean_split or recipe.wgrad.mean_split
        if not self._joint or self.observer is not None or gathers or splits:
            return False
        first = recipe[which].quantizer(which, Operand.LEFT)
        second = recipe.wgrad.quantizer(Gemm.WGRAD, Operand.RIGHT if which is Gemm.FPROP else Operand.LEFT)
        return first.format is second.format and all(
            joins(one, layer.weight.device) for one in (first, second)
        )

    def _layer(self, label: str) -> Layer:
        return Layer(
            recipe=self.phase.of(label),
            label=label,
            ledger=self.ledger,
            randomness=self._randomness,
            weights=self._weights,
            backend=self.backend,
            observer=self.observer,
        )

    def _forward_impl(self) -> Any:
        linears = self

        def forward(layer: Any, input: Any, weight: Any, *_: Any, **options: Any) -> Any:
            if options.get("grad_output_buffer") is not None or options.get("bias") is not None:
                raise ValueError(
                    f"{layer.label}: deferred embedding gradients and biases are not supported; turn them off"
                )
            return linear(
                input,
                weight,
                linears._layer(layer.label),
                fuse_wgrad=hasattr(weight, "main_grad"),
                allreduce_dgrad=options["allreduce_dgrad"],
                sequence_parallel=options["sequence_parallel"],
                tp_group=options["tp_group"],
                # attention keeps its output for its own backward pass; a view of it costs nothing
                recompute=linears.recomputed.remember
                if layer.label.endswith(FC1) and linears.recomputed
                else None,
                keeps_input=layer.label.endswith(_ATTENTION_OUTPUT) and input._is_view(),
            )

        return forward

    def name(self, model: torch.nn.Module) -> None:
        """Label every linear of the transformer layers; layers are numbered over all pipeline stages."""
        for label, module in linear_layers(model, PARALLEL_LINEARS):
            module.label = label


def linear_layers(model: torch.nn.Module, kinds: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    """Every linear of these classes inside the transformer layers, with its label."""
    for layer in model.decoder.layers:  # type: ignore[union-attr]
        for name, module in layer.named_modules():
            if isinstance(module, kinds):
                yield f"layers.{layer.layer_number - 1}.{name}", module

"""Prepares what `study replay`, `forward` and `fork` measure: a model at fixed weights, and its next micro batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.contract import attempt_rows, file_names
from harness.contract.config import Config
from harness.contract.environment import Ranks
from harness.contract.replay_rows import Quantised, ReplayAsked, ReplayCell, read_asked
from kernels.architectures import Platform
from kernels.layer import Layer
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.operand_use import Use
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, Quantizer
from submission import device
from submission.batches import Batch
from submission.checkpoint import checkpoint
from submission.optimizer import second_moments
from submission.phases import EXEMPT, Phase, phases_of
from submission.precision import Linears
from submission.step import Trainer

EXACT_CELL, EXACT_PHASE = ReplayCell(name="exact", arm=""), Phase(recipe=EXEMPT)
SIDES: Mapping[Gemm, tuple[Quantised, Quantised]] = {
    Gemm.FPROP: (Quantised.X, Quantised.W),
    Gemm.DGRAD: (Quantised.DY, Quantised.W),
    Gemm.WGRAD: (Quantised.DY, Quantised.X),
}
_OUTLIERS = 64  # one channel of so many


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A trained model and what comes next.

    Args:
        stream: the next micro batches of the training data.
        second_moments: AdamW's v by linear layer; empty before the first step.
        phases: cell -> its recipe.
    """

    directory: Path
    config: Config
    asked: ReplayAsked
    seed: int
    trainer: Trainer
    linears: OperandLinears
    stream: Iterator[Batch]
    held_out: Iterator[Batch]
    second_moments: Mapping[str, Tensor]
    phases: Mapping[str, Phase]


def opened(directory: Path) -> Session:
    """Train, or load a checkpoint, as the files in the directory ask."""
    told, asked = attempt_rows.read_config(directory / file_names.CONFIG), read_asked(directory)
    device.install()
    from submission import parallel
    from submission.assemble import assemble
    from submission.batches import batches, index_datasets

    config, run = told.config, told.run
    seed = run.seed or 0
    home = parallel.initialize(config, Ranks.from_environment())
    parallel.seed_everything(seed)
    linears = OperandLinears(phases_of(config, run.arm), seed=seed, backend=config.arms[run.arm].backend)
    trainer = assemble(config, linears, home)
    with device.megatron():
        data, held_out = index_datasets(config, seed=seed, cache=directory / file_names.INDEX_CACHE)
    samples = 0
    if asked.checkpoint:
        run_of_it = checkpoint.Run(config=config, arm=run.arm, seed=seed)
        samples = checkpoint.read(trainer, run_of_it, Path(asked.checkpoint))
    size = config.batch.micro_batch_size
    stream = batches(data, micro_batch_size=size, total=config.train_samples, first=samples)
    _train(trainer, stream, asked.train_steps)
    moments = _by_linear(trainer)
    if asked.outlier_factor != 1:
        _inject(trainer, moments, asked.outlier_factor)
    return Session(
        directory=directory,
        config=config,
        asked=asked,
        seed=seed,
        trainer=trainer,
        linears=linears,
        stream=stream,
        held_out=batches(held_out, micro_batch_size=size, total=config.evaluation.sequences),
        second_moments=moments,
        phases={cell.name: phases_of(config, cell.arm)[0] for cell in asked.cells},
    )


def _train(trainer: Trainer, stream: Iterator[Batch], steps: int) -> None:
    from submission.step import train_step

    for step in range(steps):
        trainer.linears.enter(trainer.linears.due())
        found = train_step(trainer, stream)
        if step % 50 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}: loss {found.loss:.3f}", file=sys.stderr, flush=True)


def linears_by_label(trainer: Trainer) -> dict[str, Any]:
    modules = dict(trainer.model.module.named_modules()).values()
    return {module.label: module for module in modules if hasattr(module, "label")}


def _by_linear(trainer: Trainer) -> dict[str, Tensor]:
    of = {id(parameter): moment for parameter, moment in second_moments(trainer.optimizer)}
    found = {label: of.get(id(module.weight)) for label, module in sorted(linears_by_label(trainer).items())}
    return {label: moment.clone() for label, moment in found.items() if moment is not None}


def _inject(trainer: Trainer, moments: Mapping[str, Tensor], factor: float) -> None:
    """Multiply channels of the norms' outputs, and divide the weights that read them: the same exact function.

    A gradient of such a weight grows by the factor, so AdamW's v grows by its square.
    """
    labels = linears_by_label(trainer)
    with torch.no_grad():
        for number, layer in enumerate(trainer.model.module.decoder.layers):
            for norm, name in (
                (layer.input_layernorm, "self_attention.linear_qkv"),
                (layer.pre_mlp_layernorm, "mlp.linear_fc1"),
            ):
                label = f"layers.{number}.{name}"
                channels = slice(_OUTLIERS // 4, None, _OUTLIERS)
                norm.weight[channels] *= factor
                labels[label].weight[:, channels] /= factor
                if label in moments:
                    moments[label][:, channels] *= factor**2
    trainer.linears.weights_changed()


class OperandLinears(Linears):
    """Linears in which some operands stay exact. `quantised` says which; a change applies to every later GEMM."""

    quantised: Quantised = Quantised.BOTH

    def choose(self, cell: ReplayCell, phase: Phase) -> None:
        self.quantised = cell.operand
        self.enter(phase)

    def _layer(self, label: str) -> Layer:
        layer = super()._layer(label)
        if self.quantised is Quantised.BOTH:
            return layer
        options = {name: getattr(layer, name) for name in Layer.__dataclass_fields__}
        return _OperandLayer(**options, quantised=self.quantised)


@dataclass(frozen=True, kw_only=True)
class _OperandLayer(Layer):
    """A layer that multiplies exact values in place of the operands that are not to be quantised."""

    quantised: Quantised = field(default=Quantised.BOTH)

    @property
    def _reads_operands(self) -> bool:
        return True

    def _engine(self, *arguments: Any) -> tuple[Engine, Request, Platform]:
        """Emulate: native engines have layouts of their own and take no exact operand."""
        _, request, on = super()._engine(*arguments)
        return Emulated(), request, on

    def _multiply(
        self, plan: Any, left: Prepared, right: Prepared, operands: Any, *rest: Any, **options: Any
    ) -> Tensor:
        if operands is not None and left.quantizer.format is not Format.BF16:
            sides = SIDES[plan.which]
            left, right = (
                in_fp32(prepared) if side is self.quantised else exact(operand, use)
                for prepared, side, operand, use in zip(
                    (left, right), sides, operands, (plan.left, plan.right), strict=True
                )
            )
        return super()._multiply(plan, left, right, operands, *rest, **options)


def in_fp32(prepared: Prepared) -> Prepared:
    """Return the operand with the scale of its tensor multiplied in, as the exact operand beside it has none."""
    values = prepared.values.float()
    return Prepared(values if prepared.scale is None else values * prepared.scale, prepared.quantizer)


def exact(x: Tensor, use: Use) -> Prepared:
    """Return an operand in FP32 that is not quantised; it gets the transform that the other operand has."""
    return Prepared(reference.transformed(x, use.quantizer, use.signs), Quantizer(format=Format.BF16))

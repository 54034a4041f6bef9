"""Computes, at fixed weights, the exact weight gradients of micro batches, and each recipe's errors in them.

torchrun .. -m submission.tools.gradient_replay DIR reads DIR/config.json and DIR/replay.json
(harness/contract/replay_rows.py) and writes DIR/grams.npz: for every linear the n x n matrices of scalar products
between the gradients g_i and errors e_i = quantised - exact of the n micro batches:

    g/<linear>            g_i . g_j
    eg/<cell>/<linear>    e_i . g_j
    ee/<cell>/<linear>    e_i . e_j
    loss                  (cells + 1, n) nats per token; row 0 is the exact forward pass

Errors lie in files of their own until the end, so that memory holds the exact gradients and one cell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.contract import attempt_rows, file_names
from harness.contract.config import Config
from harness.contract.environment import Ranks
from harness.contract.replay_rows import GRAMS, Gemms, Quantised, ReplayCell, read_asked
from kernels import mean_split
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Prepared
from kernels.matmul.gemm import uses
from kernels.observe.observer import Multiplied
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, Quantizer
from submission import device
from submission.batches import Batch
from submission.checkpoint import checkpoint
from submission.phases import EXEMPT, Phase, phases_of
from submission.step import Trainer

Gradients = dict[str, Tensor]  # by linear layer, FP32
_EXACT = Quantizer(format=Format.BF16)


def main() -> int:
    parser = argparse.ArgumentParser(prog="submission.tools.gradient_replay")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    told, asked = attempt_rows.read_config(directory / file_names.CONFIG), read_asked(directory)
    device.install()
    from submission import parallel
    from submission.assemble import assemble, linears_of
    from submission.batches import batches, index_datasets
    from submission.step import train_step

    config, run = told.config, told.run
    seed = run.seed or 0
    home = parallel.initialize(config, Ranks.from_environment())
    parallel.seed_everything(seed)
    trainer = assemble(config, linears_of(config, run.arm, seed=seed, rank=0), home)
    with device.megatron():
        data, _ = index_datasets(config, seed=seed, cache=directory / file_names.INDEX_CACHE)
    samples = 0
    if asked.checkpoint:
        run_of_it = checkpoint.Run(config=config, arm=run.arm, seed=seed)
        samples = checkpoint.read(trainer, run_of_it, Path(asked.checkpoint))
    size, total = config.batch.micro_batch_size, config.train_samples
    stream = batches(data, micro_batch_size=size, total=total, first=samples)
    for step in range(asked.train_steps):
        found = train_step(trainer, stream)
        if step % 50 == 0 or step + 1 == asked.train_steps:
            print(
                f"step {step + 1} of {asked.train_steps}: loss {found.loss:.3f}", file=sys.stderr, flush=True
            )
    replay = Replay(trainer, config, asked.cells, directory, seed)
    for place in range(asked.batches):
        replay.take(next(stream), place, asked.batches)
    replay.write(directory / GRAMS)
    parallel.shut_down()
    return 0


class Replay:
    """Collects the gradients of all cells, one micro batch after another."""

    def __init__(
        self, trainer: Trainer, config: Config, cells: Sequence[ReplayCell], directory: Path, seed: int
    ):
        self._trainer, self._cells, self._directory = trainer, cells, directory
        self._phases = {cell.name: phases_of(config, cell.arm)[0] for cell in cells}
        self._randomness = {cell.name: Randomness(seed + 1, 0) for cell in cells}
        self._labels: list[str] = []
        self._exact: list[np.ndarray] = []
        self._losses: list[list[float]] = []
        for cell in cells:  # what an interrupted replay left
            self._file(cell).unlink(missing_ok=True)

    def take(self, batch: Batch, place: int, of: int) -> None:
        """Process a micro batch: one exact pass for all cells that only quantise Wgrad, then a pass per other cell."""
        errors: dict[str, Gradients] = {cell.name: {} for cell in self._cells if cell.gemms is Gemms.WGRAD}

        def beside(seen: Multiplied, exact: Tensor) -> None:
            for cell in self._cells:
                if cell.gemms is Gemms.WGRAD:
                    errors[cell.name][seen.label] = self._wgrad(cell, seen) - exact

        exact, loss = self._pass(batch, Phase(recipe=EXEMPT), beside)
        losses = [loss]
        self._labels = self._labels or sorted(exact)
        self._exact.append(self._flat(exact))
        for cell in self._cells:
            if cell.gemms is Gemms.ALL:
                found, loss = self._pass(batch, self._phases[cell.name], None)
                errors[cell.name] = {label: found[label] - exact[label] for label in self._labels}
            losses.append(loss)
            with self._file(cell).open("ab") as file:
                self._flat(errors[cell.name]).tofile(file)
            self._randomness[cell.name].step += 1  # signs of the next step
        self._losses.append(losses)
        print(f"replay: micro batch {place + 1} of {of}", file=sys.stderr, flush=True)

    def _pass(
        self, batch: Batch, phase: Phase, beside: Callable[[Multiplied, Tensor], None] | None
    ) -> tuple[Gradients, float]:
        """Run forward and backward; return the weight gradient of every linear layer, and the loss."""
        from submission.step import forward_backward

        found: Gradients = {}

        def watch(seen: Multiplied) -> None:
            if seen.which is Gemm.WGRAD:
                if beside is None:
                    found[seen.label] = seen.whole().clone()
                else:  # the product of the exact operands, unrounded even where the model is BF16
                    found[seen.label] = seen.left.float() @ seen.right.float().t()
                    beside(seen, found[seen.label])

        linears = self._trainer.linears
        linears.enter(phase)
        linears.observer = watch
        try:
            with device.megatron():
                for chunk in self._trainer.chunks:
                    chunk.zero_grad_buffer()
                stats = forward_backward(self._trainer, iter([batch]), 1, forward_only=False)
        finally:
            linears.observer = None
        linears.weights_changed()  # random signs of the next step; the weights are quantised again
        total, tokens = stats[0]["loss"].tolist()
        return found, total / tokens

    def _wgrad(self, cell: ReplayCell, seen: Multiplied) -> Tensor:
        """Quantise the exact operands of Wgrad as the cell requires, and return their product in FP32."""
        recipe = self._phases[cell.name].of(seen.label)[Gemm.WGRAD]
        left, right = uses(recipe, Gemm.WGRAD, self._randomness[cell.name], seen.left)
        split = mean_split.split(seen.right.t()) if recipe.mean_split else None
        operands = [
            _operand(seen.left, left, quantise=cell.operand is not Quantised.X),
            _operand(
                seen.right if split is None else split.rest.t(),
                right,
                quantise=cell.operand is not Quantised.DY,
            ),
        ]
        product = Emulated().multiply(*operands, gain=recipe.gain, dtype=torch.float32, accumulate=None)
        if split is None:
            return product
        return mean_split.add(product, *mean_split.of_gradient(seen.left.t(), split.mean))

    def _flat(self, gradients: Gradients) -> np.ndarray:
        return torch.cat([gradients[label].flatten() for label in self._labels]).cpu().numpy()

    def _file(self, cell: ReplayCell) -> Path:
        return self._directory / f"{cell.name}.f32"

    def write(self, path: Path) -> None:
        """Write all matrices, and remove the files of the cells."""
        exact = np.stack(self._exact)
        arrays: dict[str, np.ndarray] = {"loss": np.array(self._losses).T}
        for label, g in self._parts(exact):
            arrays[f"g/{label}"] = g @ g.T
        for cell in self._cells:
            errors = np.fromfile(self._file(cell), dtype=np.float32).reshape(exact.shape)
            for (label, g), (_, e) in zip(self._parts(exact), self._parts(errors), strict=True):
                arrays[f"eg/{cell.name}/{label}"], arrays[f"ee/{cell.name}/{label}"] = e @ g.T, e @ e.T
            self._file(cell).unlink()
        with path.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the columns of every linear layer, in FP64."""
        start = 0
        for label in self._labels:
            end = start + self._sizes[label]
            yield label, rows[:, start:end].astype(np.float64)
            start = end

    @property
    def _sizes(self) -> dict[str, int]:
        modules = dict(self._trainer.model.module.named_modules())
        found = {
            module.label: module.weight.numel() for module in modules.values() if hasattr(module, "label")
        }
        return {label: found[label] for label in self._labels}


def _operand(x: Tensor, use: Use, *, quantise: bool) -> Prepared:
    """Return an operand in FP32; if not quantised, it still gets the transform that the other operand has."""
    if not quantise:
        return Prepared(reference.transformed(x, use.quantizer, use.signs), _EXACT)
    prepared, _ = Emulated().prepare(x, use, None)
    assert prepared is not None
    return Prepared(prepared.values.float(), prepared.quantizer, scale=prepared.scale)


if __name__ == "__main__":
    sys.exit(main())

"""Measures recipes at fixed weights: their errors of the weight gradient, their forward losses, or short trainings.

torchrun .. -m submission.tools.gradient_replay DIR reads DIR/config.json and DIR/replay.json
(harness/contract/replay_rows.py) and writes DIR/grams.npz. For gradients it holds for every linear the n x n matrices
of scalar products between the gradients g_i and errors e_i = quantised - exact of the n micro batches:

    g/<linear>            g_i . g_j
    eg/<cell>/<linear>    e_i . g_j
    ee/<cell>/<linear>    e_i . e_j
    adam_g/.., adam_eg/.., adam_ee/..   the same with every element divided by AdamW's sqrt(v) + eps
    loss                  (cells + 1, n) nats per token; row 0 is the exact forward pass
    kurtosis              (linears, 3) of X, dY and W, mean over the micro batches; 3 is Gaussian

Errors lie in files of their own until the end, so that memory holds the exact gradients and one cell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.contract.replay_rows import GRAMS, Gemms, Measured, Quantised, ReplayCell
from kernels import mean_split
from kernels.matmul.emulated import Emulated
from kernels.matmul.gemm import uses
from kernels.observe.error_figures import kurtosis
from kernels.observe.observer import Multiplied
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Gemm
from submission import device
from submission.batches import Batch
from submission.phases import Phase
from submission.tools import fixed_weights, forks
from submission.tools.fixed_weights import EXACT_CELL, EXACT_PHASE, Session

_DRAWS = 1_000  # seeds between two draws
_COLUMNS = 4096  # of a block whose products are summed in FP32
Gradients = dict[str, Tensor]  # by linear layer, FP32


def main() -> int:
    parser = argparse.ArgumentParser(prog="submission.tools.gradient_replay")
    parser.add_argument("directory", type=Path)
    session = fixed_weights.opened(parser.parse_args().directory)
    from submission import parallel

    path = session.directory / GRAMS
    if session.asked.measured is Measured.FORKS:
        forks.write(session, path)
    elif session.asked.measured is Measured.FORWARD:
        _save(path, {"loss": _forward_losses(session)})
    else:
        replay = Replay(session)
        for place in range(session.asked.batches):
            replay.take(next(session.stream), place)
        replay.write(path)
    parallel.shut_down()
    return 0


def _forward_losses(session: Session) -> np.ndarray:
    """Return (cells + 1, n) nats per token of forward passes alone; row 0 is exact."""
    losses = []
    for place in range(session.asked.batches):
        batch = next(session.stream)
        row = [forks.loss_of(session, [batch], EXACT_CELL, EXACT_PHASE)]
        for cell in session.asked.cells:
            row.append(forks.loss_of(session, [batch], cell, session.phases[cell.name]))
        losses.append(row)
        _tell(place, session.asked.batches)
    return np.array(losses).T


class Replay:
    """Collects the gradients of all cells, one micro batch after another."""

    def __init__(self, session: Session):
        self._session, self._cells = session, session.asked.cells
        self._randomness = {
            cell.name: Randomness(session.seed + 1 + _DRAWS * cell.draw, 0) for cell in self._cells
        }
        self._labels: list[str] = []
        self._exact: list[np.ndarray] = []
        self._losses: list[list[float]] = []
        self._kurtosis: dict[str, list[float]] = {}
        for cell in self._cells:  # what an interrupted replay left
            self._file(cell).unlink(missing_ok=True)

    def take(self, batch: Batch, place: int) -> None:
        """Process a micro batch: one exact pass for all cells that only quantise Wgrad, then a pass per other cell."""
        errors: dict[str, Gradients] = {cell.name: {} for cell in self._cells if cell.gemms is Gemms.WGRAD}

        def beside(seen: Multiplied, exact: Tensor) -> None:
            for side, operand in (("x", seen.right), ("dy", seen.left)):
                self._kurtosis.setdefault(f"{seen.label} {side}", []).append(float(kurtosis(operand.float())))
            for cell in self._cells:
                if cell.gemms is Gemms.WGRAD:
                    errors[cell.name][seen.label] = self._wgrad(cell, seen) - exact

        exact, loss = self._pass(batch, EXACT_CELL, EXACT_PHASE, beside)
        losses = [loss]
        self._labels = self._labels or sorted(exact)
        self._exact.append(self._flat(exact))
        for cell in self._cells:
            if cell.gemms is Gemms.ALL:
                found, loss = self._pass(batch, cell, self._session.phases[cell.name], None)
                errors[cell.name] = {label: found[label] - exact[label] for label in self._labels}
            losses.append(loss)
            with self._file(cell).open("ab") as file:
                self._flat(errors[cell.name]).tofile(file)
            self._randomness[cell.name].step += 1  # signs of the next step
        self._losses.append(losses)
        _tell(place, self._session.asked.batches)

    def _pass(
        self, batch: Batch, cell: ReplayCell, phase: Phase, beside: Callable[[Multiplied, Tensor], None] | None
    ) -> tuple[Gradients, float]:  # fmt: skip
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

        trainer, linears = self._session.trainer, self._session.linears
        linears.choose(cell, phase)
        linears.observer = watch
        try:
            with device.megatron():
                for chunk in trainer.chunks:
                    chunk.zero_grad_buffer()
                stats = forward_backward(trainer, iter([batch]), 1, forward_only=False)
        finally:
            linears.observer = None
        linears.weights_changed()  # random signs of the next step; the weights are quantised again
        total, tokens = stats[0]["loss"].tolist()
        return found, total / tokens

    def _wgrad(self, cell: ReplayCell, seen: Multiplied) -> Tensor:
        """Quantise the exact operands of Wgrad as the cell requires, and return their product in FP32."""
        recipe = self._session.phases[cell.name].of(seen.label)[Gemm.WGRAD]
        left, right = uses(recipe, Gemm.WGRAD, self._randomness[cell.name], seen.left)
        split = mean_split.split(seen.right.t()) if recipe.mean_split else None
        x = seen.right if split is None else split.rest.t()
        operands = [
            _operand(seen.left, left, quantise=cell.operand is not Quantised.X),
            _operand(x, right, quantise=cell.operand is not Quantised.DY),
        ]
        product = Emulated().multiply(*operands, gain=recipe.gain, dtype=torch.float32, accumulate=None)
        if split is None:
            return product
        return mean_split.add(product, *mean_split.of_gradient(seen.left.t(), split.mean))

    def _flat(self, gradients: Gradients) -> np.ndarray:
        return torch.cat([gradients[label].flatten() for label in self._labels]).cpu().numpy()

    def _file(self, cell: ReplayCell) -> Path:
        return self._session.directory / f"{cell.name}.f32"

    def write(self, path: Path) -> None:
        """Write all matrices, and remove the files of the cells."""
        exact, units = np.stack(self._exact), self._units()
        arrays = {"loss": np.array(self._losses).T, "kurtosis": self._kurtosis_of_operands()}
        for label, g in self._parts(exact):
            arrays[f"g/{label}"] = products(g, g)
            if label in units:
                arrays[f"adam_g/{label}"] = products(g * units[label], g * units[label])
        for cell in self._cells:
            errors = np.fromfile(self._file(cell), dtype=np.float32).reshape(exact.shape)
            for (label, g), (_, e) in zip(self._parts(exact), self._parts(errors), strict=True):
                arrays[f"eg/{cell.name}/{label}"], arrays[f"ee/{cell.name}/{label}"] = (
                    products(e, g),
                    products(e, e),
                )
                if label in units:
                    e, g = e * units[label], g * units[label]
                    arrays[f"adam_eg/{cell.name}/{label}"] = products(e, g)
                    arrays[f"adam_ee/{cell.name}/{label}"] = products(e, e)
            self._file(cell).unlink()
        _save(path, arrays)

    def _units(self) -> dict[str, np.ndarray]:
        """Return 1 / (sqrt(v) + eps) of every linear layer, flat, in FP32."""
        epsilon = self._session.config.optimizer.epsilon
        found = self._session.second_moments
        return {
            label: (1 / (v.sqrt() + epsilon)).flatten().float().cpu().numpy() for label, v in found.items()
        }

    def _kurtosis_of_operands(self) -> np.ndarray:
        weights = fixed_weights.linears_by_label(self._session.trainer)
        return np.array(
            [
                [
                    *(np.mean(self._kurtosis[f"{label} {side}"]) for side in ("x", "dy")),
                    float(kurtosis(weights[label].weight.detach().float())),
                ]
                for label in self._labels
            ]
        )

    def _parts(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the columns of every linear layer."""
        weights = fixed_weights.linears_by_label(self._session.trainer)
        start = 0
        for label in self._labels:
            end = start + weights[label].weight.numel()
            yield label, rows[:, start:end]
            start = end


def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (n, n) scalar products of rows: in FP32 over blocks of columns, whose results are added in FP64.

    It takes an eighth of the time of FP64, and its error is below 1e-7 of the product of the rows' lengths.

    Args:
        a, b: (n, elements), FP32.
    """
    found = np.zeros((len(a), len(b)))
    for start in range(0, a.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        found += a[:, columns] @ b[:, columns].T
    return found


def _operand(x: Tensor, use: Use, *, quantise: bool) -> fixed_weights.Prepared:
    if not quantise:
        return fixed_weights.exact(x, use)
    prepared, _ = Emulated().prepare(x, use, None)
    assert prepared is not None
    return fixed_weights.in_fp32(prepared)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays at once, so that an interrupted process leaves no file that looks finished."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    part.replace(path)


def _tell(place: int, of: int) -> None:
    print(f"replay: micro batch {place + 1} of {of}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""Saves and loads a checkpoint's content in Megatron's sharded form, which also loads under another parallel layout."""

from __future__ import annotations

import queue
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from submission import device, model
from submission.optimizer import parts
from submission.step import Trainer
from submission.warmup import finish_parameter_gather


def save(trainer: Trainer, directory: str, *, samples: int) -> None:
    """Write weights, FP32 main parameters, moments, schedule and the number of random tensors drawn by the recipe.

    All ranks call it; `directory` must exist, be empty and be on storage that all ranks share.
    """
    for chunk in trainer.chunks:
        finish_parameter_gather(chunk)
    draws: list[int | None] = [None] * dist.get_world_size()
    dist.all_gather_object(draws, trainer.linears.drawn)
    with device.megatron():
        state, metadata = _sharded(trainer, is_loading=False)
        state["schedule"] = trainer.scheduler.state_dict()
        state["progress"] = {"samples": samples, "draws": draws}
        metadata.pop("dp_cp_group")  # a process group cannot be saved
        # Megatron's default saves in a background process, which takes seconds to start and outlives a killed rank
        filesystem_async._results_queue = queue.Queue()
        dist_checkpointing.save(state, directory, content_metadata=metadata)


def load(trainer: Trainer, directory: str, *, same_layout: bool) -> int:
    """Load a checkpoint into a trainer that has not trained yet, or whose steps were undone.

    Args:
        same_layout: if true, every rank continues its own random numbers; else all ranks use numbers not yet drawn.

    Returns:
        The number of samples that the state was trained on.
    """
    with device.megatron():
        part = _only_part(trainer)
        _make_moments(part)
        state, _ = _sharded(trainer, is_loading=True)
        found = dist_checkpointing.load(state, directory)
        for name, chunk in _models(trainer).items():
            chunk.load_state_dict(found[name], strict=True)
        _load_optimizer(part, found["optimizer"])
        trainer.scheduler.load_state_dict(found["schedule"])
    progress = found["progress"]
    samples, draws = int(progress["samples"]), progress["draws"]
    drawn = draws[dist.get_rank()] if same_layout else max(draws)
    trainer.linears.go_on(step=samples // trainer.config.batch.global_batch_size, drawn=drawn)
    return samples


def _models(trainer: Trainer) -> dict[str, Any]:
    """This rank's pipeline stages, under the names that Megatron's optimizer expects for interleaved stages."""
    chunks = [model.unwrap(chunk) for chunk in trainer.chunks]
    return {"model": chunks[0]} if len(chunks) == 1 else {f"model{i}": c for i, c in enumerate(chunks)}


def _sharded(trainer: Trainer, *, is_loading: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """State of model and optimizer, each tensor with its position in the full tensor, and the metadata used to get it.

    Only Megatron's `fully_reshardable` form allows another data, tensor and pipeline parallelism. Of the other forms in
    0.16, `fully_sharded_model_space` raises ("flattened_range is not supported") and `dp_reshardable` only allows
    another data parallelism. With memory_efficient, gloo gathers the state on the first rank of each data-parallel
    group instead of on all ranks.
    """
    metadata: dict[str, Any] = {
        "distrib_optim_sharding_type": "fully_reshardable",
        "distrib_optim_fully_reshardable_mem_efficient": True,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }
    models = {name: chunk.sharded_state_dict(metadata=metadata) for name, chunk in _models(trainer).items()}
    parameters = models.get("model", models)
    optimizer = trainer.optimizer.sharded_state_dict(parameters, is_loading=is_loading, metadata=metadata)
    if optimizer.get("param_state", ...) is None:  # another rank gathered it: this one has nothing to write
        del optimizer["param_state"]
    return {**models, "optimizer": optimizer}, metadata


def _only_part(trainer: Trainer) -> Any:
    found = parts(trainer.optimizer)
    if len(found) != 1:
        raise ValueError(f"a dense model has one optimizer, found {len(found)}")
    return found[0]


def _make_moments(part: Any) -> None:
    """Create AdamW's state for step 0: Megatron reads the step from it before loading."""
    inner = part.optimizer
    if not isinstance(part, DistributedOptimizer) or not isinstance(inner, torch.optim.Adam):
        return  # other optimizers create it themselves
    for parameter in (parameter for group in inner.param_groups for parameter in group["params"]):
        inner.state[parameter] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _load_optimizer(part: Any, found: dict[str, Any]) -> None:
    """Load with Megatron's code, and avoid two errors it has with torch's AdamW (core 0.16 to 0.20).

    Megatron searches for the step among the loaded tensors, which never include it. It gives all parameters
    one step tensor, which each parameter would then advance. So this function loads tensors while no state
    has a step, then gives each state its own.
    """
    inner = part.optimizer
    if not isinstance(part, DistributedOptimizer) or not isinstance(inner, torch.optim.Adam):
        part.load_state_dict(found)
        return
    tensors = found.pop("param_state")
    hows = [{name: group[name] for name in ("foreach", "fused")} for group in inner.param_groups]
    part.load_state_dict(found)
    for group, how in zip(inner.param_groups, hows, strict=True):
        group.update(how)  # this run's, not those of the run that saved
    steps = {parameter: state.pop("step") for parameter, state in inner.state.items()}
    part.load_parameter_state_from_fully_reshardable(tensors)
    fused = hows[0]["fused"]  # its kernel counts the steps on the device, the others on the host
    for parameter, step in steps.items():
        inner.state[parameter]["step"] = step.clone().to(parameter.device if fused else "cpu")

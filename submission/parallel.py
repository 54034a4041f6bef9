"""Creates process groups and sets seeds, which Megatron-core leaves to the training script."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.num_microbatches_calculator import (
    destroy_num_microbatches_calculator,
    init_num_microbatches_calculator,
)

from harness.contract.config import Config
from harness.contract.environment import Ranks
from submission import device


def initialize(config: Config, ranks: Ranks) -> torch.device:
    """Join the process group and build Megatron's groups.

    Raises:
        ValueError: the number of ranks that the launcher started differs from the configuration's.
    """
    if ranks.world_size != config.parallelism.world_size:
        raise ValueError(
            f"parallelism: {config.parallelism.world_size} ranks configured, {ranks.world_size} started"
        )
    home = torch.device("cpu") if device.on_cpu() else torch.device("cuda", ranks.local_rank)
    if home.type == "cuda":
        torch.cuda.set_device(home)
    device.forget_random_states()
    if not dist.is_initialized():
        # longer than the watchdog waits (four times its limits at most), because it can tell which rank is the cause
        longest_s = 5 * max(config.watchdog.init_s, config.watchdog.hang_s)
        patience = timedelta(seconds=max(1800.0, longest_s))
        if home.type == "cpu":
            dist.init_process_group("gloo", timeout=patience)
        else:  # with device_id NCCL connects here, before run_start, and barriers know their GPU
            dist.init_process_group("nccl", timeout=patience, device_id=home)
    interleaved = config.parallelism.virtual_pipeline
    parallel_state.initialize_model_parallel(
        config.parallelism.tensor,
        config.parallelism.pipeline,
        virtual_pipeline_model_parallel_size=interleaved if interleaved > 1 else None,
        create_gloo_process_groups=wants_gloo(config),
    )
    init_num_microbatches_calculator(
        ranks.rank,
        None,
        config.batch.global_batch_size,
        config.batch.micro_batch_size,
        parallel_state.get_data_parallel_world_size(),
    )
    return home


def wants_gloo(config: Config) -> bool:
    """Whether Megatron also creates gloo groups; on GPUs only checkpoints need them, to gather optimizer state."""
    return device.on_cpu() or bool(config.checkpoint.every_steps or config.checkpoint.resume)


def seed_everything(seed: int, *, captures: bool = False) -> None:
    """Seed weights and data order; each pipeline stage gets another seed, as in Megatron's own training script.

    Args:
        captures: a CUDA graph will be captured, so the tracker must not copy a random state to the host.
    """
    of_stage = seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(of_stage)  # weights are drawn from this generator on a CPU, from the tracker's on a GPU
    with device.megatron():
        # on a CPU use the tracker that does nothing: Llama has no dropout, and the real one needs CUDA's state
        tensor_parallel.model_parallel_cuda_manual_seed(
            of_stage,
            inference_rng_tracker=device.on_cpu(),
            use_cudagraphable_rng=captures and not device.on_cpu(),
        )


def shut_down() -> None:
    parallel_state.destroy_model_parallel()
    destroy_num_microbatches_calculator()
    if dist.is_initialized():
        dist.destroy_process_group()


def loss_and_tokens(stats: list[dict[str, torch.Tensor]], home: torch.device) -> torch.Tensor:
    """(2,) FP64 sum of the token losses of all ranks' micro batches and number of tokens, on every rank's device.

    Args:
        stats: per micro batch {"loss": (2,) sum of token losses and number of tokens}; empty before the last stage.
        home: device of the collective.
    """
    total = torch.zeros(2, dtype=torch.float64, device=home)
    if parallel_state.is_pipeline_last_stage(ignore_virtual=True):
        total += torch.stack([item["loss"] for item in stats]).double().sum(0)
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        dist.all_reduce(total, group=group)
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(total, last, group=parallel_state.get_pipeline_model_parallel_group())
    return total

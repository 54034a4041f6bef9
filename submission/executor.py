"""Builds and trains the model of a run with Megatron-core and one recipe."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.num_microbatches_calculator import get_current_global_batch_size, get_num_microbatches

from harness.contract.attempt_rows import EngineProbe, Proof, ProvenGemm
from harness.contract.config import Config
from harness.contract.diagnostics_rows import Row
from harness.contract.environment import Ranks
from harness.contract.metrics_rows import StragglerRow
from kernels.matmul import tuned_blas
from submission import batches as submission_batches
from submission import (
    device,
    engine_probes,
    fused_modules,
    model,
    modules,
    optimizer,
    parallel,
    precision,
    proof,
    step_graph,
    warmup,
)
from submission.assemble import assemble, linears_of
from submission.checkpoint import checkpoint
from submission.diagnostics import Diagnoser
from submission.evaluation import validation_loss
from submission.recompute import FC1
from submission.step import StepResult, Trainer, train_step
from submission.te.te_linear import linear_kinds
from submission.watchdog import nonfinite
from submission.watchdog.stragglers import Stragglers

_DISCLOSED = {"bf16": "bfloat16", "fp8-row": "fp8"}  # other formats are logged under the recipe's name
_DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "fp32"}
_NARROWEST_FIRST = ("mxfp4", "nvfp4", "mxfp8", "fp8-row", "fp8", "bf16")


class MegatronExecutor:
    """Implements submission.train.Executor.

    Args:
        config: the resolved configuration.
        arm: which of its arms to train.
        seed: determines initial weights and data order.
        ranks: rank and number of processes.
        cache: directory for the data set's index, on storage that all ranks share.
        begins: called when a forward pass begins.
    """

    trainer: Trainer

    def __init__(
        self,
        config: Config,
        *,
        arm: str,
        seed: int,
        ranks: Ranks,
        cache: Path,
        begins: Callable[[], None] = lambda: None,
    ):
        device.require_gpu(config)
        self._begins, self._stragglers = begins, Stragglers(config.watchdog.straggler_ratio)
        self._config, self._seed, self._ranks, self._cache = config, seed, ranks, cache
        self._linears = linears_of(config, arm, seed=seed, rank=ranks.rank)
        self._run = checkpoint.Run(config=config, arm=arm, seed=seed)
        self._first_step = 0  # optimizer steps done before this run, where it resumed a checkpoint
        self._train_batches: Iterator[submission_batches.Batch] = iter(())
        self._train: Any = None  # the data sets, after index_data
        self._valid: Any = None
        self._steps = self._evaluations = 0  # counts in the current phase
        self._proved: list[ProvenGemm] = []  # proofs of earlier phases

    def build(self) -> None:
        config = self._config
        home = parallel.initialize(config, self._ranks)
        self._tuned = tuned_blas.use(home)
        working, self._probes = engine_probes.try_all(config, self._run.arm, home)
        parallel.seed_everything(self._seed, captures=config.parallelism.cuda_graph)
        if config.parallelism.cuda_graph:
            step_graph.leave_default_stream(home)
        self.trainer = assemble(working, self._linears, home)
        self.trainer.passes.begins = self._begins
        self._diagnoser = Diagnoser(config.diagnostics, self._linears)

    def probes(self) -> Sequence[EngineProbe]:
        return self._probes

    def described(self) -> dict[str, Any]:
        """Keys and values for the log, each read back from the object that uses it."""
        adamw, rates = self.trainer.optimizer.config, self.trainer.scheduler
        gbs = get_current_global_batch_size()
        return {
            "seed": torch.initial_seed(),  # rank 0 is on pipeline stage 0, whose offset is 0
            "global_batch_size": gbs,
            "gradient_accumulation_steps": get_num_microbatches(),
            "max_sequence_length": model.unwrap(self.trainer.model).max_sequence_length,
            "train_samples": self._config.train_samples,
            "eval_samples": self._config.evaluation.sequences,
            "init_checkpoint_step": rates.num_steps // gbs,
            "max_steps": rates.lr_decay_steps // gbs,
            "opt_name": "adamw",
            "opt_base_learning_rate": rates.max_lr,
            "opt_end_learning_rate": rates.min_lr,
            "opt_learning_rate_warmup_steps": rates.lr_warmup_steps // gbs,
            "opt_learning_rate_decay_steps": (rates.lr_decay_steps - rates.lr_warmup_steps) // gbs,
            "opt_learning_rate_decay_schedule": f"{rates.lr_decay_style} with linear warmup",
            "opt_adamw_beta_1": adamw.adam_beta1,
            "opt_adamw_beta_2": adamw.adam_beta2,
            "opt_adamw_epsilon": adamw.adam_eps,
            "opt_adamw_weight_decay": adamw.weight_decay,
            "opt_gradient_clip_norm": adamw.clip_grad,
            "target_accuracy": self._config.evaluation.target_log_perplexity,
            "tensor_parallelism": parallel_state.get_tensor_model_parallel_world_size(),
            "pipeline_parallelism": parallel_state.get_pipeline_model_parallel_world_size(),
            "context_parallelism": parallel_state.get_context_parallel_world_size(),
            "expert_parallelism": parallel_state.get_expert_model_parallel_world_size(),
            "micro_batch_size": gbs
            // (get_num_microbatches() * parallel_state.get_data_parallel_world_size()),
            "config_filename": "benchmark.yaml",
        }

    def warm_up(self) -> None:
        """Warm up every phase of the run, so that no shape or format is new after run_start."""
        self._formats: set[str] = set()
        with warmup.leaves_no_trace(self.trainer):
            for phase in self._linears.phases:
                self._linears.enter(phase)
                self._rehearse()
        self._linears.enter(self._linears.phases[0])
        warmup.freeze_collector()

    def _rehearse(self) -> None:
        config, ledger = self._config, self._linears.ledger
        synthetic = submission_batches.synthetic_batches(config, home=self.trainer.home)
        for _ in range(config.warmup.train_steps):
            train_step(self.trainer, synthetic)
        passes = self._whole_rounds(config.warmup.eval_steps)
        if passes:
            validation_loss(self.trainer, synthetic, micro_batches=passes)
        self._verify(config.warmup.train_steps, passes)
        self._formats |= {ran.how.format.value for ran in ledger.snapshot().values()}
        ledger.clear()

    def _whole_rounds(self, micro_batches: int) -> int:
        """Round up to a multiple of the pipeline's length, which interleaved stages need."""
        parallel = self._config.parallelism
        round_length = parallel.pipeline if parallel.virtual_pipeline > 1 else 1
        return -(-micro_batches // round_length) * round_length

    def precision(self) -> dict[str, Any]:
        settings = self.trainer.model.config
        linear = next((name for name in _NARROWEST_FIRST if name in self._formats), self._config.model.dtype)
        width = _DTYPE_NAMES[settings.params_dtype]
        # parameters are communicated in their own type, gradients in the type of their buffer
        gradients = [buffer.grad_dtype for chunk in self.trainer.chunks for buffer in chunk.buffers]
        travel = min((settings.params_dtype, *gradients), key=lambda dtype: dtype.itemsize)
        return {
            "lowest_numerical_precision_in_linear": _DISCLOSED.get(linear, linear)
            if width != "fp32" or linear != "bf16"
            else width,
            "lowest_numerical_precision_in_attn": width,
            "lowest_numerical_precision_in_comm": _DTYPE_NAMES[travel],
        }

    def resume(self, directory: Path) -> int:
        samples = checkpoint.read(self.trainer, self._run, directory)
        self._first_step = samples // self._config.batch.global_batch_size
        return samples

    def save(self, home: Path) -> checkpoint.Written:
        return checkpoint.write(self.trainer, self._run, home, samples=self.trainer.scheduler.num_steps)

    def index_data(self) -> None:
        self._train, self._valid = submission_batches.index_datasets(
            self._config, seed=self._seed, cache=self._cache
        )

    def barrier(self) -> None:
        dist.barrier()

    def open_data(self) -> None:
        config = self._config
        size, total = config.batch.micro_batch_size, config.train_samples
        done = self.trainer.scheduler.num_steps  # sequences
        self.trainer.passes.pass_s()  # the warm-up's passes include compilation: drop their times
        self._train_batches = submission_batches.batches(
            self._train, micro_batch_size=size, total=total, first=done
        )

    def train_step(self) -> StepResult:
        if self._linears.due() is not self._linears.phase:
            self._end_phase()
            self._linears.enter(self._linears.due())
        self._steps += 1
        step = self.trainer.scheduler.num_steps // self._config.batch.global_batch_size + 1
        with self._diagnoser.watching(step):
            return train_step(self.trainer, self._train_batches)

    def culprits(self, result: StepResult | None) -> str:
        losses = self.trainer.passes.losses if result is None else result.losses
        return nonfinite.culprits(losses, () if result is None else result.bad_parts, self.trainer.home)

    def diagnosis(self) -> Sequence[Row]:
        return self._diagnoser.found

    def evaluate(self) -> float:
        config = self._config
        size, total = config.batch.micro_batch_size, config.evaluation.sequences
        count = total // (size * config.parallelism.data)
        self._evaluations += count
        batches = submission_batches.batches(self._valid, micro_batch_size=size, total=total)
        return validation_loss(self.trainer, batches, micro_batches=count)

    def stragglers(self) -> Sequence[StragglerRow]:
        return self._stragglers.look(self.trainer.passes.pass_s(), self.trainer.home)

    def proof(self) -> Proof:
        """How every GEMM ran since run_start, verified against the recipe and the number of steps."""
        self._end_phase()
        rows, phases = self._proved, self._linears.phases
        llama = model.unwrap(self.trainer.model)
        return Proof(
            recipe=phases[0].recipe.name,
            linears=len({row.layer for row in rows}),
            gemms=tuple(rows),
            verified=True,
            probes=self._probes,
            fusions=fused_modules.found(llama),
            optimizer=optimizer.described(self.trainer.optimizer),
            snapped=self.trainer.deoscillator.snapped(),
            tuned_products=self._tuned,
            graphs=() if self.trainer.graph is None else self.trainer.graph.ran(),
            **modules.described(llama.decoder.layers[0]),
        )

    def _end_phase(self) -> None:
        self._verify(self._steps, self._evaluations)
        begins = max(self._linears.phase.first_step, self._first_step)
        self._proved += [replace(row, from_step=begins) for row in proof.gather(self._linears.ledger)]
        self._linears.ledger.clear()
        self._steps = self._evaluations = 0

    def close(self) -> None:
        if self.trainer.graph is not None:
            self.trainer.graph.close()
        gc.unfreeze()  # this executor has reference cycles; a process that builds another must be able to free it
        parallel.shut_down()

    def _verify(self, steps: int, evaluation_passes: int) -> None:
        backward = steps * get_num_microbatches()
        demand = proof.Demand(
            labels=[
                label
                for chunk in self.trainer.chunks
                for label, _ in precision.linear_layers(model.unwrap(chunk), linear_kinds())
            ],
            phase=self._linears.phase,
            forward_passes=backward * (2 if self._config.parallelism.recompute == "full" else 1)
            + evaluation_passes,
            backward_passes=backward,
            recomputed=FC1 if self._config.parallelism.recompute == "fc1" else "",
        )
        proof.verify(self._linears.ledger, demand)

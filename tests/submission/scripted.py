"""An executor that follows a script instead of training: the rules' run of the 8B configuration, in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.contract.attempt_rows import Proof
from harness.contract.config import Config
from harness.contract.metrics_rows import StragglerRow


@dataclass(frozen=True)
class ScriptedStep:
    loss: float = 4.0
    learning_rate: float = 1e-4
    gradient_norm: float = 1.0
    step_s: float = 0.001
    is_late: bool = False


class ScriptedExecutor:
    """Evaluations come from `losses` (an exception is raised instead of returned); steps cost nothing."""

    def __init__(
        self, config: Config, *, seed: int, losses: Sequence[float | BaseException], step: Any = None
    ):
        self.config, self.seed, self.losses = config, seed, iter(losses)
        self.step = step or (lambda number: ScriptedStep())
        self.steps = 0

    def build(self) -> None:
        pass

    def probes(self) -> tuple[()]:
        return ()

    def described(self) -> dict[str, Any]:
        config = self.config
        return {
            "seed": self.seed,
            "global_batch_size": config.batch.global_batch_size,
            "gradient_accumulation_steps": config.micro_batches,
            "max_sequence_length": config.model.sequence_length,
            "train_samples": config.train_samples,
            "eval_samples": config.evaluation.sequences,
            "init_checkpoint_step": 0,
            "max_steps": config.schedule.max_steps,
            "opt_name": "adamw",
            "opt_base_learning_rate": config.schedule.base_lr,
            "opt_end_learning_rate": config.schedule.end_lr,
            "opt_learning_rate_warmup_steps": config.schedule.warmup_steps,
            "opt_learning_rate_decay_steps": config.schedule.decay_steps,
            "opt_learning_rate_decay_schedule": "cosine with linear warmup",
            "opt_adamw_beta_1": config.optimizer.beta1,
            "opt_adamw_beta_2": config.optimizer.beta2,
            "opt_adamw_epsilon": config.optimizer.epsilon,
            "opt_adamw_weight_decay": config.optimizer.weight_decay,
            "opt_gradient_clip_norm": config.optimizer.gradient_clip_norm,
            "target_accuracy": config.evaluation.target_log_perplexity,
            "tensor_parallelism": config.parallelism.tensor,
            "pipeline_parallelism": config.parallelism.pipeline,
            "context_parallelism": 1,
            "expert_parallelism": 1,
            "micro_batch_size": config.batch.micro_batch_size,
            "config_filename": "benchmark.yaml",
        }

    def warm_up(self) -> None:
        pass

    def precision(self) -> dict[str, Any]:
        names = ("linear", "attn", "comm")
        formats = ("mxfp4", "bfloat16", "bfloat16")
        return {f"lowest_numerical_precision_in_{n}": f for n, f in zip(names, formats, strict=True)}

    def index_data(self) -> None:
        pass

    def barrier(self) -> None:
        pass

    def open_data(self) -> None:
        pass

    def train_step(self) -> ScriptedStep:
        self.steps += 1
        if self.steps % 100 == 1:
            time.sleep(0.002)  # no block of a real run lasts 0 ms, and the checker says so
        return self.step(self.steps)

    def culprits(self, result: ScriptedStep | None) -> str:
        return "the script"

    def stragglers(self) -> list[StragglerRow]:
        return []

    def evaluate(self) -> float:
        time.sleep(0.002)
        loss = next(self.losses)
        if isinstance(loss, BaseException):
            raise loss
        return loss

    def proof(self) -> Proof:
        return Proof(recipe="scripted", linears=0, gemms=(), verified=True)

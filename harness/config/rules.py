"""Rules about combinations of values that cannot run or that the benchmark forbids, each a small function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.config import checkpoint_rules, recipes_rules
from harness.contract.benchmark import BENCHMARK, PROXY
from harness.contract.build import ConfigProblem, UnknownName
from harness.contract.config import Config

# The closed division fixes these for llama31_8b (training_rules v6.0, closed table; reference small_llm_pretraining).
_CLOSED: Mapping[str, float] = {
    "model.layers": 32,
    "model.hidden_size": 4096,
    "model.ffn_hidden_size": 14336,
    "model.attention_heads": 32,
    "model.query_groups": 8,
    "model.vocab_size": 128256,
    "model.sequence_length": 8192,
    "model.norm_epsilon": 1e-5,
    "model.rope_base": 500000,
    "model.rope_scaling_factor": 8.0,
    "model.init_std": 0.02,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.95,
    "optimizer.epsilon": 1e-5,
    "optimizer.weight_decay": 0.1,
    "optimizer.gradient_clip_norm": 1.0,
    "schedule.max_steps": 1_200_000,
    "schedule.end_lr_fraction": 0.1,
    "evaluation.interval_samples": BENCHMARK.evaluation_interval_samples,
    "evaluation.sequences": BENCHMARK.evaluation_sequences,
    "evaluation.target_log_perplexity": BENCHMARK.target_log_perplexity,
    "diagnostics.every_steps": 0,
}

_POSITIVE = {
    "model": "layers hidden_size ffn_hidden_size attention_heads query_groups vocab_size sequence_length "
    "norm_epsilon rope_base rope_scaling_factor init_std",
    "batch": "global_batch_size micro_batch_size",
    "schedule": "base_lr max_steps",
    "optimizer": "epsilon gradient_clip_norm",
    "evaluation": "interval_samples sequences target_log_perplexity",
    "parallelism": "nodes gpus_per_node tensor pipeline virtual_pipeline",
    "runs": "count",
    "checkpoint": "keep",
}
_NOT_NEGATIVE = {
    "schedule": "warmup_steps end_lr_fraction",
    "optimizer": "weight_decay",
    "parallelism": "threads_per_rank",
    "warmup": "train_steps eval_steps",
    "launch": "master_port node_rank",
    "watchdog": "init_s hang_s silence_s straggler_ratio",
    "runs": "seed",
    "checkpoint": "every_steps",
}

_GROUP = 32  # diagnostics read rows in groups of this size
_LEAST_S = 5.0  # ranks report to one another every half second, and a machine may be busy

UPLOADS = "tensorboard DIR | wandb PROJECT | mlflow URI"
UPLOAD_KINDS = ("tensorboard", "wandb", "mlflow")


def check(config: Config) -> None:
    """Apply every rule.

    Raises:
        ConfigProblem: the first rule that is broken.
    """
    for rule in _RULES:
        rule(config)


def value_of(config: Config, path: str) -> Any:
    """The value at a dotted path of dataclass fields."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _signs(config: Config) -> None:
    for keys, zero, allowed in ((_POSITIVE, False, "a number > 0"), (_NOT_NEGATIVE, True, "a number >= 0")):
        for path in (f"{section}.{name}" for section, names in keys.items() for name in names.split()):
            value = value_of(config, path)
            # written so that NaN and infinity fail too
            if value is not None and not (0 <= value < float("inf") and (value or zero)):
                raise ConfigProblem(path, str(value), allowed)
    for path in ("optimizer.beta1", "optimizer.beta2"):
        if not 0 <= value_of(config, path) < 1:
            raise ConfigProblem(path, str(value_of(config, path)), "a number >= 0 and < 1")
    if config.schedule.end_lr_fraction > 1:
        raise ConfigProblem(
            "schedule.end_lr_fraction", str(config.schedule.end_lr_fraction), "a number from 0 to 1"
        )


def _power(config: Config) -> None:
    every_s = config.power.sample_s
    if every_s and not 0.2 <= every_s <= 60:  # vendors report means over a second
        raise ConfigProblem("power.sample_s", str(every_s), "0 (none), or 0.2 to 60 seconds; 1.0 is usual")


def check_upload(path: str, wanted: Sequence[str]) -> None:
    """Require a kind of tracker and a place, as UPLOADS lists them; raises ConfigProblem otherwise."""
    if wanted and wanted[0] not in UPLOAD_KINDS:
        raise UnknownName(path, "tracker", wanted[0], UPLOAD_KINDS)
    if len(wanted) != 2 or not wanted[1].strip():
        raise ConfigProblem(path, f"[{', '.join(wanted)}]", UPLOADS)
    if re.search(r"//[^/]*@", wanted[1]):
        allowed = "an address without them; the package reads them from its own variables and files"
        raise ConfigProblem(path, "a name or password in an address", allowed)


def _upload(config: Config) -> None:
    if config.runs.upload:
        check_upload("runs.upload", config.runs.upload)


def _seed(config: Config) -> None:
    if config.runs.seed is not None and config.runs.seed >= 2**31:
        raise ConfigProblem("runs.seed", str(config.runs.seed), f"null or 0 to {2**31 - 1}")


def _text(config: Config) -> None:
    names = ("system.submitter", "system.name", "data.directory", "data.train_prefix", "data.valid_prefix")
    for path in (*names, "runs.output"):
        if not value_of(config, path).strip():
            raise ConfigProblem(path, "empty text", "a name")
    if config.data.train_prefix == config.data.valid_prefix:
        raise ConfigProblem(
            "data.valid_prefix", config.data.valid_prefix, "another file than data.train_prefix"
        )


def _benchmark(config: Config) -> None:
    """The open division too trains the benchmark on C4 (training_rules, Data)."""
    if not config.benchmark.is_scaled and config.data.corpus != "c4":
        allowed = f"{PROXY.name}, because the corpus is {config.data.corpus} and a log names what was trained"
        raise ConfigProblem("benchmark", config.benchmark.name, allowed)


def _corpus(config: Config) -> None:
    if config.data.corpus != "c4" and config.model.vocab_size < 257:
        raise ConfigProblem(
            "model.vocab_size",
            str(config.model.vocab_size),
            "at least 257: every byte, and the end of a document",
        )


def _arms(config: Config) -> None:
    names = config.runs.arms
    if not names:
        raise ConfigProblem("runs.arms", "[]", f"at least one of {', '.join(config.arms)}")
    if len(set(names)) != len(names):
        raise ConfigProblem("runs.arms", f"[{', '.join(names)}]", "each arm once")
    for name in names:
        if name not in config.arms:
            raise UnknownName("runs.arms", "arm", name, config.arms)
    for name, arm in config.arms.items():
        if arm.recipe not in config.recipes:
            raise UnknownName(f"arms.{name}.recipe", "recipe", arm.recipe, config.recipes)


def _world(config: Config) -> None:
    parallel = config.parallelism
    ranks = parallel.tensor * parallel.pipeline
    if parallel.world_size % ranks:
        raise ConfigProblem(
            "parallelism.gpus_per_node" if parallel.world_size < ranks else "parallelism.tensor",
            f"world size {parallel.world_size} (nodes * gpus_per_node)",
            f"a multiple of tensor * pipeline = {ranks}",
        )
    if parallel.nodes > 1 and config.launch.master_port == 0:
        raise ConfigProblem(
            "launch.master_port", "0", "a fixed port when parallelism.nodes > 1 (MASTER_PORT)"
        )
    if config.launch.master_port > 65535:
        raise ConfigProblem("launch.master_port", str(config.launch.master_port), "0 to 65535")
    if config.launch.node_rank >= parallel.nodes:
        raise ConfigProblem("launch.node_rank", str(config.launch.node_rank), f"0 to {parallel.nodes - 1}")


def _batch(config: Config) -> None:
    step = config.batch.micro_batch_size * config.parallelism.data
    _multiple(
        "batch.global_batch_size",
        config.batch.global_batch_size,
        step,
        "micro_batch_size * data parallel size",
    )
    _multiple(
        "evaluation.sequences", config.evaluation.sequences, step, "micro_batch_size * data parallel size"
    )


def _shapes(config: Config) -> None:
    model, tensor = config.model, config.parallelism.tensor
    _multiple("model.hidden_size", model.hidden_size, model.attention_heads, "attention_heads")
    _multiple("model.attention_heads", model.attention_heads, model.query_groups, "query_groups")
    _multiple(
        "model.hidden_size", model.hidden_size, 2 * model.attention_heads, "2 * attention_heads (RoPE pairs)"
    )
    if "norm" in model.fusions and model.norm != "torch":
        others = ", ".join(name for name in model.fusions if name != "norm")
        raise ConfigProblem("model.fusions", "norm", f"[{others}] while model.norm is {model.norm}")
    if "quantise" in model.fusions and not {"norm", "swiglu"} & set(model.fusions):
        raise ConfigProblem(
            "model.fusions", "quantise", "quantise only with swiglu or norm, whose results it takes"
        )
    for name in ("attention_heads", "query_groups", "ffn_hidden_size", "vocab_size"):
        _multiple(f"model.{name}", getattr(model, name), tensor, "parallelism.tensor")
    parallel = config.parallelism
    stages = parallel.pipeline * parallel.virtual_pipeline
    _multiple("model.layers", model.layers, stages, "parallelism.pipeline * parallelism.virtual_pipeline")
    if parallel.virtual_pipeline > 1 and parallel.pipeline == 1:
        raise ConfigProblem(
            "parallelism.virtual_pipeline", str(parallel.virtual_pipeline), "1 without a pipeline"
        )
    if parallel.virtual_pipeline > 1:
        _multiple(
            "batch.global_batch_size",
            config.micro_batches,
            parallel.pipeline,
            "parallelism.pipeline micro batches",
        )


def _sequence_parallel(config: Config) -> None:
    parallel = config.parallelism
    if parallel.sequence_parallel and parallel.tensor == 1:
        raise ConfigProblem("parallelism.sequence_parallel", "true", "false when parallelism.tensor is 1")
    if parallel.sequence_parallel:
        _multiple(
            "model.sequence_length", config.model.sequence_length, parallel.tensor, "parallelism.tensor"
        )


def _schedule(config: Config) -> None:
    schedule = config.schedule
    if schedule.warmup_steps >= schedule.max_steps:
        raise ConfigProblem(
            "schedule.warmup_steps", str(schedule.warmup_steps), f"less than max_steps = {schedule.max_steps}"
        )
    if schedule.max_steps < config.eval_interval_steps:
        raise ConfigProblem(
            "schedule.max_steps",
            str(schedule.max_steps),
            f"at least {config.eval_interval_steps}, the steps to the first evaluation",
        )


def _closed_division(config: Config) -> None:
    if not config.closed_benchmark:
        return
    for path, fixed in _CLOSED.items():
        if value_of(config, path) != fixed:
            raise ConfigProblem(
                path,
                str(value_of(config, path)),
                f"{fixed}, which the closed division fixes (training_rules, "
                f"{BENCHMARK.name}); or set system.division: open",
            )


def _watchdog_patience(config: Config) -> None:
    for name in ("init_s", "hang_s", "silence_s"):
        value = getattr(config.watchdog, name)
        if 0 < value < _LEAST_S:
            allowed = f"0 (endless), or at least {_LEAST_S:g} seconds"
            raise ConfigProblem(f"watchdog.{name}", f"{value:g}", allowed)


def _straggler_ratio(config: Config) -> None:
    ratio = config.watchdog.straggler_ratio
    if 0 < ratio <= 1:
        raise ConfigProblem(
            "watchdog.straggler_ratio",
            f"{ratio:g}",
            "0 (never), or a number > 1, the ratio of a slow rank's time",
        )


def _cuda_graph(config: Config) -> None:
    """What a CUDA graph of all micro batches cannot hold."""
    parallel = config.parallelism
    if not parallel.cuda_graph:
        return
    if parallel.pipeline > 1:  # p2p_communication.py of Megatron: batch_p2p_sync
        allowed = (
            "false with pipeline stages, because Megatron waits for the GPU at the messages between them"
        )
        raise ConfigProblem("parallelism.cuda_graph", "true", allowed)
    if parallel.recompute == "full":
        allowed = "false with recompute: full, because Megatron's checkpoints copy random states to the host"
        raise ConfigProblem("parallelism.cuda_graph", "true", allowed)
    for name in config.runs.arms:
        if config.arms[name].transformer_engine != "none":
            allowed = f"false with the arm {name}, because the graph's products could not be counted: they are not ours"
            raise ConfigProblem("parallelism.cuda_graph", "true", allowed)


def _diagnostics_numbers(config: Config) -> None:
    found = config.diagnostics
    if found.every_steps < 0:
        raise ConfigProblem("diagnostics.every_steps", str(found.every_steps), "0 (none) or more")
    longest = max(1, found.every_steps)
    if not 1 <= found.consecutive_steps <= longest:
        allowed = f"1 to {longest}, the steps from one look to the next"
        raise ConfigProblem("diagnostics.consecutive_steps", str(found.consecutive_steps), allowed)
    if found.rows and found.rows < _GROUP:
        raise ConfigProblem("diagnostics.rows", str(found.rows), f"0 (all) or at least {_GROUP}")


def _diagnostics_linears(config: Config) -> None:
    """Diagnostics can read only the operands of our own linears."""
    for name in config.runs.arms if config.diagnostics.every_steps else ():
        if config.arms[name].transformer_engine != "none":
            allowed = (
                f"0 with the arm {name}, because diagnostics cannot read the "
                "operands of Transformer Engine's linears"
            )
            raise ConfigProblem("diagnostics.every_steps", str(config.diagnostics.every_steps), allowed)


def _multiple(path: str, value: int, divisor: int, meaning: str) -> None:
    if value % divisor:
        raise ConfigProblem(path, str(value), f"a multiple of {meaning} = {divisor}")


_RULES: tuple[Callable[[Config], None], ...] = (
    _signs,
    _seed,
    _power,
    _upload,
    _text,
    _benchmark,
    _corpus,
    _arms,
    _world,
    _shapes,
    _batch,
    _sequence_parallel,
    _closed_division,
    _schedule,
    *recipes_rules.RULES,
    *checkpoint_rules.RULES,
    _watchdog_patience,
    _straggler_ratio,
    _cuda_graph,
    _diagnostics_numbers,
    _diagnostics_linears,
)

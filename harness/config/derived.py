"""Numbers that follow from the configuration, each with its formula, and notes about the rules."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config import checkpoint_rules
from harness.contract.config import Config

SUBMITTER, SYSTEM = "reference", "unnamed_system"  # placeholders in the shipped benchmark.yaml
_PLACEHOLDER = "system: "
NO_NOTES = "no notes"


@dataclass(frozen=True, slots=True)
class Derived:
    """A number that is derived, not configured.

    Args:
        name: its name in the log or in Megatron.
        formula: its formula, in configured values.
    """

    name: str
    value: int | float
    formula: str


def tflop_per_sequence(config: Config) -> float:
    """Operations to train on one sequence, in 1e12: the forward pass, and twice as many for the backward pass.

    6 * (weights in matrix products) * tokens, with the output head and without the embedding look-up, plus causal
    attention 6 * layers * hidden * tokens^2 (scores and values, half of the square). Llama 3.1 8B: 421.65; the
    reference's 421.59 counts the head with 128,000 rows, without the 256 special tokens.
    """
    model = config.model
    norms = (2 * model.layers + 1) * model.hidden_size
    matrix_weights = model.parameters - model.vocab_size * model.hidden_size - norms
    tokens = model.sequence_length
    attention = 6 * model.layers * model.hidden_size * tokens**2
    return (6 * matrix_weights * tokens + attention) / 1e12


def derived(config: Config) -> list[Derived]:
    """Every number that follows from the configuration."""
    batch, parallel, model = config.batch, config.parallelism, config.model
    evaluations = config.schedule.max_steps // config.eval_interval_steps
    tokens = batch.global_batch_size * model.sequence_length
    return [
        Derived("world size", parallel.world_size, "nodes * gpus_per_node"),
        Derived("data parallel size", parallel.data, "world size / (tensor * pipeline)"),
        Derived(
            "gradient accumulation steps",
            config.micro_batches,
            "global_batch_size / (micro_batch_size * data parallel size)",
        ),
        Derived("tokens per step", tokens, "global_batch_size * sequence_length"),
        Derived(
            "evaluation interval, steps",
            config.eval_interval_steps,
            "ceil(interval_samples / global_batch_size)",
        ),
        Derived(
            "evaluation interval, samples", config.eval_interval_samples, "interval steps * global_batch_size"
        ),
        Derived("evaluations until the step limit", evaluations, "floor(max_steps / interval steps)"),
        Derived(
            "micro batches per evaluation",
            config.evaluation.sequences // (batch.micro_batch_size * parallel.data),
            "sequences / (micro_batch_size * data parallel size)",
        ),
        Derived("decay steps", config.schedule.decay_steps, "max_steps - warmup_steps"),
        Derived("end learning rate", config.schedule.end_lr, "base_lr * end_lr_fraction"),
        Derived("train samples", config.train_samples, "max_steps * global_batch_size"),
        Derived("parameters", model.parameters, "from the architecture, embedding and head untied"),
        Derived(
            "TFLOP per sequence",
            round(tflop_per_sequence(config), 6),
            "(6 * matrix weights * tokens + 6 * layers * hidden * tokens^2) / 1e12",
        ),
    ]


def is_warning(note: str, config: Config) -> bool:
    """Whether a note of `lint` names a defect of all future logs, not a setting that a user may want."""
    return config.closed_benchmark and note.startswith(_PLACEHOLDER)


def placeholders(config: Config) -> list[str]:
    """The keys that still hold what benchmark.yaml is shipped with."""
    shipped = {
        "system.submitter": config.system.submitter == SUBMITTER,
        "system.name": config.system.name == SYSTEM,
    }
    return [path for path, still in shipped.items() if still]


def lint(config: Config) -> list[str]:
    """Notes on rules that a result of this configuration would not meet, for a configuration that can run."""
    notes = checkpoint_rules.notes(config)
    if config.benchmark.is_scaled:
        name = config.benchmark.name
        proxy = f"{config.profile}: a scaled model on other data; its log says {name} and is no result"
        return [proxy, *notes]
    if not 16 <= config.batch.global_batch_size <= 128:
        notes.append("batch.global_batch_size: reference convergence points exist for 16 to 128 only")
    if config.runs.count < (scored := config.benchmark.runs):
        notes.append(f"runs.count: {config.runs.count}; the rules score {scored} runs")
    if config.runs.seed is not None:
        notes.append(
            "runs.seed: set by hand; a submission draws seeds from the clock or the system's randomness"
        )
    if config.runs.paired_seeds and len(config.runs.arms) > 1:
        notes.append("runs.paired_seeds: arms share seeds; a submission's seeds are unique over all its runs")
    if config.system.division == "open":
        notes.append("system.division: open; fixed hyperparameters are not enforced")
    if still := placeholders(config):
        keys = " and ".join(path.removeprefix("system.") for path in still)
        plural = "are still placeholders" if len(still) > 1 else "is still a placeholder"
        notes.append(f"{_PLACEHOLDER}{keys} {plural}, which every log would show; ./run.sh init sets them")
    return notes or [NO_NOTES]

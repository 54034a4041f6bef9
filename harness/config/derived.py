"""Command `plan`: every configured value with its origin, every derived number with its formula, and what to mind."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.base.errors import EXIT_OK
from harness.config import checkpoint_rules, memory
from harness.config.file import Origin, Resolved, leaves_of, resolve
from harness.config.profile_choice import default_profile
from harness.contract.config import Config, to_mapping


@dataclass(frozen=True, slots=True)
class Derived:
    """A number nobody configures.

    Args:
        name: what it is called in the log or in Megatron.
        formula: how it follows from configured values.
    """

    name: str
    value: int | float
    formula: str


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", help="default: the one that fits this machine")
    parser.add_argument("--preset", metavar="S", help="a system of benchmark.yaml, laid over llama31_8b")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    profile = args.profile or ("llama31_8b" if args.preset else default_profile())
    resolved = resolve(profile, overrides=args.overrides, preset=args.preset)
    if args.json:
        print(json.dumps(_document(resolved), indent=2))
    else:
        _print(resolved)
    memory.require_fit(resolved.config)
    return EXIT_OK


def tflop_per_sequence(config: Config) -> float:
    """Training arithmetic of one sequence, in 1e12 operations: forward, and twice that for backward.

    6 * (weights in matrix products) * tokens, the output head included and the embedding look-up not, plus causal
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


def lint(config: Config) -> list[str]:
    """What the rules would say about a result of this configuration, beyond what is refused outright."""
    notes = checkpoint_rules.notes(config)
    if config.profile != "llama31_8b":
        proxy = (
            f"{config.profile}: a scaled model on other data; its log says llama31_8b_proxy and is no result"
        )
        return [proxy, *notes]
    if not 16 <= config.batch.global_batch_size <= 128:
        notes.append("batch.global_batch_size: reference convergence points exist for 16 to 128 only")
    if config.runs.count < 10:
        notes.append(f"runs.count: {config.runs.count}; the rules score 10 runs")
    if config.runs.seed is not None:
        notes.append(
            "runs.seed: set by hand; a submission draws seeds from the clock or the system's randomness"
        )
    if config.runs.paired_seeds and len(config.runs.arms) > 1:
        notes.append("runs.paired_seeds: arms share seeds; a submission's seeds are unique over all its runs")
    if config.system.division == "open":
        notes.append("system.division: open; fixed hyperparameters are not enforced")
    if config.system.submitter == "reference" or config.system.name == "unnamed_system":
        notes.append("system: submitter or name is still the placeholder; both go into every log")
    return notes or ["nothing to mind"]


def _document(resolved: Resolved) -> dict[str, Any]:
    config = resolved.config
    values = {
        path: {"value": value, "origin": asdict(resolved.origins[path])}
        for path, value in _configured(config)
    }
    return {
        "profile": config.profile,
        "configured": values,
        "derived": {item.name: {"value": item.value, "formula": item.formula} for item in derived(config)},
        "memory": {**asdict(memory.predicted(config)), "total": memory.predicted(config).total},
        "lint": lint(config),
    }


def _configured(config: Config) -> list[tuple[str, Any]]:
    return [(path, value) for path, value in leaves_of(to_mapping(config)) if path != "profile"]


def _print(resolved: Resolved) -> None:
    config, console = resolved.config, _console()
    console.print(f"profile {config.profile}", highlight=False)
    console.print(_configured_table(config, resolved.origins))
    table = Table(title="derived", title_justify="left", box=None, pad_edge=False)
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("formula")
    for item in derived(config):
        table.add_row(
            item.name, f"{item.value:,}" if isinstance(item.value, int) else f"{item.value:g}", item.formula
        )
    console.print(table)
    if config.profile != "proxy":
        console.print(_memory_line(config), highlight=False, markup=False, soft_wrap=True)
    for note in lint(config):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _memory_line(config: Config) -> str:
    need = memory.predicted(config)
    parts = [f"{name.replace('_', ' ')} {value / 2**30:.1f}" for name, value in asdict(need).items() if value]
    have = config.system.accelerator_memory_gib
    there = (
        f" of {have:.0f}"
        if have
        else ", of an accelerator whose memory nobody told (system.accelerator_memory_gib)"
    )
    return f"memory per accelerator, predicted: {need.total / 2**30:.0f} GiB{there}: {', '.join(parts)}"


def _configured_table(config: Config, origins: Mapping[str, Origin]) -> Table:
    table = Table(title="configured", title_justify="left", box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", overflow="fold")
    for path, value in _configured(config):
        table.add_row(path, _shown(value), describe(origins[path]))
    return table


def describe(origin: Origin) -> str:
    """An origin as the plan prints it."""
    if origin.line is not None:
        return f"{origin.kind} {origin.file}:{origin.line}"
    return origin.kind if origin.kind != "env" else f"env {origin.name}"


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"\\[{', '.join(map(str, value))}]"  # rich reads a bare bracket as markup
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _console() -> Console:
    console = Console()
    # a pipe has no width: a fixed one keeps every row on one line for grep
    return console if console.is_terminal else Console(width=160)

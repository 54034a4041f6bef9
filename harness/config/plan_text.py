"""Prints the answer of `plan`: one screen of what will run, or all settings and derived numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from harness.base.paths import PROGRAM
from harness.base.text import plural
from harness.config import memory, recipe_text
from harness.config.derived import NO_NOTES, derived, is_warning, lint
from harness.config.file import Origin, Resolved, leaves_of
from harness.config.profile_choice import absent_tokens
from harness.contract.config import Config, to_mapping

_LABEL = 10  # columns of the labels at the left
_PARTS = 4  # number of memory parts that are named


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmTime:
    """The projected time of one arm, or why there is none.

    Args:
        error_pct: nine of ten held-out public systems had a smaller error.
        flags: properties of the arm or the system that no public run has.
    """

    arm: str
    step_s: float | None = None
    time_to_train_min: float | None = None
    error_pct: float | None = None
    error_from: str = ""
    flags: tuple[str, ...] = ()
    why: str = ""


def document(resolved: Resolved, times: Sequence[ArmTime]) -> dict[str, Any]:
    """The plan as plain data, for --json."""
    config = resolved.config
    values = {
        path: {"value": value, "origin": asdict(resolved.origins[path])}
        for path, value in _configured(config)
    }
    problem = memory.misfit(config)
    return {
        "profile": config.profile,
        "configured": values,
        "derived": {item.name: {"value": item.value, "formula": item.formula} for item in derived(config)},
        "memory": {**asdict(memory.predicted(config)), "total": memory.predicted(config).total},
        "lint": lint(config),
        "times": [asdict(one) for one in times],
        **({} if problem is None else {"error": problem}),
    }


def screen(resolved: Resolved, times: Sequence[ArmTime], *, width: int) -> list[str]:
    """The plan in one screen: notes first, then what runs, the memory that it needs, and its time.

    Args:
        width: columns at which lines are wrapped.
    """
    config = resolved.config
    rows = [
        ("plan", _title(resolved)),
        *_notes(config),
        *_labelled("trains", [_arm(config, arm) for arm in config.runs.arms]),
        *_labelled("on", _ranks(config)),
        *_labelled("ends", _ends(config)),
        *_labelled("memory", _memory(config, resolved.origins["system.accelerator_memory_gib"])),
        *_labelled("time", list(_times(config, times))),
        ("data", _data(config)),
        ("output", config.runs.output),
        (
            "more",
            f"{PROGRAM} plan --all: every setting with its origin, every derived number with its formula",
        ),
    ]
    return [line for label, text in rows for line in _wrapped(label, text, width)]


def _wrapped(label: str, text: str, width: int) -> list[str]:
    indent = " " * _LABEL
    lines = textwrap.wrap(
        text, max(40, width) - _LABEL, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [f"{label:<{_LABEL}}{lines[0]}", *(f"{indent}{line}" for line in lines[1:])]


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Put the label beside the first of several rows."""
    return [(label if number == 0 else "", text) for number, text in enumerate(texts)]


def _title(resolved: Resolved) -> str:
    config = resolved.config
    preset = next((one.name for one in resolved.origins.values() if one.kind == "preset"), None)
    head = f"profile {config.profile}, preset {preset}" if preset else f"profile {config.profile}"
    system = f"{config.system.submitter}, {config.system.name}"
    return f"{head}; {config.benchmark.name} in the {config.system.division} division, logged as {system}"


def _notes(config: Config) -> list[tuple[str, str]]:
    found = [("warning" if is_warning(note, config) else "note", note) for note in lint(config)]
    if (problem := memory.misfit(config)) is not None:
        found.append(("warning", problem))
    found = [(label, text if text != NO_NOTES else "none") for label, text in found]
    return sorted(found, key=lambda row: row[0] == "note")


def _arm(config: Config, arm: str) -> str:
    chosen = config.arms[arm]
    baseline = ", the baseline" if arm == config.runs.arms[-1] and len(config.runs.arms) > 1 else ""
    engine = f", backend {chosen.backend}" if chosen.backend != "auto" else ""
    if chosen.transformer_engine != "none":
        engine += f", Transformer Engine ({chosen.transformer_engine})"
    recipe = recipe_text.brief(config.recipes[chosen.recipe])
    return f"{arm}{baseline}: {plural(config.runs.count, 'run')}, recipe {chosen.recipe} ({recipe}){engine}"


def _ranks(config: Config) -> list[str]:
    parallel, batch = config.parallelism, config.batch
    boards = config.system.accelerator or "accelerators (CPU processes where there are none)"
    nodes = plural(parallel.nodes, "node")
    split = f"data parallel {parallel.data}, tensor {parallel.tensor}, pipeline {parallel.pipeline}"
    count = config.micro_batches
    micro = f"{parallel.data} x {count} micro batch{'es' * (count != 1)} of {batch.micro_batch_size}"
    return [
        f"{nodes} x {parallel.gpus_per_node} {boards}; {split}",
        f"batch {batch.global_batch_size} sequences of {config.model.sequence_length:,} tokens: {micro}; "
        f"learning rate {config.schedule.base_lr:g} after {plural(config.schedule.warmup_steps, 'step')}",
    ]


def _ends(config: Config) -> list[str]:
    evaluation = config.evaluation
    return [
        f"at log perplexity {evaluation.target_log_perplexity:g}, or after {config.schedule.max_steps:,} steps; "
        f"evaluated every {config.eval_interval_samples:,} samples on {evaluation.sequences:,} sequences"
    ]


def _memory(config: Config, origin: Origin) -> list[str]:
    need = memory.predicted(config)
    have = config.system.accelerator_memory_gib
    room = (
        f" of {have:g} GiB per accelerator, predicted ({describe(origin)})"
        if have
        else " GiB per accelerator, predicted; what it has is unknown (system.accelerator_memory_gib)"
    )
    sizes = sorted(asdict(need).items(), key=lambda part: -part[1])
    parts = [f"{name.replace('_', ' ')} {size / 2**30:.1f}" for name, size in sizes[:_PARTS] if size]
    rest = sum(size for _, size in sizes[_PARTS:]) / 2**30
    biggest = ", ".join([*parts, f"others {rest:.1f}"])
    return [f"{need.total / 2**30:.0f}{room}", f"in GiB: {biggest}"]


def _times(config: Config, times: Sequence[ArmTime]) -> Iterator[str]:
    if len(reasons := {one.why for one in times}) == 1 and reasons != {""}:
        yield reasons.pop()
        return
    for one in times:
        yield f"{one.arm}: {_time(config, one)}"
    if any(one.step_s for one in times):
        yield "projected from published systems, not measured; this code's own speed on GPUs is not known yet"


def _time(config: Config, one: ArmTime) -> str:
    if one.step_s is None or one.time_to_train_min is None:
        return one.why
    hours = config.runs.count * one.time_to_train_min / 60
    text = f"{1000 * one.step_s:,.0f} ms per step, {one.time_to_train_min:,.1f} min per run"
    error = f" +-{one.error_pct:.0f} %" if one.error_pct is not None else ""
    return "; ".join([f"{text}{error}, {hours:,.1f} h for {plural(config.runs.count, 'run')}", *one.flags])


def _data(config: Config) -> str:
    if not (absent := absent_tokens(config)):
        return f"{config.data.directory}: here"
    fetched = config.data.corpus == "c4"
    hint = f"{PROGRAM} data fetch gets them" if fetched else "the first run builds them"
    return f"{config.data.directory} (DATADIR) lacks {plural(len(absent), 'file')} of tokens; {hint}"


def tables(resolved: Resolved) -> Iterator[str | Table]:
    """Yield the tables of --all: every setting in use with its origin, every derived number with its formula."""
    config = resolved.config
    shown, unused = _in_use(config)
    yield f"profile {config.profile}"
    yield _configured_table(shown, resolved.origins)
    if unused:
        yield f"not used by runs.arms, so not shown: {', '.join(unused)}"
    yield _derived_table(config)
    need = memory.predicted(config)
    parts = [f"{name.replace('_', ' ')} {size / 2**30:.1f}" for name, size in asdict(need).items() if size]
    yield f"memory per accelerator, predicted: {need.total / 2**30:.0f} GiB; in GiB: {', '.join(parts)}"


def _configured(config: Config) -> list[tuple[str, object]]:
    return [(path, value) for path, value in leaves_of(to_mapping(config)) if path != "profile"]


def _in_use(config: Config) -> tuple[list[tuple[str, object]], list[str]]:
    """Return the settings in use, and the names of arms and recipes that no run uses."""
    recipes = {config.arms[arm].recipe for arm in config.runs.arms}
    while more := {config.recipes[name].switch_to for name in recipes} - recipes - {""}:
        recipes |= more
    unused = [f"arms.{name}" for name in config.arms if name not in config.runs.arms]
    unused += [f"recipes.{name}" for name in config.recipes if name not in recipes]
    above = tuple(f"{path}." for path in unused)
    return [row for row in _configured(config) if not row[0].startswith(above)], unused


def _configured_table(rows: Sequence[tuple[str, object]], origins: Mapping[str, Origin]) -> Table:
    table = Table(title="configured", title_justify="left", box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", overflow="fold")
    for path, value in rows:
        table.add_row(path, _shown(value), describe(origins[path]))
    return table


def _derived_table(config: Config) -> Table:
    table = Table(title="derived", title_justify="left", box=None, pad_edge=False)
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("formula")
    for item in derived(config):
        table.add_row(
            item.name, f"{item.value:,}" if isinstance(item.value, int) else f"{item.value:g}", item.formula
        )
    return table


def describe(origin: Origin) -> str:
    """Return an origin as `plan` prints it."""
    if origin.line is not None:
        return f"{origin.kind} {origin.file}:{origin.line}"
    if origin.kind == "facts":
        return origin.where
    return origin.kind if origin.kind != "env" else f"env {origin.name}"


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"\\[{', '.join(map(str, value))}]"  # rich would read an unescaped bracket as markup
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

"""The answer of `plan`: every setting with its origin, every derived number with its formula, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table

from harness.config import memory
from harness.config.derived import derived, lint
from harness.config.file import Origin, Resolved, leaves_of
from harness.contract.config import Config, to_mapping


def document(resolved: Resolved) -> dict[str, Any]:
    """The plan as plain data, for --json."""
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


def renderables(resolved: Resolved) -> Iterator[str | Table]:
    """The plan as text: lines and tables, in order."""
    config = resolved.config
    yield f"profile {config.profile}"
    yield _configured_table(config, resolved.origins)
    yield _derived_table(config)
    yield _memory_line(config, resolved.origins["system.accelerator_memory_gib"])
    yield from (f"note: {note}" for note in lint(config))


def _configured(config: Config) -> list[tuple[str, object]]:
    return [(path, value) for path, value in leaves_of(to_mapping(config)) if path != "profile"]


def _configured_table(config: Config, origins: Mapping[str, Origin]) -> Table:
    table = Table(title="configured", title_justify="left", box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("origin", overflow="fold")
    for path, value in _configured(config):
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


def _memory_line(config: Config, origin: Origin) -> str:
    need = memory.predicted(config)
    parts = [f"{name.replace('_', ' ')} {value / 2**30:.1f}" for name, value in asdict(need).items() if value]
    have = config.system.accelerator_memory_gib
    there = (
        f" of {have:g} GiB ({describe(origin)})"
        if have
        else ", the accelerator's memory is unknown (system.accelerator_memory_gib)"
    )
    total = f"memory per accelerator, predicted: {need.total / 2**30:.0f} GiB{there}"
    return f"{total}; in GiB: {', '.join(parts)}"


def describe(origin: Origin) -> str:
    """An origin, as the plan prints it."""
    if origin.line is not None:
        return f"{origin.kind} {origin.file}:{origin.line}"
    if origin.kind == "facts":
        return origin.where
    return origin.kind if origin.kind != "env" else f"env {origin.name}"


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"\\[{', '.join(map(str, value))}]"  # rich would read an unescaped bracket as markup
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

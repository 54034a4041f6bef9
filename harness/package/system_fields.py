"""The system description: every field, and the origin of its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compliance.system_description import ALSO, FIELDS, MEANINGFUL, STATUSES
from harness.contract.config import Config, System
from harness.machine import facts, probe

_STATUS = dict(zip(("onprem", "cloud", "research", "preview"), STATUSES, strict=True))
_FRAMEWORKS = (("PyTorch", "torch"), ("Megatron-core", "megatron-core"))
PLACEHOLDER = "placeholder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """The value of a field.

    Args:
        origin: probed | benchmark.yaml | facts.yaml | the campaign | given | placeholder (empty: the submitter fills
            it in).
    """

    value: str
    origin: str


def describe(config: Config, recorded: Mapping[str, object], given: Mapping[str, str]) -> dict[str, Field]:
    """Every field of the description, in the order of the rules.

    Args:
        recorded: environment.json of a run, with the probe of the training machine.
        given: fields that the submitter gave; they override all others.
    """
    fields = {name: Field(value="", origin=PLACEHOLDER) for name in (*FIELDS, *ALSO)}
    for origin, values in (
        (facts.FACTS.name, _of_facts(config.system)),
        ("benchmark.yaml", _of_the_preset(config.system)),
        ("probed", _probed(recorded)),
        ("the campaign", _of_runs(recorded)),
        ("benchmark.yaml", _of_config(config)),
        ("given", given),
    ):
        known = {name: value for name, value in values.items() if value or origin == "given"}
        fields.update({name: Field(value=value, origin=origin) for name, value in known.items()})
    return fields


def placeholders(fields: Mapping[str, Field]) -> tuple[list[str], list[str]]:
    """Empty fields that the rules require, and empty fields that are optional."""
    empty = [name for name, field in fields.items() if field.origin == PLACEHOLDER]
    return [name for name in empty if name in MEANINGFUL], [name for name in empty if name not in MEANINGFUL]


def _probed(recorded: Mapping[str, object]) -> dict[str, str]:
    """The probe of the training machine. This machine is probed only where it is clearly the same one."""
    system = recorded.get("system")
    if not isinstance(system, dict):
        here = probe.machine()
        mine = (probe.processor(), here.get("accelerator_model_name"))
        system = here if (recorded.get("cpu"), recorded.get("accelerator")) == mine else {}
    return {name: str(value) for name, value in system.items() if name in (*FIELDS, *ALSO)}


def _of_config(config: Config) -> dict[str, str]:
    return {
        "submitter": config.system.submitter,
        "division": config.system.division,
        "status": _STATUS[config.system.status],
        "system_name": config.system.name,
        "number_of_nodes": str(config.parallelism.nodes),
        "accelerators_per_node": str(config.parallelism.gpus_per_node),
    }


def _of_facts(system: System) -> dict[str, str]:
    """Memory of the accelerator that the preset names, where the preset gives none."""
    known = facts.accelerator(system.accelerator)
    memory_gib = known.memory_gib if known else None
    return {"accelerator_memory_capacity": f"{memory_gib:g} GiB" if memory_gib else ""}


def _of_the_preset(system: System) -> dict[str, str]:
    """Fields of the preset; a probed field overrides them."""
    memory = f"{system.accelerator_memory_gib:g} GiB" if system.accelerator_memory_gib else ""
    same = memory == _of_facts(system)["accelerator_memory_capacity"]
    return {
        "accelerator_model_name": system.accelerator,
        "accelerator_memory_capacity": "" if same else memory,
    }


def _of_runs(recorded: Mapping[str, object]) -> dict[str, str]:
    packages = recorded.get("packages")
    known = packages.items() if isinstance(packages, dict) else ()
    versions = {str(name): str(version) for name, version in known}
    frameworks = [f"{name} {versions.pop(key)}" for name, key in _FRAMEWORKS if key in versions]
    stack = [f"{name} {version}" for name, version in sorted(versions.items())]
    system = recorded.get("system")
    driver = str(system.get("driver") or "") if isinstance(system, dict) else ""
    python = f"Python {recorded['python']}" if recorded.get("python") else ""
    return {
        "framework": ", ".join(frameworks),
        "other_software_stack": ", ".join(part for part in (*stack, python, driver) if part),
        "host_processor_model_name": str(recorded.get("cpu") or ""),
        "accelerator_model_name": str(recorded.get("accelerator") or ""),
    }

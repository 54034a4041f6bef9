"""Reads system descriptions and checks their fields and values.

One schema for rounds v5.1, v6.0 and v6.1: system_desc_checker.py of mlperf-logging 4.1.68 has one list of fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compliance.rule_input import LARGEST_DESCRIPTION_BYTES, Finding

# submission_rules, <system_desc_id>.json metadata; "yes": a meaningful response is required; "": may be empty
_TABLE = {
    "submitter": "yes", "division": "yes", "status": "yes", "system_name": "yes", "number_of_nodes": "yes",
    "host_processors_per_node": "yes", "host_processor_model_name": "yes", "host_processor_core_count": "yes",
    "host_processor_vcpu_count": "", "host_processor_frequency": "", "host_processor_caches": "",
    "host_processor_interconnect": "", "host_memory_capacity": "yes", "host_storage_type": "yes",
    "host_storage_capacity": "yes", "host_networking": "yes", "host_networking_topology": "yes",
    "host_memory_configuration": "yes", "accelerators_per_node": "yes", "accelerator_model_name": "yes",
    "accelerator_host_interconnect": "yes", "accelerator_frequency": "", "accelerator_on-chip_memories": "",
    "accelerator_memory_configuration": "yes", "accelerator_memory_capacity": "yes",
    "accelerator_interconnect": "yes", "accelerator_interconnect_topology": "", "cooling": "yes", "hw_notes": "",
    "framework": "yes", "other_software_stack": "yes", "operating_system": "yes", "sw_notes": "",
}  # fmt: skip
FIELDS = tuple(_TABLE)  # all of them have to be present (system_desc_checker.py)
ALSO = ("system_type", "host_network_card_count")  # of the rules' table, unknown to the tools
MEANINGFUL = (*(name for name, answer in _TABLE.items() if answer), *ALSO)
STATUSES = (  # system_desc_checker.py; exactly these words
    "Available on-premise",
    "Available cloud",
    "Research, Development, or Internal (RDI)",
    "Preview",
)
DIVISIONS = ("closed", "open")  # lower case: package_checker.py compares with "closed"
_JOINED = (
    "submitter system_name host_processor_model_name host_processor_core_count accelerator_model_name "
    "accelerators_per_node framework"
)
JOINED = tuple(_JOINED.split())  # joined as text: any other type crashes system_desc_checker.py
_NOTES = ("hw_notes", "sw_notes")  # result_summarizer.py joins these as text
COUNTS = (
    "number_of_nodes",
    "host_processors_per_node",
    "accelerators_per_node",
)  # int() in result_summarizer.py
_NAMES = ("submitter", "system_name", "framework")
_UNFILLED = ("TODO", "TBD", "FIXME", "XXX", "CHANGEME")


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """One systems/<system>.json.

    Args:
        path: the name of the file in violations.
        fields: None if the file holds no JSON object; then `problem` gives the reason and `line` the place.
        lines: the line of each field.
    """

    path: str
    fields: Mapping[str, Any] | None
    lines: Mapping[str, int]
    repeated: tuple[str, ...] = ()
    problem: str = ""
    line: int | None = None

    def finding(self, severity: str, key: str | None, found: Any, expected: Any, message: str) -> Finding:
        line = self.lines.get(key) if key else self.line
        return Finding(
            severity=severity, file=self.path, line=line, key=key, found=found, expected=expected,
            message=message,
        )  # fmt: skip


class _Repeated(dict[str, Any]):
    """A JSON object that records its repeated keys."""

    twice: tuple[str, ...] = ()


def read(file: Path, name: str) -> Description:
    """Reads a description as the official tools do: strict UTF-8 without a byte order mark."""
    problem, line = "", None
    fields: Any = None
    text = ""
    try:
        if file.stat().st_size > LARGEST_DESCRIPTION_BYTES:
            raise ValueError(f"larger than {LARGEST_DESCRIPTION_BYTES >> 20} MiB")
        text = file.read_bytes().decode("utf-8")
        fields = json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        problem, line = error.msg, error.lineno
    except UnicodeDecodeError as error:
        problem, line = f"byte {error.start} is not UTF-8", None
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)[:80] or type(error).__name__
    if not problem and not isinstance(fields, dict):
        problem = f"a JSON {type(fields).__name__}"
    if problem:
        return Description(path=name, fields=None, lines={}, problem=problem, line=line)
    return Description(path=name, fields=fields, lines=_lines(text, fields), repeated=fields.twice)


def _pairs(pairs: list[tuple[str, Any]]) -> _Repeated:
    made, names = _Repeated(pairs), [name for name, _ in pairs]
    made.twice = (
        tuple(sorted({name for name in names if names.count(name) > 1})) if len(names) > len(made) else ()
    )
    return made


def _lines(text: str, fields: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, row in enumerate(text.split("\n"), 1):
        for match in re.finditer(r'"((?:[^"\\]|\\.)*)"\s*:', row):
            if match[1] in fields:
                found.setdefault(match[1], number)
    return found


def faults(one: Description) -> Iterator[Finding]:
    """Yields every fault of a description that the rules forbid or the official tools cannot read."""
    if one.fields is None:
        message = "no field can be read: write one JSON object"
        yield one.finding("error", None, one.problem, "a JSON object in UTF-8", message)
        return
    for field in FIELDS:
        if field not in one.fields:
            message = "a required field is missing: add it, with an empty text if it does not apply"
            yield one.finding("error", field, "absent", "present", message)
    for field in one.repeated:
        yield one.finding(
            "error", field, "twice", "once", "the field occurs twice and readers use the last: keep one"
        )
    yield from _types(one, one.fields)
    yield from _values(one, one.fields)


def _types(one: Description, fields: Mapping[str, Any]) -> Iterator[Finding]:
    for field in (*JOINED, *_NOTES):
        if field in fields and not isinstance(fields[field], str):
            message = "the official tools crash on a value that is not text: write it as text"
            yield one.finding("error", field, json.dumps(fields[field])[:80], "a JSON string", message)
    for field in COUNTS:
        value = fields.get(field, "1")
        whole = str(value).isascii() and str(value).isdigit() and len(str(value)) < 8
        if not whole or isinstance(value, bool) or int(value) < (field != "accelerators_per_node"):
            message = "the official result_summarizer crashes unless int() can read it: write a count as text"
            yield one.finding("error", field, json.dumps(value)[:80], "a count, as text", message)


def _values(one: Description, fields: Mapping[str, Any]) -> Iterator[Finding]:
    for field in _NAMES:
        if isinstance(fields.get(field), str) and not fields[field].strip():
            yield one.finding("error", field, "empty", "a name", "the name is empty: fill it in")
    for field, allowed in (("status", STATUSES), ("division", DIVISIONS)):
        if field in fields and fields[field] not in allowed:
            message = "the value must match exactly: with 'Closed' the official tools skip checks silently"
            yield one.finding("error", field, str(fields[field])[:80], " | ".join(allowed), message)
    for field, value in fields.items():
        text = value.strip().upper() if isinstance(value, str) else ""
        if "PLACEHOLDER" in text or text in _UNFILLED or re.fullmatch(r"<[^<>]*>|\$\{?\w+\}?", text):
            yield one.finding(
                "error", field, value[:80], "a value", "a placeholder was not filled in: write the value"
            )


def unanswered(one: Description) -> Iterator[Finding]:
    """Yields the fields that are empty although the rules require a meaningful response."""
    for field in MEANINGFUL if one.fields is not None else ():
        value = one.fields.get(field) if one.fields else None
        message = "the rules require a meaningful response: fill it in"
        if field in ALSO and value is None:
            yield one.finding("warning", field, "absent", "a meaningful response", message)
        elif isinstance(value, str) and not value.strip() and field not in _NAMES:
            yield one.finding("warning", field, "empty", "a meaningful response", message)

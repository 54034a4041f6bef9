"""Compares a tree with the same organisation's tree of an earlier round: system descriptions, code, and reused logs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import repository
from compliance.rule_input import Violation, read_json
from harness.analysis.submission_loader import result_files
from harness.base.errors import UsageError
from harness.base.text import plural, printable
from harness.package import archive

_SHOWN = 5  # names in a line; the JSON has all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedField:
    """A field of a system description; None where a round does not have it."""

    name: str
    before: str | None
    now: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResubmittedSystem:
    """A system of the tree, compared with the system of the same name in the earlier round.

    Args:
        known: whether the earlier round has it.
        logs_in_common: number of result files that equal files of the earlier round, byte for byte.
    """

    system: str
    known: bool
    fields: Sequence[ChangedField]
    logs: int
    logs_in_common: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedCode:
    """Files below benchmarks/, by their path in the organisation's directory."""

    added: Sequence[str]
    removed: Sequence[str]
    changed: Sequence[str]

    @property
    def any(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Previous:
    """Changes since an earlier round: `previous` of `package verify --json`."""

    tree: str
    systems: Sequence[ResubmittedSystem]
    code: ChangedCode


def organisation_of(tree: Path, name: str) -> Path:
    """This organisation's directory in an earlier round's tree: the tree itself, or one below it.

    Raises:
        UsageError: there is none, or there are several without this name.
    """
    homes = [tree.resolve()] if (tree / "results").is_dir() else list(repository.organisations(tree))
    named = [home for home in homes if home.name == name]
    found = named or (homes if len(homes) == 1 else [])
    if found:
        return found[0]
    names = ", ".join(printable(home.name) for home in homes[:_SHOWN]) or "no results/"
    raise UsageError(
        f"--previous: {printable(tree)}: found {names}; allowed: a tree of {printable(name)}, or one with it"
    )


def compare(root: Path, before: Path) -> Previous:
    """Compare two trees of one organisation; neither is changed."""
    systems = [place.system for place in repository.result_directories(root)]
    return Previous(
        tree=str(before),
        systems=[_system(name, root, before) for name in systems],
        code=_code(root, before),
    )


def _system(name: str, root: Path, before: Path) -> ResubmittedSystem:
    mine, theirs = _logs(root, name), _logs(before, name)
    known = bool(theirs) or (before / "systems" / f"{name}.json").is_file()
    return ResubmittedSystem(
        system=name,
        known=known,
        fields=_fields(name, root, before) if known else (),
        logs=len(mine),
        logs_in_common=sum(digest in theirs for digest in mine),
    )


def _logs(root: Path, system: str) -> list[str]:
    """Digests of a system's result files."""
    places = [place for place in repository.result_directories(root) if place.system == system]
    return [archive.digest(file) for place in places for file in result_files(place.path) if file.is_file()]


def _fields(name: str, root: Path, before: Path) -> list[ChangedField]:
    now, then = ({**_description(home, name)} for home in (root, before))
    return [
        ChangedField(name=field, before=then.get(field), now=now.get(field))
        for field in dict.fromkeys((*then, *now))
        if then.get(field) != now.get(field)
    ]


def _description(root: Path, system: str) -> dict[str, str]:
    """The fields as text; empty where there is no readable description."""
    content = read_json(root / "systems" / f"{system}.json")
    fields = content if isinstance(content, dict) else {}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def _code(root: Path, before: Path) -> ChangedCode:
    now, then = (_files(home) for home in (root, before))
    return ChangedCode(
        added=sorted(now.keys() - then.keys()),
        removed=sorted(then.keys() - now.keys()),
        changed=sorted(name for name in now.keys() & then.keys() if now[name] != then[name]),
    )


def _files(root: Path) -> dict[str, str]:
    if not (root / "benchmarks").is_dir():
        return {}
    return {f"benchmarks/{name}": digest for name, digest in archive.checksums(root / "benchmarks").items()}


def questions(found: Previous, root: Path) -> list[Violation]:
    """Questions for a reviewer about logs of the earlier round that come with another description or other code."""
    return [
        Violation(
            rule="previous", severity="warning", file=f"{root.name}/systems/{one.system}.json", line=None, key=None,
            found=f"{one.logs_in_common} logs of the earlier round, {_why(one, found.code)}",
            expected="the description and the code of the earlier round",
            message="a result that is submitted again must keep "
            "its description and code", section="--previous", review=True,
        )
        for one in found.systems
        if one.logs_in_common and (one.fields or found.code.any)
    ]  # fmt: skip


def _why(one: ResubmittedSystem, code: ChangedCode) -> str:
    parts = [f"other {_few([field.name for field in one.fields])}"] if one.fields else []
    return " and ".join([*parts, "other code"] if code.any else parts)


def lines(found: Previous) -> list[str]:
    """Lines of text: one for each system, each changed field, and each kind of change of the code."""
    told = [line for one in found.systems for line in _system_lines(one)]
    code = found.code
    for word, names in (("added", code.added), ("removed", code.removed), ("changed", code.changed)):
        if names:
            told.append(f"previous: code: {plural(len(names), 'file')} {word}: {_few(names)}")
    return told if code.any else [*told, "previous: code: as in the earlier round"]


def _system_lines(one: ResubmittedSystem) -> list[str]:
    name = printable(one.system)
    if not one.known:
        return [f"previous: {name}: not in the earlier round"]
    same = (
        "description as in the earlier round"
        if not one.fields
        else f"{plural(len(one.fields), 'field')} changed"
    )
    head = f"previous: {name}: {same}; {one.logs_in_common} of {one.logs} logs are those of the earlier round"
    changes = [
        f"previous: {name}: {printable(field.name)}: {_value(field.before)} -> {_value(field.now)}"
        for field in one.fields
    ]
    return [head, *changes]


def _value(text: str | None) -> str:
    return "absent" if text is None else f"'{printable(text)}'"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(printable, names[:_SHOWN])) + more

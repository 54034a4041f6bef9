"""Reads benchmark.yaml, environment aliases and --set into one checked Config, with the origin of each value.

Later sources win: dataclass defaults, the file's common sections, the chosen profile, a preset, environment aliases,
--set. Where none of them gives the accelerator's memory, it comes from machine/facts.yaml.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.base.errors import ConfigError
from harness.base.names import did_you_mean, unknown_name
from harness.base.paths import BENCHMARK, in_repository
from harness.config import rules, yaml_lines
from harness.contract import benchmark, environment
from harness.contract.build import ConfigProblem, UnknownName, build
from harness.contract.config import Config, to_mapping
from harness.machine import facts

_INTERVAL_STEPS = "set interval_samples: the steps are ceil(interval_samples / global_batch_size)"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "at most 64 letters, digits, '.', '_' and '-', which also name a directory"
_NOT_SETTINGS = ("preset", "profiles", "presets")  # keys that choose settings, or hold choices of them
_CONTEXT = re.compile(r"(?:context|cp)(?:_parallel\w*|_size)?")
_NO_CONTEXT = (
    "context parallelism is always 1: every arm uses the same attention, which needs whole sequences (attention over "
    "divided sequences exists in Transformer Engine only, on GPUs); raise parallelism.tensor (with sequence_parallel) "
    "or parallelism.pipeline instead"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The place where a value is written.

    Args:
        kind: the kind of source, in the order above.
        name: name of the file, the profile, the preset or the variable; the text after --set; or the row of facts.yaml.
        line: line in the file, for kind file, profile and preset.
    """

    kind: Literal["default", "file", "profile", "preset", "env", "--set", "facts"]
    name: str = ""
    line: int | None = None
    file: str = ""

    @property
    def where(self) -> str:
        """The beginning of a message about this value."""
        if self.line is not None:
            return f"{self.file}:{self.line}"
        if self.kind == "facts":
            return f"{self.file}, {self.name}"
        return f"environment {self.name}" if self.kind == "env" else f"--set {self.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    config: Config
    origins: Mapping[str, Origin]  # one per leaf of the configuration, by dotted path


def resolve(
    profile: str,
    *,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    file: Path = BENCHMARK,
    aliases: Mapping[str, tuple[str, str]] | None = None,
) -> Resolved:
    """Read, merge and check one profile.

    Args:
        overrides: `key=value` texts of --set; the value is read as YAML, unless the key holds text.
        preset: a system under `presets`.
        aliases: path -> (variable, text); None reads the process environment.

    Raises:
        ConfigError: one line that says where, which key, what was found and what is allowed.
    """
    tree = _Tree(file.name)
    _add_file(tree, profile, preset, file)
    set_by_environment = environment.alias_overrides() if aliases is None else aliases
    for path, (variable, text) in set_by_environment.items():
        text = tree.own_directory(profile, text) if path == "data.directory" else text
        tree.override(path, text, Origin(kind="env", name=variable))
    for text in overrides:
        path, equals, value = text.partition("=")
        origin = Origin(kind="--set", name=text)
        if not equals or not all(key.strip() for key in path.split(".")):
            raise ConfigError(
                f"{origin.where}: found no key and value; write key=value, for example runs.count=1"
            )
        tree.override(path.strip(), value, origin)
    tree.add_facts()
    try:
        config = build(Config, {**tree.value, "profile": profile}, "")
        rules.check(config)
    except ConfigProblem as problem:
        raise ConfigError(tree.message(problem)) from None
    return Resolved(config=_absolute(config), origins=tree.leaf_origins(config))


def names_of(section: str, file: Path = BENCHMARK) -> list[str]:
    """The names under `profiles`, `presets` or `arms`.

    Raises:
        ConfigError: a file that cannot be read.
    """
    return [str(name) for name in choices(section, file)]


def choices(section: str, file: Path = BENCHMARK) -> Mapping[str, Any]:
    """The content of section `profiles`, `presets` or `arms` of the file, by name.

    Raises:
        ConfigError: a file that cannot be read.
    """
    named = _read(file).value.get(section)
    return named if isinstance(named, Mapping) else {}


def _read(file: Path) -> yaml_lines.Document:
    try:
        return yaml_lines.read(file.read_bytes(), file.name)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}; the configuration cannot be read") from None


def _add_file(tree: _Tree, profile: str, preset: str | None, file: Path) -> None:
    document = _read(file)
    common = {key: value for key, value in document.value.items() if key not in _NOT_SETTINGS}
    if "profile" in common:
        where = f"{file.name}:{document.lines['profile']}"
        raise ConfigError(f"{where}: profile: not a key of the file; choose a profile with --profile")
    tree.merge(common, "", lambda path: _line(document, "file", (), path, file.name))
    layers: list[tuple[Literal["profile", "preset"], str, str]] = [("profile", "profiles", profile)]
    if preset is not None:
        _require_the_benchmark(document, profile, preset, file.name)
    elif _choice(document, "profiles", profile, file.name).get("benchmark") == benchmark.BENCHMARK.name:
        preset = _preset_of(document, file.name)
    if preset is not None:
        layers.append(("preset", "presets", preset))
    for kind, section, name in layers:
        chosen, above = _choice(document, section, name, file.name), (section, name)
        origin = functools.partial(_line, document, kind, above, file=file.name)
        tree.merge(chosen, "", origin)
    tree.root = _line(document, "profile", ("profiles", profile), "", file.name)


def preset_of(file: Path = BENCHMARK) -> str | None:
    """The system that the file names under `preset`, which applies where no --preset is given; None for none.

    Raises:
        ConfigError: a file that cannot be read, or no such preset.
    """
    return _preset_of(_read(file), file.name)


def _preset_of(document: yaml_lines.Document, file: str) -> str | None:
    name, known = document.value.get("preset") or None, document.value.get("presets")
    if name is None:
        return None
    if not isinstance(known, Mapping) or name not in known:
        wrong = unknown_name("preset", name, known if isinstance(known, Mapping) else ())
        raise ConfigError(f"{file}:{document.lines['preset']}: preset: {wrong}")
    return str(name)


def _require_the_benchmark(document: yaml_lines.Document, profile: str, preset: str, file: str) -> None:
    """The presets are systems that train the benchmark itself, not the proxy."""
    chosen = _choice(document, "profiles", profile, file)
    if chosen.get("benchmark") != benchmark.BENCHMARK.name:
        raise ConfigError(
            f"--preset {preset}: found the profile {profile}; "
            f"allowed: {benchmark.BENCHMARK.name} or another profile of this benchmark"
        )


def _choice(document: yaml_lines.Document, section: str, name: str, file: str) -> Mapping[str, object]:
    """The mapping under `profiles.NAME` or `presets.NAME`.

    Raises:
        ConfigError: no such name, or a name that a directory cannot have.
    """
    choices = document.value.get(section)
    line = document.lines.get(section, 1)
    if not isinstance(choices, Mapping):
        raise ConfigError(f"{file}:{line}: {section}: found {choices!r}; allowed: a mapping of {section}")
    if name not in choices:
        raise ConfigError(unknown_name(section[:-1], name, choices))
    if not _NAME.fullmatch(name):
        where = f"{file}:{document.lines[f'{section}.{name}']}: {section}"
        raise ConfigError(f"{where}: found the name {name!r}; allowed: {_NAME_RULE}")
    chosen = choices[name]
    if not isinstance(chosen, Mapping):
        above = f"{section}.{name}"
        raise ConfigError(f"{file}:{document.lines[above]}: {above}: found {chosen!r}; allowed: a mapping")
    return chosen


def _line(
    document: yaml_lines.Document,
    kind: Literal["file", "profile", "preset"],
    above: tuple[str, ...],
    path: str,
    file: str,
) -> Origin:
    line = document.lines[".".join([*above, *([path] if path else [])])]
    return Origin(kind=kind, name=above[-1] if above else file, line=line, file=file)


class _Tree:
    """A nested mapping under construction, and the origin of every key in it, sections included."""

    def __init__(self, file: str):
        self.value: dict[str, object] = {}
        self.places: dict[str, Origin] = {}
        self.root = Origin(kind="file", name=file, line=1, file=file)

    def merge(self, source: Mapping[str, object], path: str, origin_of: Callable[[str], Origin]) -> None:
        """Merge a mapping into the tree: nested mappings are merged, all other values are replaced."""
        for key, value in source.items():
            child = f"{path}.{key}" if path else key
            self.places[child] = origin_of(child)
            if isinstance(value, Mapping):
                self._section(child)
                self.merge(value, child, origin_of)
            else:
                self._put(child, value)

    def override(self, path: str, text: str, origin: Origin) -> None:
        """Set one key from text."""
        if path == "profile":
            raise ConfigError(f"{origin.where}: profile: not a key; choose a profile with --profile")
        if (
            _kind(path) is str
        ):  # taken as it is: YAML would cut "/data #1" at the comment and read 2024 as a number
            value: object = text
        else:
            try:
                value = yaml_lines.scalar(text)
            except (yaml.YAMLError, ValueError):
                raise ConfigError(f"{origin.where}: {path}: found {text!r}; allowed: a YAML value") from None
        sections = {
            place: known for place, known in self.places.items() if isinstance(self._get(place), dict)
        }
        *parents, last = path.split(".")
        nested: dict[str, object] = {last: value}
        for key in reversed(parents):
            nested = {key: nested}
        above = [parent for parent in sections if path.startswith(f"{parent}.")]
        self.merge(nested, "", lambda child: sections[child] if child in above else origin)

    def own_directory(self, profile: str, text: str) -> str:
        """Where DATADIR puts a corpus that is built here: below it, in a directory of the profile's name.

        DATADIR usually holds C4, or another profile's corpus, whose files may have the same names.
        """
        built = self._get("data.corpus") not in (None, "c4")
        return str(Path(text) / profile) if built and Path(text).name != profile else text

    def add_facts(self) -> None:
        """Set the memory of the named accelerator where no source gives it.

        If facts.yaml does not list the accelerator, the memory is 0 (unknown).
        """
        path = "system.accelerator_memory_gib"
        if not isinstance(self._get("system"), dict) or self._get(path) is not None:
            return
        known = facts.accelerator(str(self._get("system.accelerator") or ""))
        self._put(path, known.memory_gib if known and known.memory_gib else 0.0)
        if known and known.memory_gib:
            self.places[path] = Origin(kind="facts", name=known.name, file=facts.FACTS.name)

    def message(self, problem: ConfigProblem) -> str:
        """Where the nearest key above the problem was written, and what is wrong."""
        return f"{self._place(problem.path).where}: {sentence(problem)}"

    def leaf_origins(self, config: Config) -> dict[str, Origin]:
        """Origin of every leaf of the finished configuration; a value that no source gives has kind `default`."""
        default = Origin(kind="default")
        leaves = (path for path, _ in leaves_of(to_mapping(config)) if path != "profile")
        return {path: self.places.get(path, default) for path in leaves}

    def _place(self, path: str) -> Origin:
        while path:
            if path in self.places:
                return self.places[path]
            path = path.rpartition(".")[0]
        return self.root

    def _section(self, path: str) -> None:
        if not isinstance(self._get(path), dict):
            self._put(path, {})

    def _get(self, path: str) -> object:
        node: object = self.value
        for key in path.split("."):
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def _put(self, path: str, value: object) -> None:
        above, _, last = path.rpartition(".")
        section = self._get(above) if above else self.value
        assert isinstance(section, dict)  # merge creates every section before its contents
        section[last] = value


def leaves_of(value: Mapping[str, object], path: str = "") -> list[tuple[str, object]]:
    """Every value of a nested mapping that is not a mapping itself, with its dotted path, in order."""
    result: list[tuple[str, object]] = []
    for key, item in value.items():
        child = f"{path}.{key}" if path else key
        result += leaves_of(item, child) if isinstance(item, Mapping) else [(child, item)]
    return result


def sentence(problem: ConfigProblem) -> str:
    """`key: found ..; allowed: ..`, or `key: no arm ..; arms: ..`, with the name that may have been meant."""
    if isinstance(problem, UnknownName):
        if problem.kind == "key" and (reason := _no_such_key(problem.name)):
            return f"{problem.path}: no such key; {reason}"
        return f"{problem.path}: {unknown_name(problem.kind, problem.name, problem.names)}"
    choices = problem.allowed.split(" | ")
    meant = did_you_mean(problem.found.strip("'"), choices) if len(choices) > 1 else ""
    return f"{problem.path}: found {problem.found}{meant}; allowed: {problem.allowed}"


def _no_such_key(key: str) -> str:
    """Why there is no such key, for keys that other projects' configurations have; otherwise empty."""
    if key.endswith("interval_steps"):
        return _INTERVAL_STEPS
    return _NO_CONTEXT if _CONTEXT.fullmatch(key) else ""


def _kind(path: str) -> Any:
    """Type of the field at a dotted path; None for a path without a field."""
    kind: Any = Config
    for key in path.split("."):
        if dataclasses.is_dataclass(kind):
            kind = typing.get_type_hints(kind).get(key)
        elif typing.get_origin(kind) is not None and len(typing.get_args(kind)) == 2:
            kind = typing.get_args(kind)[1]
        else:
            return None
    return kind


def _absolute(config: Config) -> Config:
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, directory=in_repository(config.data.directory)),
        runs=dataclasses.replace(config.runs, output=in_repository(config.runs.output)),
    )

"""Renders the files that start this benchmark under a launcher or scheduler.

Only that file knows the scheduler. It gives each node NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT
and GPUS_PER_NODE; torchrun gives each rank RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. A rank reads no
other variable about its place.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.base.errors import ConfigError, UsageError
from harness.base.paths import ROOT
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.contract.config import Config
from harness.contract.environment import alias_overrides

_PORT = 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of launch file.

    Args:
        template: under harness/campaign/templates.
        nodes: number of nodes in the reference file of launch/.
    """

    template: str
    file: str
    nodes: int = 1


KINDS = {
    "torchrun": Kind(template="launch_node.j2", file="torchrun.sh"),
    "slurm": Kind(template="launch_slurm.j2", file="slurm.sh", nodes=2),
    "slurm-pyxis": Kind(template="launch_slurm.j2", file="slurm-pyxis.sh", nodes=2),
    "docker": Kind(template="launch_node.j2", file="docker.sh"),
    "podman": Kind(template="launch_node.j2", file="podman.sh"),
    "apptainer": Kind(template="launch_node.j2", file="apptainer.sh"),
    "kubernetes": Kind(template="launch_kubernetes.j2", file="kubernetes.yaml", nodes=2),
}


def render(
    name: str,
    *,
    nodes: int,
    profile: str = BENCHMARK_PROFILE,
    preset: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """The text of the launch file.

    Raises:
        ConfigError: the configuration cannot run on this number of nodes.
    """
    parallel = [f"parallelism.nodes={nodes}", f"launch.master_port={_PORT}", "launch.node_rank=0"]
    config = _resolved(profile, [*overrides, *parallel], preset, nodes)
    kind = KINDS[name]
    loader = jinja2.FileSystemLoader(ROOT / "harness" / "campaign" / "templates")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    options = ["--profile", profile, *(["--preset", preset] if preset else [])]
    options += [word for override in overrides for word in ("--set", override)]
    made_by = ["./run.sh", "launch", "--emit", name, "--nodes", str(nodes), *options]
    text = environment.get_template(kind.template).render(
        kind=name,
        name=f"launch/{kind.file}",
        title=f"{config.benchmark.name} on {nodes} node{'s' * (nodes > 1)}",
        made_by=shlex.join(made_by if overrides or preset or profile != BENCHMARK_PROFILE else made_by[:6]),
        nodes=nodes,
        follows=nodes > 1 or "slurm" in name,  # sbatch --nodes overrides the number in the file
        benchmark=not config.benchmark.is_scaled,
        data=_data_directory(config),
        gpus=config.parallelism.gpus_per_node,
        options=_inside_quotes(options),
        pyxis=name == "slurm-pyxis",
        image=name not in ("torchrun", "slurm"),
    )
    return text.rstrip("\n") + "\n"


def _resolved(profile: str, overrides: Sequence[str], preset: str | None, nodes: int) -> Config:
    """The configuration as the nodes will resolve it. DATADIR is left out: the launch file reads it where it runs."""
    aliases = {path: said for path, said in alias_overrides().items() if path != "data.directory"}
    try:
        return resolve(profile, overrides=overrides, preset=preset, aliases=aliases).config
    except ConfigError as error:
        raise ConfigError(f"--nodes {nodes}: {error}; choose a --preset with this number of nodes") from None


def _data_directory(config: Config) -> str:
    """The profile's data directory, quoted for the shell. The file uses it if DATADIR is not set."""
    directory = Path(config.data.directory)
    if directory.is_relative_to(ROOT):
        return "$PWD/" + _inside_quotes([directory.relative_to(ROOT).as_posix()])
    return _inside_quotes([str(directory)])


def _inside_quotes(words: Sequence[str]) -> str:
    """Words of a command that is itself inside single quotes.

    Raises:
        UsageError: a word would need quotes.
    """
    for word in words:
        if "'" in word or not word.isprintable():
            raise UsageError(
                f"--set: found {word!r}; allowed: one line without quotes; write this value into benchmark.yaml"
            )
    return " ".join(word if shlex.quote(word) == word else '"' + _escaped(word) + '"' for word in words)


def _escaped(word: str) -> str:
    return "".join(f"\\{c}" if c in '"$`\\' else c for c in word)

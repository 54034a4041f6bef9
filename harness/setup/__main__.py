"""Fills .venv with a layer: run.sh calls `python -m harness.setup LAYER OUTER_PYTHON` with .venv's Python."""

from __future__ import annotations

import sys

from harness.base.errors import EXIT_ENVIRONMENT, EXIT_OK
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.contract.environment import pip_constraint
from harness.setup import pip, requirements, torch_build


def main(layer: str, outer_python: str) -> int:
    try:
        _fill(layer, outer_python)
    except pip.PipFailed as error:
        tell(error)
        tell(f"setup: installing the layer {layer} failed; run the same command again to retry")
        return EXIT_ENVIRONMENT
    return EXIT_OK


def _fill(layer: str, outer_python: str) -> None:
    if constraint := pip_constraint():
        tell(f"setup: ignoring PIP_CONSTRAINT={constraint}")
    wanted = requirements.ranges(ROOT, layer)
    own = torch_build.reach(outer_python)
    bounds = requirements.pins(ROOT) if own is None else requirements.outer(wanted)
    if own is not None:
        tell(f"setup: using torch {own} and {len(bounds)} other packages of {outer_python}")
        bounds = [*(line for line in bounds if requirements.name_of(line) != "torch"), f"torch=={own}"]
    elif any(requirements.name_of(line) == "torch" for line in wanted):
        bounds = [line for line in bounds if requirements.name_of(line) != "torch"]
        bounds.append(f"torch=={_torch()}")
    wanted = [line for line in wanted if requirements.name_of(line) != "torch"]
    if torch_build.brings_triton():
        wanted = [line for line in wanted if requirements.name_of(line) != "triton"]
        bounds = [line for line in bounds if requirements.name_of(line) != "triton"]
    together, alone = requirements.split(wanted)
    tell(f"setup: the packages of the layer {layer}")
    pip.install(together, constraints=bounds)
    pip.install(alone, constraints=bounds, options=["--no-deps"])


def _torch() -> str:
    """Install the pinned torch if there is none; returns the full version."""
    version = requirements.pinned(ROOT, "torch")
    failure = pip.PipFailed("no build of torch is known for this machine")
    for build in torch_build.builds(version):
        if (there := torch_build.installed()) is not None and there.partition("+")[0] == version:
            return there
        tell(f"setup: torch {version} {build.wording}")
        try:
            pip.install([build.requirement], options=["--index-url", build.index] if build.index else [])
        except pip.PipFailed as error:
            failure = error
    if (there := torch_build.installed()) is not None:
        return there
    raise failure


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

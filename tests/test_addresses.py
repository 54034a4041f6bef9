"""The addresses that other people use: imports, commands, modules started by name, and paths in the documents."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys

import pytest

from harness import cli
from harness.base.paths import ROOT
from tests.test_architecture import ROOMS, imports, module_of, room_of

COMMANDS = [
    "main",
    "init",
    "plan",
    "doctor",
    "data",
    "run",
    "status",
    "serve",
    "follow",
    "launch",
    "resume",
    "check",
    "score",
    "rcp",
    "compare",
    "results",
    "study",
    "diagnose",
    "project",
    "upload",
    "package",
    "kernels",
    "bench",
    "qualify",
    "test",
    "completion",
]
IMPORTED = [
    "kernels.nn.Linear",
    "kernels.nn.quantize_linears",
    "kernels.nn.AMD_TE",
    "kernels.matmul.gemm.choose",
    "kernels.ops",
    "kernels.recipe.Format",
    "kernels.recipe.GemmRecipe",
    "kernels.recipe.LinearRecipe",
    "kernels.recipe.Signs",
    "kernels.recipe.Quantizer",
    "kernels.formats.E2M1",
    "kernels.formats.unpack",
]
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "kernels/README.md",
        "run.sh",
        "launch/*.*",
        "harness/analysis/public/*.yaml",
    )
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(
    path
    for name in ("harness", "submission", "kernels", "compliance")
    for path in (ROOT / name).rglob("*.py")
)
STARTED = re.compile(r"""-m["']?,? ?["']?((?:harness|submission|kernels|compliance)(?:\.\w+)*)""")


@pytest.mark.parametrize("address", IMPORTED)
def test_an_address_of_the_kernels_can_be_imported(address):
    assert pkgutil.resolve_name(address) is not None


def test_megatron_finds_the_quantizer_factory_by_its_documented_address():
    # it imports Transformer Engine at once; tests/submission/te imports it for real, with a stub
    tree = ast.parse((ROOT / "submission" / "te_quantizer.py").read_text(encoding="utf-8"))
    (factory,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "mxfp4"]
    assert [argument.arg for argument in factory.args.args] == ["role"]


def test_the_commands_are_those_that_scripts_call():
    assert list(cli.COMMANDS) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_it_takes(command, capfd):
    try:
        code = cli.main([command, "--help"])  # of the kernels it comes from their own command line
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    assert capfd.readouterr().out.startswith(f"usage: ./run.sh {command}")


@pytest.mark.parametrize("command", ["verify", "prove", "bench", "quantize"])
def test_the_kernels_have_a_command_line_of_their_own(command):
    line = [sys.executable, "-m", "kernels", command, "--help"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr


@pytest.mark.parametrize("path", TEXTS + SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_started_by_name_is_there(path):
    for module in STARTED.findall(path.read_text(encoding="utf-8")):
        place = ROOT / module.replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        assert file.is_file(), f"{path}: -m {module}"
        assert place.is_dir() or '__name__ == "__main__"' in file.read_text(encoding="utf-8"), module


def test_modules_that_are_started_by_name_are_seen():
    seen = {module for path in SOURCES for module in STARTED.findall(path.read_text(encoding="utf-8"))}
    assert seen >= {"kernels", "submission", "harness.study.workers", "submission.tools.preflight"}
    assert seen >= {"submission.caches", "submission.corpus.c4_build", "harness.machine.power.sampler"}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_path_in_a_document_is_there(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(
        r"(?<![\w./<])(?:harness|submission|kernels|compliance|tests)/[\w./-]*\.(?:py|yaml|cpp|csv|j2|json)\b",
        text,
    ):
        assert (ROOT / name).is_file(), f"{path.name}: {name}"


def test_the_architecture_page_draws_the_arrows_that_the_code_has():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {name: text.split() for name, text in re.findall(r"^(\w+) +-> ([\w ]+)$", page, re.M)}
    found: dict[str, set[str]] = {}
    for path in (ROOT / "harness").rglob("*.py"):
        room = room_of(module_of(path))
        theirs = {room_of(name) for name in imports(path) if name.startswith("harness.")}
        found.setdefault(room, set()).update(theirs - {room, "base", "contract"})
    order = [room for rooms in reversed(ROOMS) for room in rooms]
    assert drawn == {room: [one for one in order if one in found[room]] for room in drawn}
    assert drawn.keys() == {room for room, others in found.items() if others} - {"__main__"}


def test_the_architecture_page_has_a_paragraph_for_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [
        path.parent.name
        for path in (ROOT / "harness").glob("*/__init__.py")
        if path.parent.name != "commands"
    ]
    assert not [room for room in rooms if f"- **{room}** " not in page]

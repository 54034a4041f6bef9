"""Who imports whom, what a file may be called, how long it is, who may print: read from the code, not from a list."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import kernels
from harness.base.paths import ROOT

PACKAGES = ("kernels", "compliance", "submission", "harness")
FOREIGN = {  # what a package may import besides the standard library and what OURS allows
    "kernels": {"torchao", "torch", "triton", "numpy"},
    "compliance": {"yaml", "mlperf_logging"},
    "submission": {
        "torch",
        "megatron",
        "numpy",
        "tokenizers",
        "mlperf_logging",
        "psutil",
        "transformer_engine",
        "cuda",  # cuda-bindings, which torch's builds for CUDA bring
    },
    "harness": {
        "yaml",
        "rich",
        "matplotlib",
        "jinja2",
        "scipy",
        "numpy",
        "psutil",
        "mlperf_logging",
        "pip",
        "shtab",
    },
}
OURS = {  # what a package may import of the others
    "kernels": set(),
    "compliance": set(),
    "submission": {"kernels", "harness.contract"},
    "harness": {"compliance"},
}
ROOMS = [  # of harness: a room imports only rooms before it; rooms in one place do not import each other
    {"contract", "base"},
    {"setup"},
    {"machine"},
    {"records"},
    {"config"},
    {"data"},
    {"analysis"},
    {"check"},
    {"campaign"},
    {"report"},
    {"package"},
    {"doctor"},
    {"study"},
    {"qualify"},
    {"projection"},
    {"upload"},
    {"main_job"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
PLOTTING = {"report", "study", "projection"}  # the rooms that import matplotlib
OF_THE_TERMINAL = {"commands", "cli"}  # the rooms that read the command line and write to stdout
SAME_NAME = {
    "harness/commands/kernels.py",  # named like the command, which is named like the package
    "harness/contract/benchmark.py",  # compliance has the same value, on its side of the wall
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Full names of the modules that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name_of(path)}:{node.lineno}: relative import"
            folder = ROOT / node.module.replace(".", "/")
            inner = {f"{node.module}.{alias.name}" for alias in node.names if folder.is_dir()}
            found |= inner or {node.module}
    return frozenset(found)


def module_of(path: Path) -> str:
    return name_of(path).removesuffix(".py").replace("/", ".")


def room_of(module: str) -> str:
    """The part of a package that a module lies in: a folder, or a file beside the folders."""
    return module.split(".")[1]


def arrows(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    known = {module_of(path) for path in paths}
    return {module_of(path): {name for name in imports(path) if name in known} for path in paths}


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Nodes that lead from the first to itself; empty where there are none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def forbidden(package: str, modules: Iterable[str]) -> list[str]:
    """The modules that a file of this package may not import."""
    allowed = {package} | FOREIGN[package] | OURS[package] | sys.stdlib_module_names
    return [name for name in sorted(modules) if not any(f"{name}.".startswith(f"{one}.") for one in allowed)]


def upward(module: str, modules: Iterable[str]) -> list[str]:
    """The modules of harness that this module of harness may not import, because their rooms come later."""
    place = {name: index for index, names in enumerate(ROOMS) for name in names}
    mine = room_of(module)
    ours = sorted(name for name in modules if name.startswith("harness."))
    return [n for n in ours if room_of(n) != mine and place[room_of(n)] >= place[mine]]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_package_imports_only_what_lies_below_it(path):
    assert forbidden(path.relative_to(ROOT).parts[0], imports(path)) == []


def test_an_import_from_above_or_aside_is_seen():
    assert forbidden("kernels", {"torch", "harness.contract.config", "os.path"}) == [
        "harness.contract.config"
    ]
    assert forbidden("compliance", {"torch", "json", "kernels"}) == ["kernels", "torch"]
    modules = {"kernels.linear", "harness.contract.config", "harness.base.text", "harness"}
    assert forbidden("submission", modules) == ["harness", "harness.base.text"]
    assert forbidden("harness", {"compliance.scoring", "submission", "torch.cuda"}) == [
        "submission",
        "torch.cuda",
    ]


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "harness")], ids=name_of)
def test_a_room_of_the_harness_imports_only_rooms_before_it(path):
    if path.name != "__init__.py":
        assert upward(module_of(path), imports(path)) == []


def test_an_import_of_a_later_room_is_seen():
    assert upward("harness.check.document", {"harness.analysis.intervals", "harness.report.page"}) == [
        "harness.report.page"
    ]
    assert upward("harness.base.text", {"harness.contract.config", "harness.base.paths"}) == [
        "harness.contract.config"
    ]


def test_every_room_of_the_harness_has_its_place_in_the_order():
    names = {path.relative_to(ROOT / "harness").parts[0].removesuffix(".py") for path in FILES if
             path.is_relative_to(ROOT / "harness")} - {"__init__"}  # fmt: skip
    assert names == set().union(*ROOMS)


def test_no_file_imports_itself_through_others():
    assert circle(arrows(FILES)) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_imports_itself_through_others(package):
    graph: dict[str, set[str]] = {}
    for module, others in arrows(FILES).items():
        if module.startswith(f"{package}.") and not module.endswith("__init__"):
            mine = graph.setdefault(room_of(module), set())
            inside = {room_of(name) for name in others if name.startswith(f"{package}.")}
            mine |= inside - {room_of(module)}
    assert circle({room: others & graph.keys() for room, others in graph.items()}) == []


def test_a_circle_is_seen():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert set(circle({"a": {"a"}})) == {"a"}
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_file_has_the_name_of_another_package_s_file_or_of_a_standard_module():
    names = {package: {} for package in PACKAGES}
    for path in FILES:
        if path.stem not in ("__init__", "__main__") and name_of(path) not in SAME_NAME:
            names[path.relative_to(ROOT).parts[0]].setdefault(path.stem, name_of(path))
    for package, mine in names.items():
        taken = sys.stdlib_module_names | set(PACKAGES)
        taken |= {name for other, theirs in names.items() if other != package for name in theirs}
        assert not [mine[name] for name in sorted(mine.keys() & taken)]


def answers_on_stdout(tree: ast.Module) -> Iterator[ast.AST]:
    """Calls that print to stdout, and whatever touches the stream."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            to_stderr = {"file": "sys.stderr", "stderr": "True"}
            elsewhere = any(to_stderr.get(k.arg or "") == ast.unparse(k.value) for k in node.keywords)
            if node.func.id in ("print", "Console") and not elsewhere:
                yield node
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout":
            yield node


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "harness")], ids=name_of)
def test_the_terminal_belongs_to_the_commands(path):
    room, tree = room_of(module_of(path)), tree_of(path)
    if room not in OF_THE_TERMINAL:
        assert not [f"{name_of(path)}:{node.lineno}" for node in answers_on_stdout(tree)]
        started_alone = '__name__ == "__main__"' in path.read_text(encoding="utf-8")
        assert "argparse" not in imports(path) or started_alone
    if name_of(path) != "harness/base/stderr.py":
        assert "sys.stderr" not in {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def test_what_prints_is_seen():
    seen = [
        list(answers_on_stdout(ast.parse(text))) for text in ("print(1)", "sys.stdout.write('')", "Console()")
    ]
    assert all(seen)
    assert not list(answers_on_stdout(ast.parse("print(1, file=sys.stderr); Console(stderr=True)")))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_rooms_that_draw_import_matplotlib(path):
    plots = any(name.partition(".")[0] == "matplotlib" for name in imports(path))
    assert not plots or (path.is_relative_to(ROOT / "harness") and room_of(module_of(path)) in PLOTTING)


@pytest.mark.parametrize("path", sorted((ROOT / "harness/commands").glob("*.py")), ids=name_of)
def test_a_command_parses_calls_and_prints(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 80


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500, f"{name_of(path)}: more than 500 lines"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_process_environment_is_read_in_one_module(path):
    if name_of(path) == "harness/contract/environment.py":
        return
    for node in ast.walk(tree_of(path)):
        named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv", "environb")
        assert not named, f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_an_init_file_says_what_lies_beside_it_and_does_nothing(path):
    body = tree_of(path).body
    assert ast.get_docstring(tree_of(path)), f"{name_of(path)}: no docstring"
    if path != ROOT / "kernels/__init__.py":
        assert len(body) == 1


def test_the_kernels_keep_a_version_that_transformers_can_parse():
    # transformers probes an importable `kernels` for its version and refuses to load without one it can parse
    assert re.fullmatch(r"0\.1\.\d+", kernels.__version__)
    body = tree_of(ROOT / "kernels/__init__.py").body
    assert sum(isinstance(node, ast.Assign) for node in body) == 1 and len(body) == 2


def test_no_name_of_ours_holds_the_trademark():
    names = [name_of(path) for path in FILES] + [path.name for path in ROOT.iterdir()]
    assert not [name for name in names if "mlperf" in name.lower()]

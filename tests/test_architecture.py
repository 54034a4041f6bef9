"""The house rules that a reader relies on: who imports whom, and how long a thing may be."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import kernels
from harness.base.paths import ROOT

PACKAGES = ("kernels", "compliance", "submission", "harness")
LEAVES = {
    "harness.contract.config",
    "harness.contract.events",
    "harness.contract.environment",
    "harness.contract.build",
}
FOREIGN = {  # what a package may import besides the standard library and what the graph below allows
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
    },
    "harness": {"yaml", "rich", "matplotlib", "jinja2", "scipy", "numpy", "psutil", "mlperf_logging"},
}
OURS = {"kernels": set(), "compliance": set(), "submission": {"kernels"}, "harness": {"compliance"}}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Full module names a file imports, anywhere in it; a name taken from a package of ours counts as its module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            module = node.module or ""
            inner = {
                f"{module}.{alias.name}" for alias in node.names if (ROOT / module.replace(".", "/")).is_dir()
            }
            found |= inner or {module}
    return found


def forbidden(package: str, modules: set[str]) -> list[str]:
    """The modules that a file of this package may not import."""
    allowed = {package} | FOREIGN[package] | OURS[package]
    rest = [
        name for name in sorted(modules) if name.partition(".")[0] not in allowed | sys.stdlib_module_names
    ]
    return [name for name in rest if package != "submission" or name not in LEAVES]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_package_imports_only_what_lies_below_it(path):
    assert forbidden(path.relative_to(ROOT).parts[0], imports(path)) == []


def test_an_import_from_above_or_aside_is_seen():
    assert forbidden("kernels", {"torch", "harness.contract.config", "os.path"}) == [
        "harness.contract.config"
    ]
    assert forbidden("compliance", {"torch", "json", "kernels"}) == ["kernels", "torch"]
    assert forbidden(
        "submission", {"kernels.linear", "harness.contract.config", "harness.config.derived"}
    ) == ["harness.config.derived"]
    assert forbidden("harness", {"compliance.scoring", "submission", "torch.cuda"}) == [
        "submission",
        "torch.cuda",
    ]


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_the_shared_leaves_import_nothing_of_ours(leaf):
    modules = imports(ROOT / f"{leaf.replace('.', '/')}.py")
    assert not {module for module in modules if module.partition(".")[0] in PACKAGES}


@pytest.mark.parametrize("path", FILES + TESTS, ids=name_of)
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500, f"{name_of(path)}: more than 500 lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_process_environment_is_read_in_one_module(path):
    if name_of(path) == "harness/contract/environment.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv", "environb")
        assert not named, f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"


def test_packages_hold_no_code_but_one_version():
    for path in (path for path in FILES + TESTS if path.name == "__init__.py"):
        if path != ROOT / "kernels/__init__.py":
            assert path.read_text(encoding="utf-8") == "", name_of(path)
    # transformers probes an importable `kernels` for its version and refuses to load without one it can parse
    assert re.fullmatch(r"0\.1\.\d+", kernels.__version__)
    statements = ast.parse((ROOT / "kernels/__init__.py").read_text(encoding="utf-8")).body
    assert sum(isinstance(node, ast.Assign) for node in statements) == 1 and len(statements) <= 2


def test_no_name_of_ours_holds_the_trademark():
    names = [name_of(path) for path in FILES] + [path.name for path in ROOT.iterdir()]
    assert not [name for name in names if "mlperf" in name.lower()]

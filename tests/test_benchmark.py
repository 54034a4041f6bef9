"""The benchmark's name, target, runs and evaluation: one value on each side of the wall, and both say the same."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance import benchmark as judged
from compliance import ruleset
from harness.base.paths import ROOT
from harness.config.file import resolve
from harness.contract import benchmark as trained

NAME = trained.BENCHMARK.name
SPELLED = {  # where code may write the benchmark's name, and how often: itself, and the beginning of its proxy's
    "compliance/benchmark.py": 2,
    "harness/contract/benchmark.py": 2,
}


def test_both_sides_of_the_wall_have_the_same_benchmarks():
    for name in ("BENCHMARK", "PROXY"):
        ours, theirs = getattr(trained, name), getattr(judged, name)
        assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert list(trained.BY_NAME) == [judged.BENCHMARK.name, judged.PROXY.name]


@pytest.mark.parametrize("kind", [trained.Benchmark, judged.Benchmark], ids=["trained", "judged"])
@pytest.mark.parametrize(
    ("lower_is_better", "found", "is_reached"),
    [
        *[(True, 3.31, False), (True, 3.3, True), (True, 3.2, True), (True, math.nan, False)],
        *[(False, 3.31, True), (False, 3.3, True), (False, 3.2, False), (False, math.nan, False)],
    ],
)
def test_a_target_is_reached_from_its_side(kind, lower_is_better, found, is_reached):
    values = {**dataclasses.asdict(trained.BENCHMARK), "lower_is_better": lower_is_better}
    assert kind(**values).reached(found, 3.3) is is_reached


@pytest.mark.parametrize("name", ruleset.NAMES)
def test_a_ruleset_holds_the_numbers_of_its_benchmark(name):
    rules = ruleset.load(name)
    of = judged.PROXY if rules.is_scaled else judged.BENCHMARK
    assert (
        rules.benchmark,
        rules.target_log_perplexity,
        rules.runs,
        rules.eval_interval_samples,
        rules.eval_samples,
    ) == (
        of.name,
        of.target_log_perplexity,
        of.runs,
        of.evaluation_interval_samples,
        of.evaluation_sequences,
    )


@pytest.mark.parametrize(("profile", "of"), [("proxy", trained.PROXY), (NAME, trained.BENCHMARK)])
def test_the_shipped_profile_trains_its_benchmark(profile, of):
    config = resolve(profile, aliases={}).config
    found = config.evaluation
    assert config.benchmark is of
    assert (found.target_log_perplexity, found.interval_samples, found.sequences) == (
        of.target_log_perplexity,
        of.evaluation_interval_samples,
        of.evaluation_sequences,
    )
    assert of.is_scaled or config.runs.count == of.runs


def test_the_name_of_the_benchmark_is_spelled_in_few_places():
    files = [
        path
        for package in ("harness", "compliance", "submission", "kernels")
        for path in (ROOT / package).rglob("*.py")
    ]
    found = Counter(
        path.relative_to(ROOT).as_posix() for path in files for text in texts(path) if NAME in text
    )
    assert found == SPELLED
    assert sum(SPELLED.values()) <= 6


def texts(path: Path) -> Iterator[str]:
    """Every string of a file's code, parts of f-strings too; docstrings, and what @rule cites, are documentation."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    documentation = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    } | {
        id(argument.value)
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "rule"
        for argument in node.keywords
        if argument.arg in ("source", "breaks")
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value

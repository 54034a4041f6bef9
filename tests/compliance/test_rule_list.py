"""The rules as values: no two are one, all of them run, and each has an input that passes and one that breaks it."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import replace

import pytest

import compliance.rules
from compliance import checker
from compliance.rule import Rule, rule
from compliance.rule_input import (
    Case,
    Finding,
    Organisations,
    PackagedSubmission,
    ProvenRun,
    Runs,
    Source,
    Submission,
    TwoSystems,
    Unreadable,
    system_of,
)
from compliance.rule_list import RULES, rules_of
from compliance.rules import (
    clock_rules,
    consistency_rules,
    curve_rules,
    directory_rules,
    evaluation_rules,
    interval_rules,
    keys_rules,
    lines_rules,
    package_rules,
    plausibility_rules,
    power_rules,
    sequence_rules,
    source_rules,
    submission_rules,
    system_rules,
    tree_rules,
)
from compliance.rules.tree_rules import Entry, Tree
from compliance.system_description import ALSO, Description
from harness import cli
from tests.compliance import defects_runs
from tests.compliance.logs import compliant_log, parsed, write
from tests.compliance.mutate import (
    block_shortened,
    drop,
    edit,
    inserted,
    moved,
    noisy,
    of_equal_blocks,
    reversed_curve,
    scaled,
    shifted,
    timed_like,
    twice,
)

YEAR_MS = 365 * 86_400_000
CODE = defects_runs.CODE


def case(log, run=0):
    return checker.cases_of([parsed(log, f"result_{run}.txt")], checker.load("6.1.0"))[0]


def cases(change=lambda log: log, *, which=range(10), **keys):
    """Ten runs, these of them changed."""
    logs = [compliant_log(run=run, **(keys if run in which else {})) for run in range(10)]
    return tuple(case(change(log) if run in which else log, run) for run, log in enumerate(logs))


def submission(of=None, **fields):
    made = Submission(
        directory="runs",
        kind="results",
        cases=cases() if of is None else of,
        names=tuple(f"result_{run}.txt" for run in range(10)),
        system=system_of("box.json", defects_runs.DESCRIPTION),
        organisation="reference",
        now_ms=2_000_000_000_000,
    )
    return replace(made, **fields)


def accelerators(model, count=8):
    fields = {"accelerator_model_name": model, "accelerators_per_node": str(count)}
    return system_of("box.json", {**defects_runs.DESCRIPTION, **fields})


def described(**fields):
    return submission(system=system_of("box.json", {**defects_runs.DESCRIPTION, **fields}))


def packaged(**fields):
    made = PackagedSubmission(submission=submission(), system="box", sources=sources(), scaling_factor=None)
    return replace(made, **fields)


def sources(**changed):
    """The files under benchmarks/ by name, each with its lines; 0: blank, None: left out."""
    lines = {**dict.fromkeys(defects_runs.SUBMITTED, 9), **changed}
    return tuple(
        Source(path=f"{CODE}/{name}", lines=count, blank=not count)
        for name, count in lines.items()
        if count is not None
    )


def proven(*formats):
    return ProvenRun(case=case(compliant_log()), proof={"gemms": [{"format": name} for name in formats]})


def tree(*, entries=(), description=None, **fields):
    told = {**defects_runs.DESCRIPTION, **dict.fromkeys(ALSO, "1"), **(description or {})}
    names = (*(f"{CODE}/{name}" for name in ("README.md", "train.py")), *entries)
    made = Tree(
        organisation="reference",
        entries=tuple(Entry(path=name, kind="file", bytes=9) for name in names),
        descriptions={"box": Description(path="box.json", fields=told, lines={})},
        results={"box": ("llama31_8b",)},
        to_be_submitted=True,
    )
    return replace(made, **fields)


def organisations(*mine):
    return Organisations(others=tuple(map(checker.without_records, cases())), mine=mine)


def two_systems(*second):
    return TwoSystems(first=cases(), second=second)


PASSES = {
    Case: lambda: case(compliant_log()),
    Runs: lambda: Runs(cases=cases()),
    TwoSystems: lambda: two_systems(case(compliant_log(run=11), 11)),
    Organisations: lambda: organisations(case(compliant_log(run=11), 11)),
    Submission: submission,
    PackagedSubmission: packaged,
    ProvenRun: lambda: proven("mxfp4", "bf16"),
    Tree: tree,
}
CHANGED_LOGS = {
    clock_rules.one_run: drop("run_stop"),
    clock_rules.clock: shifted("eval_stop", -400_000, 3),
    clock_rules.phases: moved("init_stop", "block_stop"),
    clock_rules.initialisation: shifted("init_stop", 1_800_000),
    clock_rules.cache_clear: edit("cache_clear", value=False),
    interval_rules.intervals: drop("block_stop", 2),
    interval_rules.interval_samples: edit("run_stop", metadata={"samples_count": 1}),
    interval_rules.steps: edit("eval_accuracy", 1, metadata={"step": 99}),
    interval_rules.even_speed: shifted("block_stop", -200_000, 4),
    evaluation_rules.cadence: edit("eval_accuracy", metadata={"samples_count": 24_576}),
    evaluation_rules.stops_at_target: edit("run_stop", metadata={"status": "ok"}),
    evaluation_rules.quality_target: edit("eval_accuracy", -1, value=3.31),
    evaluation_rules.values: edit("eval_accuracy", value=27.1),
    evaluation_rules.measured: edit("eval_accuracy", -1, value=3.3),
    keys_rules.required_keys: drop("opt_adamw_beta_1"),
    keys_rules.key_values: edit("opt_adamw_epsilon", value=1e-8),
    keys_rules.learning_rates: edit("opt_end_learning_rate", value=8.0001e-5),
    keys_rules.batch: edit("gradient_accumulation_steps", value=5),
    keys_rules.parallelism: edit("tensor_parallelism", value=64),
    keys_rules.from_scratch: edit("init_checkpoint_step", value=100),
    keys_rules.seed: twice("seed"),
    lines_rules.event_types: edit("run_start", event_type="POINT_IN_TIME"),
    lines_rules.traps: edit("seed", metadata={"eval_error": 1}),
    lines_rules.places: edit("eval_accuracy", 3, metadata={"lineno": 99}),
    consistency_rules.other_constants: inserted("init_stop", "attention_dropout", 0.1),
    consistency_rules.contradictions: inserted("init_stop", "tensor_model_parallel_size", 2),
    curve_rules.first_loss: edit("eval_accuracy", value=4.2),
    curve_rules.last_drop: edit("eval_accuracy", -2, value=3.61),
    curve_rules.falling: reversed_curve,
    plausibility_rules.short_initialisation: moved("init_start", "init_stop"),
    plausibility_rules.equal_blocks: of_equal_blocks,
    plausibility_rules.whole_milliseconds: lambda log: [
        {**record, "time_ms": record["time_ms"] // 1000 * 1000} for record in log
    ],
    plausibility_rules.evaluation_on_the_clock: block_shortened(3, 100, "eval"),
}
BREAKS = {
    **{rule: lambda change=change: case(change(compliant_log())) for rule, change in CHANGED_LOGS.items()},
    lines_rules.well_formed: lambda: case([]),
    directory_rules.unique_seeds: lambda: Runs(cases=cases(seed=5)),
    directory_rules.separate_runs: lambda: Runs(cases=cases(lambda log: compliant_log(), which=[4])),
    directory_rules.separate_lengths: lambda: Runs(cases=cases(timed_like(compliant_log(run=3)), which=[4])),
    directory_rules.same_configuration: lambda: Runs(cases=cases(which=[4], global_batch_size=64)),
    directory_rules.same_program: lambda: Runs(cases=cases(edit("seed", metadata={"lineno": 9}), which=[4])),
    directory_rules.unique_seeds_of_two_systems: lambda: two_systems(
        case(compliant_log(run=11, seed=1000), 11)
    ),
    directory_rules.separate_runs_of_two_systems: lambda: two_systems(case(compliant_log(seed=7), 11)),
    submission_rules.numbering: lambda: submission(names=("result_0.txt",)),
    submission_rules.file_names: lambda: submission(
        unreadable=(Unreadable(path="result_0.txt", reason="empty"),)
    ),
    submission_rules.description: lambda: submission(system=None),
    submission_rules.failures: lambda: submission(cases(which=[2, 5], final_eval_accuracy=3.4)),
    submission_rules.even_runs: lambda: submission(cases(scaled(0.5), which=[4])),
    submission_rules.reference_points: lambda: submission(cases(evaluations=14)),
    submission_rules.future: lambda: submission(now_ms=1_760_000_000_000 - YEAR_MS),
    system_rules.data_parallel: lambda: submission(system=accelerators("NVIDIA B200", 16)),
    system_rules.precision_exists: lambda: submission(system=accelerators("NVIDIA H200")),
    system_rules.precision_ran: lambda: proven("bf16"),
    system_rules.throughput: lambda: submission(system=accelerators("NVIDIA H100", 1)),
    system_rules.identity: lambda: submission(organisation="another"),
    consistency_rules.division: lambda: described(division="open"),
    consistency_rules.status: lambda: described(status="Preview"),
    consistency_rules.platform: lambda: described(accelerators_per_node="72"),
    consistency_rules.system_name: lambda: described(system_name="DGX H100"),
    consistency_rules.world_size: lambda: submission(cases(inserted("init_stop", "world_size", 72))),
    consistency_rules.other_formats: lambda: submission(
        cases(lowest_numerical_precision_in_comm="mxfp4"), system=accelerators("AMD Instinct MI300X")
    ),
    consistency_rules.vendor_keys: lambda: Runs(
        cases=cases(inserted("init_stop", "fp4_recipe", "a"), which=[1, 2])
    ),
    curve_rules.near_copies: lambda: Runs(cases=cases(noisy(compliant_log(run=3), 1e-4), which=[4])),
    curve_rules.near_copies_of_two_systems: lambda: two_systems(
        case(noisy(compliant_log(run=3), 1e-4)(compliant_log(run=11)), 11)
    ),
    curve_rules.copies_of_organisations: lambda: organisations(case(compliant_log(run=3), 11)),
    plausibility_rules.slow_runs: lambda: Runs(cases=cases(scaled(1.5), which=[4])),
    plausibility_rules.share_of_peak: lambda: submission(cases(scaled(0.4))),
    plausibility_rules.drawn_seeds: lambda: Runs(
        cases=tuple(case(compliant_log(run=run, seed=run), run) for run in range(10))
    ),
    sequence_rules.overlapping: lambda: Runs(
        cases=cases(lambda log: shifted("cache_clear", -9_000_000)(log), which=[4])
    ),
    sequence_rules.gaps: lambda: Runs(cases=cases(shifted("cache_clear", 400_000_000), which=[9])),
    source_rules.code_is_here: lambda: packaged(sources=None),
    source_rules.config_exists: lambda: packaged(sources=sources(**{"benchmark.yaml": None})),
    source_rules.callers: lambda: packaged(sources=sources(**{"train.py": 0})),
    source_rules.scripts: lambda: packaged(sources=sources(**{"setup.sh": None})),
    package_rules.scaling: lambda: packaged(scaling_factor=1.5),
    tree_rules.descriptions: lambda: tree(description={"status": "available"}),
    tree_rules.answers: lambda: tree(description={"host_networking": ""}),
    tree_rules.pairs: lambda: tree(results={"box": ("llama31-8b",)}),
    tree_rules.layout: lambda: tree(entries=("results/box.tar.gz",)),
    power_rules.power: lambda: tree(entries=("results/box/llama31_8b/power",)),
    tree_rules.implementations: lambda: tree(entries=(f"{CODE[:-4]}theirs/README.md",)),
}


def test_no_two_rules_have_one_name_and_an_id_is_one_of_those_that_the_documents_promise():
    assert len({(rule.id, rule.name) for rule in RULES}) == len({rule.name for rule in RULES}) == len(RULES)
    numbered = {f"C{number}" for number in (*range(1, 21), 22, 23)}
    assert {rule.id for rule in RULES} == numbered | {"quality_target", "required_key", "key_value", "rcp"}


def test_every_rule_of_every_module_is_in_the_list():
    modules = {module.name for module in pkgutil.iter_modules(compliance.rules.__path__, "compliance.rules.")}
    found = {
        value.name
        for name in modules
        for value in vars(__import__(name, fromlist=["*"])).values()
        if isinstance(value, Rule)
    }
    assert found == {rule.name for rule in RULES} and len(found) >= 50


def test_every_kind_of_rule_is_run_by_the_checker(monkeypatch):
    asked = set()
    monkeypatch.setattr(checker, "rules_of", lambda kind: asked.add(kind) or ())
    checker.check_submission(submission())
    checker.check_package(packaged())
    checker.check_proof(proven())
    checker.check_two_systems(two_systems())
    checker.check_organisations(organisations())
    checker.check_tree(tree())
    assert asked == {rule.takes for rule in RULES} == set(PASSES)


def test_the_rules_of_a_kind_keep_their_order():
    assert [rule.name.rpartition(".")[2] for rule in rules_of(Tree)] == [
        "descriptions",
        "pairs",
        "layout",
        "implementations",
        "answers",
        "power",
    ]


@pytest.mark.parametrize("one", RULES, ids=lambda one: one.name.rpartition(".")[2])
def test_a_rule_passes_what_is_compliant_and_finds_what_breaks_it(one):
    assert one(PASSES[one.takes]()) == []
    broken = one(BREAKS[one]())
    assert broken and {(violation.rule, violation.section) for violation in broken} == {(one.id, one.source)}


def test_a_run_that_ends_tomorrow_is_told_by_the_command(tmp_path, capsys):
    (path,) = write(
        tmp_path, [{**record, "time_ms": record["time_ms"] + 50 * YEAR_MS} for record in compliant_log()]
    )
    assert cli.main(["check", str(path), "--json", "--skip-official"]) == 0
    (violation,) = json.loads(capsys.readouterr().out)["violations"]
    assert (violation["rule"], violation["severity"], violation["key"]) == ("C2", "warning", "run_stop")


def test_a_rule_takes_one_value_and_says_what_has_to_hold():
    def silent(case: Case) -> list[Finding]:
        return []

    def of_two(case: Case, other: Case) -> list[Finding]:
        """Two."""
        return []

    for function in (silent, of_two):
        with pytest.raises(TypeError, match="a rule needs a docstring and exactly one parameter"):
            rule("C1", source="nowhere", breaks="nothing")(function)

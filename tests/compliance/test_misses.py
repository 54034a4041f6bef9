"""Defects that only show against a description, the code, other runs or what public runs look like.

Each is found by one of the rules for them alone.
"""

from __future__ import annotations

import json
import random
import shutil

import pytest

from compliance.rule import Rule
from compliance.rule_list import RULES
from compliance.rules import (
    consistency_rules,
    curve_rules,
    plausibility_rules,
    sequence_rules,
    source_rules,
)
from harness import cli
from harness.check import results_repository
from tests.compliance import defects_runs
from tests.compliance.logs import RUN_MS, compliant_log, lines
from tests.compliance.mutate import (
    block_shortened,
    edit,
    inserted,
    later,
    losses,
    noisy,
    of_equal_blocks,
    scaled,
    valued,
)
from tests.compliance.test_repository import organisation

MODULES = (consistency_rules, curve_rules, plausibility_rules, sequence_rules, source_rules)
NAMES = {module.__name__ for module in MODULES}
OURS = [rule for rule in RULES if rule.name.rpartition(".")[0] in NAMES]
BOX, CODE = "reference/results/box/llama31_8b", f"reference/{defects_runs.CODE}"


@pytest.fixture
def found(monkeypatch):
    """Rules of these modules that found something, with what they found."""
    told = {}
    call = Rule.__call__

    def listening(self, value):
        violations = call(self, value)
        if violations and self in OURS:
            told.setdefault(self.name.rpartition(".")[2], []).extend(violations)
        return violations

    monkeypatch.setattr(Rule, "__call__", listening)
    return told


@pytest.fixture
def tree(tmp_path):
    organisation(tmp_path, "reference")
    return tmp_path


def check(tree):
    return list(results_repository.checked([str(tree)], "6.1.0", skip_official=True))


def put(tree, run, log, place=BOX):
    (tree / place / f"result_{run}.txt").write_text("\n".join(lines(log)) + "\n")


def runs(change, which=range(10)):
    """These runs changed; `change` takes a log and the number of its run."""

    def apply(tree):
        for run in which:
            put(tree, run, change(compliant_log(run=run), run))

    return apply


def described(**fields):
    def apply(tree):
        path = tree / "reference/systems/box.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return apply


def logged(key, value, which=range(10)):
    return runs(lambda log, run: inserted("init_stop", key, value)(log), which)


def configured(which=range(10), **keys):
    def apply(tree):
        for run in which:
            put(tree, run, compliant_log(run=run, **keys))

    return apply


def both(*changes):
    def apply(tree):
        for change in changes:
            change(tree)

    return apply


def organisation_of(log_of):
    """A second organisation; `log_of` takes the number of a run."""

    def apply(tree):
        organisation(tree, "other", runs=40, org="other")
        for run in range(10):
            put(tree, run, log_of(run), "other/results/box/llama31_8b")

    return apply


def second_system(log_of):
    """A second system of the organisation."""

    def apply(tree):
        shutil.copytree(tree / "reference/results/box", tree / "reference/results/rack")
        shutil.copy(tree / "reference/systems/box.json", tree / "reference/systems/rack.json")
        shutil.copy(tree / CODE / "box_ours.json", tree / CODE / "rack_ours.json")
        for run in range(10):
            put(tree, run, log_of(run), "reference/results/rack/llama31_8b")

    return apply


def _elsewhere(run, *, org="other", late_ms=40 * RUN_MS, **keys):
    """The log of a run with the seed of another, later."""
    log = compliant_log(run=run, seed=7_000 + run, submission_org=org, **keys)
    return [later(late_ms)(record) for record in log]


def _sawtooth(log, run):
    """Every second value above the one before it, and every one lower than the second one before it."""
    values = losses(log)
    up = [4.9 - 0.1 * k + (0.13 if k % 2 else 0.0) for k in range(1, len(values) - 2)]
    return valued([5.4, *up, 3.45])(log)


def _shuffled(log, run):
    values = losses(log)[:-2]
    head, last = values[:1], losses(log)[-2:]
    middle = values[1:]
    random.Random(run).shuffle(middle)
    return valued([*head, *middle, *last])(log)


def _initialised_before(log, run):
    """Everything up to init_stop is logged 0.7 s before it."""
    stop = next(i for i, record in enumerate(log) if record["key"] == "init_stop")
    time_ms = log[stop]["time_ms"] - 700
    return [*({**record, "time_ms": time_ms} for record in log[:stop]), *log[stop:]]


def _in_hundredths(log, run):
    return [{**record, "time_ms": record["time_ms"] // 10 * 10} for record in log]


def _slow_start(log, run):
    return scaled(1.3)(log) if run in (1, 2, 3) else log


def _quick_evaluations(log, run):
    """Evaluations of about 0.3 s."""
    for which in range(len(losses(log))):
        log = block_shortened(which, 300 + 7 * which + run, "eval")(log)
    return log


def _at_once(log, run):
    """Two series at once, on two systems of one name."""
    return [later(-run // 2 * RUN_MS - 7_000 * (run % 2))(record) for record in log]


def _at_speed(by, between_ms, **keys):
    """Runs whose clock is slower or faster, with this much time from the start of one to that of the next."""

    def change(log, run):
        return [
            later(run * (between_ms - RUN_MS))(record)
            for record in scaled(by)(compliant_log(run=run, **keys))
        ]

    return change


def _growing_gaps(log, run):
    return [later(run * (run + 1) * 2_000_000)(record) for record in log]


def _night_between(log, run):
    return [later(4 * RUN_MS * run)(record) for record in log]


def _batch_of_64(run):
    """The losses of a run of batch size 32 in steps of 64, with noise."""
    log = noisy(compliant_log(run=run), 5e-5)(_elsewhere(run, org="reference"))
    return edit("global_batch_size", value=64)(edit("gradient_accumulation_steps", value=4)(log))


def _rounded_copy(run):
    copy = _elsewhere(run)
    return valued([round(value, 3) for value in losses(copy)])(copy)


def _file(name, text):
    return lambda tree: (tree / CODE / name).write_text(text)


def _without(name):
    return lambda tree: (tree / CODE / name).unlink()


def _code_elsewhere(tree):
    shutil.rmtree(tree / "reference/benchmarks")


def _by_hand(log, run):
    """The last five evaluations logged by line 4,000 of the program."""
    for which in range(-5, 0):
        for key in ("eval_start", "eval_accuracy", "eval_stop"):
            log = edit(key, which, metadata={"lineno": 4000})(log)
    return log


_IN_BF16 = dict.fromkeys(
    ("lowest_numerical_precision_in_linear", "lowest_numerical_precision_in_attn"), "bfloat16"
)
_ON_A100 = _at_speed(15.1, 75_000_000, **_IN_BF16, lowest_numerical_precision_in_comm="fp8")
_AT_FOUR_FIFTHS = _at_speed(0.38, 2_000_000, lowest_numerical_precision_in_attn="bfloat16")
DESCRIPTION = {  # name -> (function of the rule, severity, change of the tree)
    "logs of the open division in a closed package": ("division", "error", configured(submission_division="open")),
    "a preview in the logs, available in the description": (
        "status", "warning", both(described(status="Available cloud"), configured(submission_status="preview")),
    ),
    "an accelerator of the same vendor, a generation older": (
        "platform", "warning", configured(submission_platform="1xDGX_H100"),
    ),
    "nine times the accelerators in the platform": ("platform", "warning", configured(submission_platform="72xB200")),
    "a name that boasts": ("system_name", "warning", described(system_name="8x GB300 NVL72")),
    "ranks that nobody described": ("world_size", "warning", logged("number_of_ranks", 64)),
    "fp8 collectives on A100": (
        "other_formats", "error",
        both(described(accelerator_model_name="NVIDIA A100-SXM4-80GB"), runs(_ON_A100)),
    ),
    "dropout inside of a configuration": (
        "other_constants", "error", logged("model_config", {"layers": {"hidden_dropout": 0.05}}),
    ),
    "half the sequence length in Megatron's word": ("other_constants", "error", logged("seq_length", 4096)),
    "mxfp6 by the vendor's own key": (
        "contradictions", "warning", logged("lowest_numerical_precision_linear", "mxfp6"),
    ),
    "a base rate that is not the logged one": ("contradictions", "warning", logged("base_learning_rate", 1e-3)),
    "a recipe in nine of ten runs": ("vendor_keys", "warning", logged("fp4_recipe", "a", range(9))),
    "true in five runs, 1 in five": (
        "vendor_keys", "warning",
        both(logged("fp4_stochastic", True, range(5)), logged("fp4_stochastic", 1, range(5, 10))),
    ),
}  # fmt: skip
CURVES = {
    "trained from a checkpoint": ("first_loss", "warning", runs(lambda log, run: valued([4.45 + run / 500])(log))),
    "a leap to the target": (
        "last_drop", "warning", runs(lambda log, run: edit("eval_accuracy", -2, value=3.7 + run / 500)(log)),
    ),
    "the evaluations of one run shuffled": ("falling", "warning", runs(_shuffled, [3])),
    "a sawtooth": ("falling", "warning", runs(_sawtooth, [6])),
    "a copy under noise and at its own times": (
        "near_copies", "error", runs(lambda log, run: noisy(compliant_log(run=2), 2e-4)(log), [7]),
    ),
    "a second system with the losses of the first": (
        "near_copies_of_two_systems", "error",
        second_system(lambda run: noisy(compliant_log(run=run), 1e-4)(compliant_log(run=run + 20))),
    ),
    "a copy in another batch size": ("near_copies_of_two_systems", "error", second_system(_batch_of_64)),
    "another organisation's runs, a month later": ("copies_of_organisations", "error", organisation_of(_elsewhere)),
    "another organisation's losses in three decimals": (
        "copies_of_organisations", "error", organisation_of(_rounded_copy),
    ),
    "another organisation's times under other losses": (
        "copies_of_organisations", "error",
        organisation_of(lambda run: compliant_log(run=run, seed=7_000 + run, submission_org="other", evaluations=16)),
    ),
}  # fmt: skip
TIMES = {
    "init_start behind the initialisation": (
        "short_initialisation", "warning",
        runs(_initialised_before),
    ),
    "nine of fifteen blocks of one length": (
        "equal_blocks", "warning", runs(lambda log, run: of_equal_blocks(log, 0.6), [5]),
    ),
    "every block of one length": ("equal_blocks", "error", runs(lambda log, run: of_equal_blocks(log), [0])),
    "a clock of hundredths": ("whole_milliseconds", "warning", runs(_in_hundredths)),
    "evaluations of three tenths of a second": ("evaluation_on_the_clock", "error", runs(_quick_evaluations)),
    "three runs on slower hardware": ("slow_runs", "warning", runs(_slow_start)),
    "bfloat16 attention at four fifths of the bound": ("share_of_peak", "warning", runs(_AT_FOUR_FIFTHS)),
    "seeds from one to ten": ("drawn_seeds", "warning", runs(lambda log, run: edit("seed", value=run + 1)(log))),
    "one seed in 32 bits": (
        "drawn_seeds", "warning",
        runs(lambda log, run: edit("seed", value=1_005 + ((run + 1) << 32))(log), [0, 1]),
    ),
    "two series of runs at once": ("overlapping", "warning", runs(_at_once)),
    "nights between the runs": ("gaps", "warning", runs(_night_between)),
    "gaps that grow": ("gaps", "warning", runs(_growing_gaps)),
}  # fmt: skip
CODE_OF_THE_TREE = {
    "no code beside the results": ("code_is_here", "warning", _code_elsewhere),
    "a configuration of white space": ("config_exists", "error", _file("benchmark.yaml", " \n\n")),
    "a configuration outside of the submission": (
        "config_exists", "error", configured(config_filename="../settings/benchmark.yaml"),
    ),
    "a program that is shorter than its lines": ("callers", "warning", runs(_by_hand)),
    "a program that nobody submitted": ("callers", "warning", _without("train.py")),
    "no script that runs it": ("scripts", "warning", _without("run_and_time.sh")),
    "no file that joins system and implementation": ("scripts", "warning", _without("box_ours.json")),
}  # fmt: skip
DEFECTS = {**DESCRIPTION, **CURVES, **TIMES, **CODE_OF_THE_TREE}


def test_the_tree_without_a_defect_breaks_none_of_these_rules(tree, found):
    assert [checked.ok for checked in check(tree)] == [True] and found == {}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_by_one_of_these_rules_alone(name, tree, found):
    function, severity, change = DEFECTS[name]
    change(tree)
    check(tree)
    assert {one: {violation.severity for violation in all_} for one, all_ in found.items()} == {
        function: {severity}
    }


def test_every_one_of_these_rules_has_a_defect():
    assert {function for function, _, _ in DEFECTS.values()} == {
        rule.name.rpartition(".")[2] for rule in OURS
    }


@pytest.mark.parametrize("name", ["reconstructed", "/usr/lib/python3.12/site-packages/reconstructed.py"])
def test_what_a_log_says_of_its_caller_relaxes_no_rule(name, tree, found):
    def change(log, run):
        log = _initialised_before(log, run)
        return [{**record, "metadata": {**record["metadata"], "file": name}} for record in log]

    runs(change)(tree)
    check(tree)
    assert found.keys() == {"short_initialisation", "callers"}  # the file is not submitted either


def test_the_flag_for_rebuilt_logs_is_one_of_the_command(tree, capsys):
    """It leaves the initialisation out, and nothing that key events tell."""
    runs(lambda log, run: _initialised_before(_sawtooth(log, run) if run == 6 else log, run))(tree)
    told = {}
    for flags in ([], ["--rebuilt"]):
        assert cli.main(["check", str(tree / "reference"), "--all", "--skip-official", "--json", *flags]) == 0
        (element,) = json.loads(capsys.readouterr().out)
        told[bool(flags)] = {violation["rule"] for violation in element["violations"]}
    assert told == {False: {"C3", "C8"}, True: {"C8"}}

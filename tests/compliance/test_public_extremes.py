"""The public runs against the rules of plausibility: none of them alarms, and the extremes are those that they name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from statistics import median

import pytest

from compliance import checker, key_events
from compliance.rule_input import Runs, read_system
from compliance.rule_list import RULES
from compliance.rules import consistency_rules, curve_rules, plausibility_rules, sequence_rules
from compliance.rules.clock_rules import RUN_PHASE
from compliance.rules.curve_rules import rank_correlation
from compliance.rules.interval_rules import durations
from compliance.throughput import fastest_tflops, tflops_per_accelerator
from harness.analysis import published_precision
from harness.analysis.submission_loader import result_sets
from harness.check.log_directory import submission_of
from tests.compliance.test_public import PUBLIC, SYSTEMS, name_of

pytestmark = [
    pytest.mark.public,
    pytest.mark.skipif(not SYSTEMS, reason=f"NO PUBLIC LOGS at {PUBLIC}: nothing here was tested"),
]
MODULES = {module.__name__ for module in (consistency_rules, curve_rules, plausibility_rules, sequence_rules)}
OURS = {rule.name: rule for rule in RULES if rule.name.rpartition(".")[0] in MODULES}
SEVERAL_SYSTEMS = {  # of one name, at once
    "theia_ngpu72_ngc25.09_nemo",
    "theia_ngpu8_ngc25.09_nemo",
    "hpg.dgxb200x8.n1",
    "hpg.dgxb200x8.n2",
}


def is_rebuilt(directory):
    """Known from where the files lie, never from what is in them."""
    return "v6.0-reconstructed" in directory.parts


@cache
def submission(directory):
    (group,) = result_sets([str(directory)])
    return submission_of(group, checker.load("6.0.0" if is_rebuilt(directory) else "5.1.0"))


@cache
def everything():
    return [case for directory in SYSTEMS for case in submission(directory).cases]


@pytest.mark.parametrize("directory", SYSTEMS, ids=name_of)
def test_no_public_system_is_implausible_or_contradicts_itself(directory):
    quiet = key_events.UNKNOWN if is_rebuilt(directory) else ()
    theirs = [rule for rule in RULES if rule not in OURS.values()]
    told = checker.check_submission(submission(directory), quiet=(*quiet, *theirs))
    assert {v.rule for v in told} == ({"C22"} if name_of(directory) in SEVERAL_SYSTEMS else set())


@pytest.mark.parametrize("directory", [path for path in SYSTEMS if is_rebuilt(path)], ids=name_of)
def test_a_rebuilt_system_is_clean_by_the_flag_of_its_caller_alone(directory):
    found = submission(directory)
    clean = checker.check_submission(found, quiet=key_events.UNKNOWN)
    assert {v.rule for v in clean} <= {"key_value", "C12"}  # an empty status; AMD's name in partners' logs
    assert {v.severity for v in clean} <= {"warning"}
    assert {"C17"} <= {v.rule for v in checker.check_submission(found)}


def lengths(case, name):
    return [length for _, length in durations(case, name)]


def share_of_most_common(values):
    return Counter(values).most_common(1)[0][1] / len(values)


def losses(case):
    return [evaluation.log_perplexity for evaluation in case.log.evaluations]


def evaluation_time(case):
    """Of an evaluation, as a share of its forward passes."""
    first, second = (evaluation.samples for evaluation in case.log.evaluations[:2])
    forward_ms = median(lengths(case, "block")) / (second - first) * case.ruleset.eval_samples / 3
    return min(lengths(case, "eval")) / forward_ms


def digits(case):
    return share_of_most_common(
        [time % 10 for time in {event.time_ms for event in case.parsed.events if event.key in RUN_PHASE}]
    )


def rises(case):
    return sum(after > before for before, after in pairwise(losses(case))) / (len(losses(case)) - 1)


def slowest(directory):
    speeds = [1000 * case.log.duration_s / case.log.samples_at_stop for case in submission(directory).cases]
    return max(speeds) / median(speeds)


def room(directory):
    return sum(int(max(0.0, gap.runs)) for gap in sequence_rules._gaps(_runs(directory)))


def growth(directory):
    return rank_correlation([gap.runs for gap in sequence_rules._gaps(_runs(directory))])


def _runs(directory):
    return Runs(cases=submission(directory).cases)


def share_of_bound(directory):
    """With the precision that was published elsewhere, attention in bfloat16."""
    round_, org, system = directory.parts[-5], directory.parts[-4], directory.parts[-2]
    known = read_system(directory.parents[2] / "systems" / f"{system}.json")
    precision = published_precision.precision(round_.removesuffix("-reconstructed"), org, system)
    if known is None or not known.peaks:
        return 0.0
    linear = known.peaks.get(precision or "mxfp4")
    bound = fastest_tflops(linear=linear, attention=known.peaks["bfloat16"])
    return max(tflops_per_accelerator(case, known) or 0.0 for case in submission(directory).cases) / bound


def nearest():
    """Nats between the two nearest curves, by the median evaluation."""
    curves = [losses(case) for case in everything()]
    return min(
        median(abs(mine - theirs) for mine, theirs in zip(one, other, strict=False))
        for one, other in combinations(curves, 2)
    )


V51 = [path for path in SYSTEMS if not is_rebuilt(path)]
EXTREMES = {  # what the rules name as the extreme of the public runs
    "first loss": (5.129, lambda: min(
        losses(case)[0] for case in everything() if case.log.evaluations[0].samples in curve_rules._FIRST_SAMPLES
    )),
    "last drop": (0.196, lambda: max(losses(case)[-2] - losses(case)[-1] for case in everything())),
    "rank correlation": (-0.893, lambda: max(rank_correlation(losses(case)) for case in everything())),
    "rises": (0.21, lambda: max(rises(case) for case in everything())),
    "nearest curves": (0.00073, nearest),
    "initialisation, s": (4.9, lambda: min(
        (case.log.run_start_ms - case.log.init_start_ms) / 1000 for path in V51 for case in submission(path).cases
    )),
    "equal blocks": (0.29, lambda: max(share_of_most_common(lengths(case, "block")) for case in everything())),
    "times with one digit": (0.30, lambda: max(digits(case) for case in everything())),
    "evaluation": (0.62, lambda: min(evaluation_time(case) for path in V51 for case in submission(path).cases)),
    "slow run": (1.057, lambda: max(slowest(path) for path in SYSTEMS)),
    "share of the bound": (0.38, lambda: max(share_of_bound(path) for path in SYSTEMS)),
    "largest seed of a set": (5731, lambda: min(
        max(case.log.seed for case in submission(path).cases) for path in SYSTEMS
    )),
    "room for runs": (5, lambda: max(room(path) for path in SYSTEMS)),
    "growth of gaps": (0.92, lambda: max(growth(path) for path in SYSTEMS)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
def test_the_extreme_that_a_rule_names_is_that_of_the_public_runs(name):
    stated, measure = EXTREMES[name]
    assert measure() == pytest.approx(stated, rel=0.02)


@pytest.mark.parametrize("decimals", [2, 3, 4])
def test_public_runs_whose_losses_are_rounded_are_no_copies_of_each_other(decimals):
    rounded = []
    for case in everything():
        evaluations = [
            replace(one, log_perplexity=round(one.log_perplexity, decimals)) for one in case.log.evaluations
        ]
        rounded.append(replace(case, log=replace(case.log, evaluations=tuple(evaluations))))
    assert curve_rules.near_copies(Runs(cases=tuple(rounded))) == []

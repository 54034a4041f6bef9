"""Pooled questions against simulated truths, a textbook's data, and the public record."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from harness import cli
from harness.analysis import pooled, public_index, random_effects
from harness.analysis.machine_spread import Quantity
from harness.analysis.random_effects import System
from harness.report import pooled_text

BCG = [  # log risk ratio and its variance of 13 trials of a vaccine (Colditz et al. 1994), as in the R package metafor
    (-0.8893, 0.3256), (-1.5854, 0.1946), (-1.3481, 0.4154), (-1.4416, 0.0200), (-0.2175, 0.0512), (-0.7861, 0.0069),
    (-1.6209, 0.2230), (0.0120, 0.0040), (-0.4694, 0.0564), (-1.3713, 0.0730), (-0.3394, 0.0124), (0.4459, 0.5325),
    (-0.0173, 0.0714),
]  # fmt: skip


def test_the_spread_and_interval_of_known_trials_are_the_published_ones():
    """An effect against exact zeros of no spread is one mean: Paule and Mandel's tau^2 of these trials is 0.318."""
    model = random_effects._Model(
        np.ones((len(BCG), 1)), np.array([y for y, _ in BCG]), np.array([v for _, v in BCG])
    )
    assert random_effects._solve(model, len(BCG) - 1) == pytest.approx(0.3181, abs=0.0005)
    effects, covariance, _ = model.fit(0.3181)
    assert (effects[0], math.sqrt(covariance[0, 0])) == pytest.approx((-0.7150, 0.1809), abs=0.0005)


@pytest.mark.parametrize("tau", [0.0, 0.01])
def test_the_interval_covers_the_truth_with_few_systems(tau):
    """Two strata far apart, eight systems against six, ten runs each with a noise of 3 %."""
    generator, covered, draws = np.random.default_rng(11), 0, 400
    for _ in range(draws):
        systems = []
        for index in range(14):
            treated, stratum = index < 8, index % 2
            noise = tau * generator.standard_normal() + 0.03 / math.sqrt(10) * generator.standard_normal()
            mean = 0.2 * stratum + 0.043 * treated + noise
            systems.append(System(stratum=f"{stratum}", treated=treated, mean=mean, variance=0.03**2 / 10))
        found = random_effects.effect(systems)
        covered += found.low <= 0.043 <= found.high
    assert 0.92 <= covered / draws <= 0.99


def test_systems_that_share_no_stratum_give_no_effect():
    one = System(stratum="a", treated=True, mean=0.0, variance=1e-4)
    other = dataclasses.replace(one, stratum="b", treated=False)
    assert random_effects.effect([one, other, one, other]) is None
    assert random_effects.effect([one, dataclasses.replace(other, stratum="a")]) is None


@pytest.fixture(scope="module")
def submissions():
    return [public_index.submission(one) for one in public_index.read()]


def answer_of(submissions, **question):
    found = pooled.pooled(submissions, "precision").answers
    [answer] = [
        one for one in found if one.quantity is Quantity.SAMPLES and question.items() <= one.question.items()
    ]
    return answer


def test_mxfp4_needs_four_percent_more_samples_than_fp8(submissions):
    answer = answer_of(submissions, maker="AMD", batch=32)
    assert (answer.a.value, len(answer.a.systems), answer.a.runs) == ("mxfp4", 8, 80)
    assert (answer.b.value, len(answer.b.systems), answer.b.runs) == ("fp8", 6, 60)
    assert answer.ratio.ratio == pytest.approx(1.0446, abs=0.001)
    assert answer.ratio.ci95 == pytest.approx((1.031, 1.058), abs=0.002)
    assert answer.strata["learning rate"] == (0.0008, 0.001) and "warm-up" in answer.coincide
    text = pooled_text.sentence(answer)
    assert (
        "mxfp4 against fp8, AMD, batch 32" in text
        and "4.5 % more samples to target (3.1 to 5.8 % more)" in text
    )
    assert "8 systems and 80 runs against 6 and 60; round and warm-up differ too" in text


def test_learning_rates_are_never_pooled(submissions):
    """FP8 at batch 32 needs 173 to 178 thousand samples at 8e-4, 185 to 188 at 4e-4: NVFP4 has no system there."""
    answer = answer_of(submissions, maker="NVIDIA", batch=32)
    assert answer.strata["learning rate"] == (0.0008,)
    assert not {"hpg.dgxb200x8.n2", "2xXE9680Lx8B200-SXM-180GB"} & set(answer.b.systems)


def test_a_run_that_did_not_finish_is_censored_and_not_dropped(submissions):
    """The same runs, cut off at 160,000 samples where they needed more: the estimate stays, a dropping one falls."""
    cut = []
    for one in submissions:
        runs = tuple(
            dataclasses.replace(run, run_status="aborted", evaluations=run.evaluations[:-1])
            if one.precision == "mxfp4" and run.samples_at_stop > 190_000
            else run
            for run in one.runs
        )
        cut.append(dataclasses.replace(one, runs=runs))
    whole, censored = (answer_of(each, maker="AMD", batch=32) for each in (submissions, cut))
    kept = [
        dataclasses.replace(
            one, runs=tuple(run for run in one.runs if run.run_status == "success"), timings=one.timings[:1] * sum(
                run.run_status == "success" for run in one.runs
            )
        )
        for one in cut
    ]  # fmt: skip
    dropped = answer_of(kept, maker="AMD", batch=32)
    assert censored.a.unfinished > 10 and "censored" in pooled_text.sentence(censored)
    assert abs(censored.ratio.ratio - whole.ratio.ratio) < 0.01
    assert dropped.ratio.ratio < whole.ratio.ratio - 0.01


def test_compare_answers_a_pooled_question_over_the_index_or_over_what_is_named(capsys):
    assert cli.main(["compare", "--group", "precision", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["group"] == "precision" and len(found["answers"]) > 8
    assert {"submission", "why"} == found["left_out"][0].keys()
    named = ["v6.0/MiTAC/8xMI355X", "v6.0/Dell", "v5.1/Dell/XE9785L", "v5.1/AMD/MI355X"]
    assert cli.main(["compare", "--group", "precision", "--public", *named]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 systems and 20 runs against 2 and 20" in out and "Result not verified by MLCommons" in out
    assert cli.main(["compare", "--group", "accelerator", "--public", *named]) == 0
    assert "No answer" in capsys.readouterr().out
    assert cli.main(["compare", "--group", "precision", "--html", "x.html"]) == 2

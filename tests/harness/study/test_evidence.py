"""`study evidence`: a recomputation from the raw logs that shares no code, and what it says about the paper."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from harness import cli
from harness.analysis import public_index
from harness.study import evidence

PUBLIC = Path(__file__).parents[4] / "shared" / "public_results"
TREES = ("v5.1/AMD", "v6.0-reconstructed")
LINE = re.compile(r":::MLLOG (\{.*\})")


def values(log: Path):
    """Key -> values with samples, of a result file."""
    found = defaultdict(list)
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := LINE.search(line):
            row = json.loads(match[1])
            found[row["key"]].append((row["value"], (row["metadata"] or {}).get("samples_count")))
    return found


def crossing(found) -> float:
    """Samples at which log perplexity 3.3 is reached, linear between two evaluations."""
    losses, samples = zip(*found["eval_accuracy"], strict=True)
    after = next(i for i, loss in enumerate(losses) if loss <= 3.3)
    share = (losses[after - 1] - 3.3) / (losses[after - 1] - losses[after])
    return samples[after - 1] + share * (samples[after] - samples[after - 1])


def recomputed(systems):
    """Ratio and 95 % interval: Paule and Mandel's tau^2, Hartung and Knapp's interval, strata by learning rate.

    Args:
        systems: (learning rate, is MXFP4, samples of every run).
    """
    means = np.array([np.mean(np.log(runs)) for _, _, runs in systems])
    groups = {
        side: [np.log(runs) for _, is_four, runs in systems if is_four is side] for side in (True, False)
    }
    within = {
        side: sum(((x - x.mean()) ** 2).sum() for x in group) / sum(len(x) - 1 for x in group)
        for side, group in groups.items()
    }
    noise = np.array([within[is_four] / len(runs) for _, is_four, runs in systems])
    rates = sorted({rate for rate, _, _ in systems})
    design = np.array(
        [[rate == one for one in rates] + [is_four] for rate, is_four, _ in systems], dtype=float
    )
    freedom = len(systems) - design.shape[1]

    def fit(tau2):
        weights = np.diag(1 / (noise + tau2))
        inverse = np.linalg.inv(design.T @ weights @ design)
        beta = inverse @ design.T @ weights @ means
        left = means - design @ beta
        return beta[-1], inverse[-1, -1], left @ weights @ left

    excess = fit(0.0)[2] - freedom
    tau2 = optimize.brentq(lambda t: fit(t)[2] - freedom, 0, 1, xtol=1e-15) if excess > 0 else 0.0
    effect, variance, q = fit(tau2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance * max(1.0, q / freedom))
    return np.exp([effect, effect - half, effect + half])


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the published logs are not on this machine")
def test_the_answer_equals_an_independent_recomputation_from_the_raw_logs():
    entries = public_index.parsed([PUBLIC / tree for tree in TREES])
    found = evidence.evidence([public_index.submission(one) for one in entries])
    [(answer, claims)] = found.answers
    systems = []
    for directory in (one for tree in TREES for one in (PUBLIC / tree).glob("**/results/*/llama31_8b")):
        runs = [values(log) for log in directory.glob("result_*.txt")]
        rate = runs[0]["opt_base_learning_rate"][0][0]
        systems.append((rate, "v6.0" in str(directory), [crossing(one) for one in runs]))
    assert sum(is_four for _, is_four, _ in systems) >= 6 and len(systems) == len(entries)
    ratio, low, high = recomputed(systems)
    assert answer.ratio.ratio == pytest.approx(ratio, rel=1e-6)
    assert answer.ratio.ci95 == pytest.approx((low, high), rel=1e-6)
    assert claims[0].bias == pytest.approx(ratio / 1.08, rel=1e-6)


@pytest.fixture(scope="module")
def found():
    return evidence.evidence(public_index.submissions())


def test_the_headline_holds_the_answer_beside_what_the_paper_reports(found):
    said = evidence.headline(found)
    assert said.startswith(
        "MXFP4 needs 4.5 % more samples than FP8 at 8B (3.1 to 5.8 %; 8 systems against 6)"
    )
    assert said.endswith("The paper reports 8 to 9 %.")
    sentences = " ".join(evidence.sentences(found))
    assert "excluded, unless what coincides with the format saves 3.3 % of the samples or more" in sentences
    assert "220,898 to 222,651 samples; no published system trains this recipe" in sentences


def test_groups_count_every_system_once_and_one_system_has_no_interval(found):
    assert sum(one.systems for one in found.groups) == len(public_index.read())
    for one in found.groups:
        assert (one.low is None) == (one.systems == 1)
    fp8 = next(one for one in found.groups if (one.facts["maker"], one.facts["batch"]) == ("AMD", 32))
    assert fp8.low < fp8.samples < fp8.high and fp8.also["warm-up"] == (128,)


def test_a_system_lies_at_its_ratio_to_the_baseline_of_its_stratum(found):
    answer, _ = found.answers[0]
    sides = {
        group: [one.ratio.ratio for one in answer.systems if one.group == group] for group in ("mxfp4", "fp8")
    }
    gap = np.mean(np.log(sides["mxfp4"])) - np.mean(np.log(sides["fp8"]))
    assert gap == pytest.approx(math.log(answer.ratio.ratio), abs=0.003)
    assert answer.differs["warm-up"] == ((64,), (128,))


def test_the_page_has_a_forest_plot_for_every_answer(tmp_path, capsys):
    page = tmp_path / "evidence.html"
    assert cli.main(["study", "evidence", "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("Forest plot: ") == 3 and "Result not verified by MLCommons" in text
    capsys.readouterr()
    assert cli.main(["study", "evidence", "--public", "v6.0/Dell", "v5.1/AMD/MI355X", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answers"] == [] and document["headline"].startswith("No answer about MXFP4")


def test_published_runs_are_pooled_without_the_training_packages(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["study", "evidence", "--public", "v6.0/Dell", "--json"]) == 0
    assert cli.main(["study", "replay", "--out", "nowhere"]) == 3
    assert "torch is not installed" in capsys.readouterr().err

"""`project`: held to public systems it has not seen, and plain about what nobody has measured."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace

import pytest
import yaml

from harness.analysis.public_logs import systems
from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.commands import project
from harness.contract.build import build
from harness.projection import fit, page
from harness.projection import systems as projection_systems
from harness.projection.systems import Fitted

PUBLIC = ROOT.parent / "shared" / "public_results"
needs_public = pytest.mark.skipif(
    not PUBLIC.exists(), reason=f"published logs are not beside this repository: {PUBLIC}"
)


@pytest.fixture(scope="module")
def rows():
    return projection_systems.measurements(projection_systems.fitted().measured)


def asked(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    project.arguments(parser)
    return parser.parse_args(arguments)


def answer(capsys, *arguments: str) -> list[dict]:
    assert project.main(asked(*arguments, "--json")) == 0
    return json.loads(capsys.readouterr().out)["projections"]


def test_held_out_submitters_are_projected_within_the_promise():
    found = projection_systems.fitted().validation["submitter"]
    assert found.median_pct <= 10 and found.max_pct <= 25


def test_constants_and_validation_follow_from_the_shipped_measurements(rows):
    shipped = projection_systems.fitted()
    assert len(rows) == len(shipped.measured) == 41
    made = fit.fitted(shipped.measured)
    assert made.measured == shipped.measured
    assert asdict(made.constants) == pytest.approx(asdict(shipped.constants), rel=2e-3)
    for name, figures in made.validation.items():
        assert asdict(figures) == pytest.approx(asdict(shipped.validation[name]), abs=0.15)


def test_what_is_held_out_is_not_looked_at(rows):
    """A submitter whose measurements are wrong by a factor is predicted as before."""
    chosen = [row for row in rows if row.submitter in ("HPE", "Verda", "Oracle")]
    honest = fit.validate(chosen, lambda row: row.submitter)
    wrong = [replace(row, step_s=3 * row.step_s) if row.submitter == "HPE" else row for row in chosen]
    (key,) = [row.key for row in chosen if row.submitter == "HPE"]
    told = fit.validate(wrong, lambda row: row.submitter)
    assert told[key][0] == honest[key][0]
    assert 1 + told[key][1] / 100 == pytest.approx((1 + honest[key][1] / 100) / 3, abs=1e-3)


def test_a_constant_that_no_system_determines_stays_at_its_prior(rows):
    single = [row for row in rows if row.maker == "AMD"]
    assert fit.fit(single).exchange == pytest.approx(fit.PRIOR.exchange)
    assert fit.fit(rows).exchange != pytest.approx(fit.PRIOR.exchange, rel=0.5)


def test_the_page_says_what_the_data_say():
    assert (ROOT / "docs" / "project.md").read_text() == page.page(projection_systems.fitted())


def test_every_accelerator_names_its_source_and_every_system_its_accelerator(rows):
    for board in projection_systems.accelerators().values():
        assert board.source.startswith(("NVIDIA", "AMD")) and "bf16" in board.tflops
    assert {row.setup.data_parallel * row.setup.tensor * row.setup.context for row in rows} <= set(
        row.setup.accelerators for row in rows
    )


def test_a_system_with_public_runs_shows_them_beside_the_model(capsys):
    (row,) = answer(capsys, "8xMI355X", "--precision", "fp8")
    assert len(row["public"]) == 4 and row["flags"] == []
    measured = [one["time_to_train_min"] for one in row["public"]]
    assert abs(row["time_to_train_min"] / min(measured) - 1) < 0.1
    assert sum(row["parts_s"].values()) == pytest.approx(row["step_s"])
    assert row["error_pct"] == projection_systems.fitted().validation["submitter"].p90_pct


def test_what_is_not_known_is_flagged_and_widens_the_error(capsys):
    cases = {
        ("8xMI355X", "--precision", "fp8"): [],
        ("8xMI300X",): ["no public run on MI300X"],
        ("8xMI355X", "--gbs", "48"): ["no public run at batch size 48 (there are 16, 32, 36, 64, 128)"],
        ("64xMI355X",): ["no public run on more than 8 MI355X"],
        ("8xB200", "--precision", "mxfp4"): [
            "no public run of mxfp4 on B200",
            "no public MXFP4 run on NVIDIA's accelerators",
        ],
        ("8xB200", "--pipeline", "2", "--precision", "fp8"): ["no public run uses a pipeline"],
    }
    errors = []
    for arguments, flags in cases.items():
        (row,) = answer(capsys, *arguments)
        assert row["flags"] == flags
        errors.append(row["error_pct"])
    assert errors[0] < errors[1] == errors[2] < errors[3] == errors[4] == errors[5]


def test_the_split_that_the_batch_needs_is_chosen_and_shown(capsys):
    (row,) = answer(capsys, "64xB200", "--precision", "fp8")
    assert (row["tensor"], row["context"], row["pipeline"]) == (1, 2, 1) and len(row["public"]) == 3


def test_the_table_names_measured_and_modelled(capsys):
    project.main(asked())
    shown = capsys.readouterr().out
    assert "8xMI355X" in shown and "8xH100" in shown and "public" in shown
    assert "modelled: every time but those of the column 'public'" in shown
    assert "not verified by MLCommons" in shown and "note: 8xMI300X" in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["8xRTX"], "8xRTX: no accelerator 'RTX'.*H100"),
        (["MI355X"], "'MI355X'; allowed"),
        (["0xB200"], "'0xB200'; allowed"),
        (["8xB200\x1b[31m"], r"\\x1b"),
        (["8xMI355X", "--precision", "nvfp4"], "found precision nvfp4; allowed: bf16, fp8, mxfp4"),
        (["8xH100", "--precision", "mxfp4"], "found precision mxfp4; allowed: bf16, fp8"),
        (["8xB200", "--gbs", "0"], "--gbs: .*1 .. 128"),
        (["8xB200", "--gbs", "256"], "--gbs: .*1 .. 128"),
        (["8xB200", "--gbs", "12"], "--gbs: found 12; allowed: multiples of 8"),
        (["8xB200", "--tensor", "16"], "--tensor: found 16; allowed: 1 .. 8"),
        (["8xB200", "--tensor", "0"], "--tensor: found 0"),
        (["8xB200", "--context", "3"], "not a multiple of tensor"),
    ],
)
def test_what_cannot_be_projected_is_said_in_one_line(arguments, why):
    with pytest.raises(UsageError, match=why) as caught:
        project.main(asked(*arguments))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.public
@needs_public
def test_the_shipped_measurements_are_those_of_the_logs_at_hand():
    shipped = projection_systems.fitted().measured
    found = [system for system in systems([PUBLIC]) if system.key in shipped]  # some may be newer
    assert len(found) >= 15
    for system in found:
        assert fit.measure(system) == pytest.approx(shipped[system.key], rel=1e-3)


@pytest.mark.public
@needs_public
def test_the_promise_also_holds_with_the_logs_at_hand_alone(rows):
    """But for the one tensor parallel system among them: without it no system says what that costs."""
    at_hand = {system.key for system in systems([PUBLIC])}
    few = [row for row in rows if row.key in at_hand]
    errors = fit.validate(few, lambda row: row.submitter)
    assert fit.summary(errors).median_pct <= 10
    alone = [row.key for row in few if row.setup.tensor > 1]
    assert len(alone) == 1
    assert fit.summary({key: found for key, found in errors.items() if key not in alone}).max_pct <= 25


def test_without_a_tree_the_shipped_measurements_are_fitted_anew(tmp_path, monkeypatch):
    """As after a change of facts.yaml, which needs no logs."""
    (tmp_path / "docs").mkdir()
    written = tmp_path / "project.yaml"
    shipped = projection_systems.fitted()
    stale = replace(shipped, constants=replace(shipped.constants, linear=0.5))
    monkeypatch.setattr(fit.projection_systems, "fitted", lambda: stale)
    monkeypatch.setattr(fit.projection_systems, "FITTED", written)
    monkeypatch.setattr(fit, "ROOT", tmp_path)
    assert fit.main([]) == 0
    made: Fitted = build(Fitted, yaml.safe_load(written.read_text()), "")
    assert made.measured == shipped.measured
    assert asdict(made.constants) == pytest.approx(asdict(shipped.constants), rel=2e-3)
    assert (tmp_path / "docs" / "project.md").read_text() == page.page(made)


def test_a_tree_without_logs_is_named(tmp_path, capsys):
    assert fit.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err

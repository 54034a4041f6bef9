"""`project`: held to public systems it has not seen, and plain about what nobody has measured."""

from __future__ import annotations

import argparse
import io
import json
import math
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from harness.analysis import public_index
from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.commands import project
from harness.projection import estimate, fit, page
from harness.projection import systems as projection_systems


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
    """All but one: the only Hopper system with tensor parallelism is 16 % too fast without its submitter."""
    shipped = projection_systems.fitted()
    found = shipped.validation["submitter"]
    assert found.step_median_pct <= 3 and found.median_pct <= 3 and found.p90_pct <= 10
    rows = projection_systems.measurements(shipped.measured)
    large = {row.key for row in rows if row.keeps_the_interval and abs(shipped.errors[row.key][0][1]) > 10}
    assert large == {"v5.1/Cisco/hpf_n16"}
    assert all(abs(shipped.makers[name]) <= 2 for name in ("AMD", "NVIDIA", "AMD fp8"))


def test_the_constants_follow_from_the_index(rows):
    shipped = projection_systems.fitted()
    found = {one.key: fit.measure(one) for one in public_index.read()}
    assert {key: tuple(row) for key, row in found.items() if row} == shipped.measured
    assert len(rows) == len(shipped.measured) == 47
    made, held = asdict(fit.fit(rows)), asdict(shipped.constants)
    assert made.pop("bias") == pytest.approx(held.pop("bias"), abs=2e-3)
    assert made.pop("samples") == held.pop("samples") and made == pytest.approx(held, rel=5e-3)


@pytest.mark.slow
def test_the_validation_follows_from_the_index(rows):
    shipped = projection_systems.fitted()
    for name, fold in fit.FOLDS.items():
        figures = fit.summary(rows, fit.validate(rows, fold))
        assert asdict(figures) == pytest.approx(asdict(shipped.validation[name]), abs=0.15)


def test_no_product_is_faster_than_its_roofline():
    """Shares of the peak stay below one, with power limit and biases, on every accelerator."""
    known = projection_systems.fitted().constants
    for board in projection_systems.accelerators().values():
        for precision in board.tflops.keys() & {"bf16", "fp8", "nvfp4", "mxfp4"}:
            bias = sum(
                known.bias.get(name, 0.0) for name in (board.maker, board.name, f"{board.name} {precision}")
            )
            assert known.share(precision) * math.exp(-bias) < 1, (board.name, precision)


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
    single = fit.fit([row for row in rows if row.maker == "AMD" and row.setup.accelerators == 8])
    assert single.exchange == pytest.approx(fit.PRIOR.exchange)
    assert single.far == pytest.approx(fit.PRIOR.far)


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
    assert row["nearest"]["differs"] == [] and row["memory_gib"] < row["memory_has_gib"]


def test_a_system_at_another_batch_size_is_found_and_says_so(capsys):
    (row,) = answer(capsys, "8xB200", "--precision", "nvfp4")
    assert len(row["public"]) == 7 and row["public"][0]["differs"] == ["batch 16"]
    project.main(asked("8xB200", "--precision", "nvfp4"))
    assert "84.4-86.4 (batch 16)" in capsys.readouterr().out
    (row,) = answer(capsys, "8xMI300X")
    assert row["public"] == [] and row["nearest"]["differs"] == ["MI350X"]


def test_tensor_parallelism_costs_what_its_links_and_smaller_products_take(capsys):
    """5.4 s before, 4.7 times the step without; the exchange over these links takes 0.5 s."""
    plain, split = (
        answer(capsys, "8xB200", "--precision", "fp8", *more)[0] for more in ((), ("--tensor", "8"))
    )
    assert 1.3 < split["step_s"] / plain["step_s"] < 2.2
    assert split["parts_s"]["activation exchange"] == pytest.approx(0.75, abs=0.2)


def test_a_model_that_does_not_fit_is_flagged(capsys):
    (row,) = answer(capsys, "8xH100")
    assert "needs 117 GiB of 79 GiB by the memory model of plan; split the model" in row["flags"]
    (row,) = answer(capsys, "8xH100", "--tensor", "4")
    assert not [flag for flag in row["flags"] if "GiB" in flag]


def test_the_page_shows_the_nearest_public_result_beside_every_projection(capsys, tmp_path):
    written = tmp_path / "projected.html"
    assert project.main(asked("8xMI355X", "8xMI300X", "--html", str(written))) == 0
    assert f"wrote {written}" in capsys.readouterr().err
    text = written.read_text()
    assert "v6.0/AMD/MI355X_EPYC_9575F_primus" in text and "the same setup" in text
    assert "public; it differs: MI350X" in text and "third party" in text and "registered" in text
    with pytest.raises(UsageError, match="exists; choose another name, or overwrite with --force"):
        project.main(asked("8xMI355X", "--html", str(written)))


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


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_a_narrow_terminal_gets_fewer_columns_and_no_cut_figure(width):
    console = Console(width=width, record=True, file=io.StringIO())
    options = dict.fromkeys(("precision", "attention", "context"))
    one = estimate.setup("8xB200", global_batch_size=32, tensor=1, pipeline=1, **options)
    estimate.show([estimate.project(one)], console)
    head, row = console.export_text().splitlines()[1:3]
    assert "minutes" in head and "8xB200" in row and "(batch 16)" in row and "…" not in head + row
    assert ("evaluation" in head) is (width == 120)


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
        (["8xB200", "--gbs", "12"], "--gbs: found 12; allowed: multiples of 8, .* of 8xB200"),
        (["8xB200", "--tensor", "16"], "--tensor: found 16; allowed: 1 .. 8"),
        (["8xB200", "--tensor", "0"], "--tensor: found 0"),
        (["8xB200", "--context", "3"], "not a multiple of tensor"),
    ],
)
def test_what_cannot_be_projected_is_said_in_one_line(arguments, why):
    with pytest.raises(UsageError, match=why) as caught:
        project.main(asked(*arguments))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_the_fit_takes_no_argument(capsys):
    assert fit.main(["tree"]) == 2
    assert "public index" in capsys.readouterr().err

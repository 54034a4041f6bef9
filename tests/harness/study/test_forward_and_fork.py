"""`study forward` and `study fork`: the arithmetic of their parts, their pages, and the real process (slow)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness import cli
from harness.base.errors import UsageError
from harness.config.file import resolve
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.replay_rows import GRAMS, Gemms, Measured, ReplayAsked, ReplayCell, write_asked
from harness.study import fork, forward, replay_cells
from harness.study.analysis import holm
from harness.study.replay_process import Trainings

CONFIG = resolve("proxy", overrides=["batch.micro_batch_size=2"], aliases={}).config
CELL = ReplayCell(name="mxfp4", arm="mxfp4", gemms=Gemms.ALL)


def write(home, arrays, *, arm="bf16", measured, fork_steps=0, cells=(CELL,)):
    home.mkdir(parents=True)
    np.savez(home / GRAMS, **arrays)
    identity = RunIdentity(arm=arm, seed=1)
    attempt_rows.write_config(home / file_names.CONFIG, AttemptConfig(config=CONFIG, run=identity))
    write_asked(home, ReplayAsked(cells=cells, batches=8, measured=measured, fork_steps=fork_steps))


def losses(exact, cell):
    """(2, 8) losses with a spread over batches that both passes share."""
    spread = np.linspace(-0.5, 0.5, 8)
    return {"loss": np.stack([exact + spread, cell + spread])}


def test_a_gap_is_the_forward_pass_and_the_weights(tmp_path, capsys):
    for seed in (1, 2, 3):
        write(tmp_path / "0_bf16" / f"seed_{seed}", losses(4.0, 4.003), measured=Measured.FORWARD)
        own = losses(4.010 + 1e-4 * seed, 4.015 + 1e-4 * seed)
        write(tmp_path / "1_mxfp4" / f"seed_{seed}", own, arm="mxfp4", measured=Measured.FORWARD)
    assert cli.main(["study", "forward", "--out", str(tmp_path), "--analyse"]) == 0
    said = capsys.readouterr().out
    assert "mxfp4              weights of bf16           +3.0 (0.0)" in said
    assert "+15.2 (+15.0 to +15.4) = +5.0 (+5.0 to +5.0) + +10.2" in said
    assert "recovers 5.0 of 15.2 mnat, mean over 1 recipe. The rest is in the weights." in said
    page = (tmp_path / forward.PAGE).read_text()
    assert "Part of the weights" in page and "take three seeds" not in page
    assert json.loads((tmp_path / forward.RESULTS).read_text())["splits"][0]["cell"] == "mxfp4"


def test_without_own_weights_the_dearest_forward_pass_is_named_and_few_seeds_warned_of(tmp_path, capsys):
    write(tmp_path / "0_bf16" / "seed_1", losses(4.0, 4.003), measured=Measured.FORWARD)
    cli.main(["study", "forward", "--out", str(tmp_path), "--analyse", "--json"])
    assert json.loads(capsys.readouterr().out)["rows"][0]["se"] == pytest.approx(0, abs=1e-12)
    page = (tmp_path / forward.PAGE).read_text()
    assert "The forward pass of mxfp4 costs most: 3.0 mnat" in page
    assert "1 training seed. Other trainings may differ: take three seeds or more." in page


def test_no_forward_pass_costs_most_if_none_lies_outside_its_interval(tmp_path):
    few = losses(4.0, 4.003)
    few["loss"][1] += np.array([0.01, -0.01] * 4)
    write(tmp_path / "0_bf16" / "seed_1", few, measured=Measured.FORWARD)
    assert forward.conclusion(forward.analyse(tmp_path)).startswith("No recipe's forward pass is told apart")


def test_a_step_costs_what_the_exact_fork_on_the_same_data_does_not(tmp_path, capsys):
    generator = np.random.default_rng(3)
    for seed in (1, 2, 3):
        data = generator.standard_normal((12, 1))
        after = 4 + data + np.array([0.0, 0.004]) + 1e-4 * generator.standard_normal((12, 2))
        own = np.repeat((5 + data + np.array([0.0, 0.002]))[:, :, None], 4, axis=2)
        arrays = {"after": after, "own": own, "before": np.array(4.0)}
        write(tmp_path / f"seed_{seed}", arrays, measured=Measured.FORKS, fork_steps=4)
    assert cli.main(["study", "fork", "--out", str(tmp_path), "--analyse"]) == 0
    said = capsys.readouterr().out
    assert (
        "over trainings); 36 forks of 4 steps from 3 trainings" in said
        and "A step costs: mxfp4 1.00 mnat." in said
    )
    assert "forward pass +2.000 (+2.000 to +2.000)" in said
    assert "take 30 or more" not in (tmp_path / fork.PAGE).read_text()


def test_two_recipes_are_compared_fork_by_fork(tmp_path, capsys):
    generator = np.random.default_rng(4)
    data = generator.standard_normal((30, 1))  # differs between forks by far more than recipes do
    after = 4 + data + np.array([0.0, 0.004, 0.008]) + 1e-4 * generator.standard_normal((30, 3))
    arrays = {"after": after, "own": np.zeros((30, 3, 4)), "before": np.array(4.0)}
    other = ReplayCell(name="alto", arm="mxfp4", gemms=Gemms.ALL)
    write(tmp_path / "seed_1", arrays, measured=Measured.FORKS, fork_steps=4, cells=(CELL, other))
    found = fork.analyse(tmp_path)
    (pair,) = found.differences
    assert (pair.cell, pair.other) == ("alto", "mxfp4") and pair.step.decided
    assert pair.step.mean == pytest.approx(0.001, rel=0.05)
    assert any(line.startswith("alto less mxfp4: per step +") for line in fork.table(found))


def test_pairs_are_told_apart_by_p_after_the_correction_for_their_number(tmp_path):
    """Three pairs: of two intervals without zero, one belongs to a p that three comparisons make larger than 0.05."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((30, 3))
    noise -= noise.mean(0)
    noise /= noise.std(0, ddof=1)
    after = np.zeros((30, 4))
    after[:, 1:] = 4e-3 * noise @ np.linalg.cholesky(np.linalg.inv(np.cov(noise.T))).astype(float)
    after[:, 3] += 2.2e-3  # about 2.1 standard errors from the second, and from the first
    arrays = {"after": after, "own": np.zeros((30, 4, 4)), "before": np.array(4.0)}
    cells = [ReplayCell(name=name, arm="mxfp4", gemms=Gemms.ALL) for name in ("one", "two", "three")]
    write(tmp_path / "seed_1", arrays, measured=Measured.FORKS, fork_steps=1, cells=tuple(cells))
    found = fork.analyse(tmp_path)
    raw = {(one.other, one.cell): one.step.decided for one in found.differences}
    assert raw == {("one", "two"): False, ("one", "three"): True, ("two", "three"): True}
    assert not any(one.decided for one in found.differences)
    lines = [line for line in fork.table(found) if " less " in line]
    assert len(lines) == 3 and all(line.endswith("after Holm's correction; not told apart") for line in lines)


def test_holms_correction_multiplies_the_smallest_p_most_and_never_orders_them_anew():
    assert holm([0.04, None, 0.01, 0.03]) == [0.06, None, 0.03, 0.06]
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_forks_of_one_state_share_its_error_so_that_trainings_are_the_units(tmp_path):
    generator = np.random.default_rng(5)
    for seed, cost in (
        (1, 0.004),
        (2, 0.0),
        (3, 0.008),
    ):  # differs between states by far more than between forks
        after = np.array([4.0, 4.0 + cost]) + 1e-5 * generator.standard_normal((10, 2))
        arrays = {"after": after, "own": np.zeros((10, 2, 4)), "before": np.array(4.0)}
        write(tmp_path / f"seed_{seed}", arrays, measured=Measured.FORKS, fork_steps=4)
    (row,) = fork.analyse(tmp_path).rows
    assert row.step.mean == pytest.approx(0.001, rel=0.01) and not row.decided
    assert row.step.high - row.step.mean == pytest.approx(
        4.303 * 0.001 / 3**0.5, rel=0.02
    )  # Student, 3 states
    assert row.states == pytest.approx((0.001, 0.0, 0.002), abs=1e-5)


@pytest.mark.parametrize("module", [forward, fork])
def test_an_empty_directory_is_refused(tmp_path, module):
    with pytest.raises(UsageError, match="choose a directory that study"):
        module.analyse(tmp_path)


def test_too_few_forks_are_refused(tmp_path, capsys):
    assert cli.main(["study", "fork", "--out", str(tmp_path), "--forks", "2"]) == 2
    assert "--forks: found 2; allowed: 3 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fork_of_the_exact_arm_costs_exactly_nothing_and_its_state_is_restored(tmp_path):
    exact = replay_cells.Cell(row=ReplayCell(name="exact", arm="bf16", gemms=Gemms.ALL),
                              recipe=CONFIG.recipes["bf16"], text="")  # fmt: skip
    cells = [exact, *(one for one in replay_cells.cells() if one.row.name == "fdw-sr"), exact]
    cells[2] = replay_cells.Cell(row=ReplayCell(name="again", arm="bf16"), recipe=exact.recipe, text="")
    trainings = Trainings(arm="bf16", seeds=1, steps=3, checkpoint=None, jobs=1)
    found = fork.run(CONFIG, cells, trainings, forks=3, steps=2, out=tmp_path)
    first, dear, again = found.rows
    assert first.step.mean == again.step.mean == 0.0 == first.forward.mean
    assert dear.step.mean != 0.0 and dear.forward.mean != 0.0

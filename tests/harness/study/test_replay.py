"""`study replay` on the proxy: what the process writes, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness import cli
from harness.base.errors import UsageError
from harness.config.file import resolve
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.config import Arm
from harness.contract.replay_rows import GRAMS, Gemms, Quantised, ReplayAsked, ReplayCell, write_asked
from harness.study import replay, replay_cells, replay_process
from harness.study.replay_process import Trainings

CONFIG = resolve("proxy", overrides=["batch.micro_batch_size=2"], aliases={}).config
LINEARS = ("layers.0.mlp.linear_fc1", "layers.0.mlp.linear_fc2")


def written(out, errors, *, n=64, seeds=1):
    """Matrices of gradients with a clear mean; `errors`: cell -> systematic error across it."""
    cells = tuple(ReplayCell(name=name, arm=name) for name in errors)
    for seed in range(1, seeds + 1):
        generator, arrays = np.random.default_rng(seed), {"loss": np.zeros((len(cells) + 1, n))}
        home = out / f"seed_{seed}"
        home.mkdir(parents=True)
        for label in LINEARS:
            mean, aside = np.zeros(100), np.zeros(100)
            mean[0], aside[1] = 1, 1
            g = mean + 0.2 * generator.standard_normal((n, 100))
            arrays[f"g/{label}"] = g @ g.T
            for cell in cells:
                e = errors[cell.name] * aside + 0.01 * generator.standard_normal((n, 100))
                arrays[f"eg/{cell.name}/{label}"], arrays[f"ee/{cell.name}/{label}"] = e @ g.T, e @ e.T
        with (home / GRAMS).open("wb") as file:
            np.savez(file, **arrays)
        write_asked(home, ReplayAsked(cells=cells, batches=n, train_steps=5))
        arms = {cell.arm: Arm(recipe="amd-te") for cell in cells}
        identity = RunIdentity(arm="bf16", seed=seed)
        told = AttemptConfig(config=dataclasses.replace(CONFIG, arms=arms), run=identity)
        attempt_rows.write_config(home / file_names.CONFIG, told)
    return out


def test_the_page_answers_whether_a_transform_removes_the_systematic_error(tmp_path, capsys):
    out = written(tmp_path, {"w-none": 0.1, "w-h16": 0.01, "w-rh16": 0.0, "w-sr": 0.0}, seeds=2)
    assert cli.main(["study", "replay", "--out", str(out), "--analyse"]) == 0
    said = capsys.readouterr().out
    assert "w-none             across +1.0" in said and "A deterministic H16 leaves 0.0" in said
    assert "by layer, %: 100" in said and "alignment of errors between linears" in said
    page = (out / replay.PAGE).read_text()
    assert "Do errors of different linears go together?" in page
    assert (
        "standard errors from zero" in page
        and "clear at 2 of 2 training seeds. Other trainings may differ" in page
    )
    document = json.loads((out / replay.RESULTS).read_text())
    (none, *_) = document["cells"]
    assert none["across"]["value"] == pytest.approx(0.01, rel=0.1) and none["is_clear"]
    assert none["layers"][LINEARS[0]]["value"] == pytest.approx(0.01, rel=0.2)


def test_no_ratio_is_printed_where_the_mean_gradient_drowns_in_noise(tmp_path, capsys):
    out = written(tmp_path, {"w-none": 0.1}, n=4)
    arrays = dict(np.load(out / "seed_1" / GRAMS))
    for label in LINEARS:
        arrays[f"g/{label}"] = np.eye(4)
    with (out / "seed_1" / GRAMS).open("wb") as file:
        np.savez(file, **arrays)
    cli.main(["study", "replay", "--out", str(out), "--analyse"])
    assert "not clear in so few micro batches" in capsys.readouterr().out


def test_fixed_signs_are_averaged_over_their_draws(tmp_path, capsys):
    out = written(tmp_path, {"w-fixed-h16-draw-1": 0.1, "w-fixed-h16-draw-2": 0.2})
    cli.main(["study", "replay", "--out", str(out), "--analyse"])
    line = next(one for one in capsys.readouterr().out.splitlines() if "mean of 2 draws" in one)
    assert line.startswith("w-fixed-h16        across +2.5") and "between draws 2.0" in line


def test_a_directory_without_matrices_is_refused(tmp_path):
    with pytest.raises(UsageError, match="study replay has filled"):
        replay.analyse(tmp_path)


def test_a_misspelled_cell_is_answered(tmp_path, capsys):
    assert cli.main(["study", "replay", "--out", str(tmp_path), "--cells", "w-nome"]) == 2
    assert "did you mean w-none?" in capsys.readouterr().err


def test_every_cell_says_what_it_quantises():
    cells = {one.row.name: one for one in replay_cells.cells()}
    assert cells["w-none-x"].row.operand is Quantised.X and "only X" in cells["w-none-x"].text
    assert cells["fdw-h16"].row.gemms is Gemms.ALL and cells["fdw-h16"].recipe.dgrad.hadamard == 16
    assert cells["w-h16"].recipe.fprop.format == "bf16"


@pytest.mark.slow
def test_the_real_process_finds_no_error_where_nothing_is_quantised(tmp_path):
    exact = replay_cells.Cell(
        row=ReplayCell(name="exact", arm="bf16", gemms=Gemms.ALL), recipe=CONFIG.recipes["bf16"], text="exact"
    )
    names = [
        "w-none",
        "w-none-x",
        "fdw-none",
        "fdw-none-w",
        "mean-split",
        "w-fixed-h16-draw-1",
        "w-fixed-h16-draw-2",
    ]
    chosen = [exact, *replay_cells.chosen(names, None, CONFIG)]
    trainings = Trainings(arm="bf16", seeds=1, steps=3, checkpoint=None, jobs=1)
    found = replay.run(CONFIG, chosen, trainings, batches=4, outlier_factor=16.0, out=tmp_path)
    nothing, none, only_x, whole, only_w, mean, first, second = (one.seeds[0] for one in found)
    assert nothing.total == 0.0 and nothing.across.value == 0.0
    assert 0 < only_x.total < none.total < whole.total and 0 < only_w.total < whole.total and mean.total > 0
    assert 0 < first.total != second.total > 0
    assert all(one.adam_seeds[0].total > 0 for one in found[1:]) and found[0].adam_seeds[0].total == 0.0
    document = json.loads((tmp_path / replay.RESULTS).read_text())
    kurtosis = document["kurtosis"]["layers.0.self_attention.linear_qkv"]
    assert kurtosis["x"] > 30 > 5 > kurtosis["w"] > 2  # injected channels
    assert document["outlier_factor"] == 16.0


def asked_of(tmp_path, *, batches=64, **changes):
    options = {"arm": "bf16", "seeds": 1, "steps": 5, "checkpoint": None, "jobs": 1, **changes}
    chosen = [one for one in replay_cells.cells() if one.row.name in ("w-none", "w-h16")]
    return replay.run(CONFIG, chosen, Trainings(**options), batches=batches, outlier_factor=1.0, out=tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"batches": 3}, "--batches: found 3; allowed: 4 or more"),
        ({"steps": 600}, r"4,928 sequences needed, the data set has 4,800; raise --set schedule.max_steps"),
        ({"checkpoint": Path("nowhere")}, "--checkpoint: nowhere: not a complete checkpoint"),
    ],
)
def test_what_cannot_be_replayed_is_refused_before_anything_starts(tmp_path, changes, why):
    with pytest.raises(UsageError, match=why):
        asked_of(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_second_call_with_other_cells_does_not_mix_two_replays(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_process.ensure, "ensure", lambda _: None)
    out = written(tmp_path, {"w-none": 0.1})
    with pytest.raises(UsageError, match="holds a replay of other cells, steps or batches"):
        asked_of(out)


def test_a_process_that_fails_is_quoted_with_its_own_error(tmp_path):
    said = "torch..ValueError: 3 is odd\n  raise ChildFailedError: (\ntorch.distributed..ChildFailedError: \n"
    (tmp_path / "stdout.log").write_text(said)
    assert replay_process._last_error(tmp_path) == ": 3 is odd"
    (tmp_path / "stdout.log").write_text("harness.contract.build.ConfigProblem: config: found nothing\n")
    assert replay_process._last_error(tmp_path) == ": config: found nothing"


def test_a_process_gets_a_path_that_does_not_depend_on_the_directory_of_the_caller(tmp_path, monkeypatch):
    started = []
    started_with = SimpleNamespace(
        Popen=lambda line, **_: started.append(line) or SimpleNamespace(wait=lambda: 0), STDOUT=None
    )
    monkeypatch.setattr(replay_process, "subprocess", started_with)
    monkeypatch.chdir(tmp_path)
    Path("replay").mkdir()
    replay_process._together([Path("replay")], 1)
    assert started[0][-1] == str(tmp_path / "replay")  # the process runs in the repository

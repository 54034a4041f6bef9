"""What a user sees while a run trains."""

from __future__ import annotations

import json
import math

from harness.analysis import forecast
from harness.campaign import forecast_text, progress
from harness.config.file import resolve
from harness.contract.attempt_rows import Status
from harness.records import metrics
from harness.records.metrics import Evaluation, Tail
from tests.harness.scripted_harness import scripted_config


def train(step: int, *, step_s: float = 0.5) -> str:
    row = {"kind": "train", "step": step, "samples": 8 * step, "loss": 4.0, "lr": 1e-3, "step_s": step_s}
    return json.dumps(row) + "\n"


def evaluation(samples: int, loss: float | str) -> str:
    row = {"kind": "eval", "step": samples // 8, "samples": samples, "loss": loss, "elapsed_s": 1.0}
    return json.dumps(row) + "\n"


def benchmark(**settings: object):
    keys = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    return resolve("llama31_8b", overrides=keys, aliases={}).config


def typical(*samples: int) -> list[Evaluation]:
    """Evaluations on the typical public curve at batch size 32, on the way to 180,000 samples."""
    curve = forecast.constants().curve(32, "mxfp4")
    steps = sorted(curve)
    return [Evaluation(at, curve[min(steps, key=lambda p: abs(p - at / 180_000))]) for at in samples]


def test_an_evaluation_is_one_plain_line(tmp_path):
    seen = [Evaluation(1024, 8.1234)]
    config = scripted_config(tmp_path)
    text = progress.line("mxfp4 run 0", seen, config, samples_per_s=25.08, evaluation_s=None, status=Status())
    target = config.evaluation.target_log_perplexity
    assert text == (
        f"mxfp4 run 0: 1024 samples, log perplexity 8.123 (target {target:g}), 25.1 samples/s, "
        "too early: 1 of 3 evaluations"
    )


def test_a_line_of_the_benchmark_holds_band_outlook_and_memory():
    seen, status = typical(81_000, 90_000, 99_000), Status(memory_bytes=80 * 2**30)
    text = progress.line(
        "mxfp4 run 0", seen, benchmark(), samples_per_s=30.0, evaluation_s=None, status=status
    )
    band = forecast.band(32, 99_000, benchmark="llama31_8b")
    assert f"(target 3.3, public runs {band.low:.3f}-{band.high:.3f}), 30.0 samples/s" in text
    assert "target near 180,798 samples +-4.8 % (reference 178,859), ends in about 47 min +-" in text
    assert text.endswith(", 80.0 GiB") and "\n" not in text


def test_the_time_to_the_target_and_its_error_follow_from_samples_and_speed():
    view = forecast_text.look(
        typical(81_000, 90_000, 99_000), benchmark(), samples=120_000, samples_per_s=25.0, evaluation_s=60.0
    )
    assert view.time_to_target_s == (view.outlook.samples - 120_000) / 25
    assert view.samples_at_stop % 12_288 == 0 and 0 <= view.samples_at_stop - view.outlook.samples < 12_288
    evaluations = view.samples_at_stop // 12_288 - 9
    assert view.time_to_stop_s == (view.samples_at_stop - 120_000) / 25 + 60 * evaluations
    assert math.isclose(view.error_s, view.outlook.samples * view.outlook.error_pct / 100 / 25)


def test_the_proxy_is_never_held_against_public_runs(tmp_path):
    seen = typical(81_000, 90_000, 99_000)
    view = forecast_text.look(
        seen,
        scripted_config(tmp_path, evaluation__target_log_perplexity=3.3),
        samples=1,
        samples_per_s=1.0,
        evaluation_s=None,
    )
    assert view.band is None and view.reference_samples is None and view.outlook.error_pct is None


def test_memory_that_is_no_number_is_left_out():
    assert forecast_text.memory(3 * 2**30) == "3.0 GiB"
    assert [forecast_text.memory(value) for value in (None, True, -1, "12", 1.5)] == [None] * 5


def test_every_evaluation_of_a_run_gets_its_line_once(tmp_path, capsys):
    lines = progress.Lines()
    lines.start("mxfp4 run 0", tmp_path, scripted_config(tmp_path))
    path = tmp_path / "metrics.jsonl"
    path.write_text(train(1) + evaluation(8, 5.0) + train(2) + evaluation(16, 4.5))
    lines.poll()
    lines.poll()
    with path.open("a") as file:
        file.write(train(3) + evaluation(24, "nan"))
    lines.poll()
    lines.end("success")
    said = capsys.readouterr().err.splitlines()
    assert [text.partition(",")[0] for text in said] == [
        *("mxfp4 run 0: started", "mxfp4 run 0: 8 samples", "mxfp4 run 0: 16 samples"),
        *("mxfp4 run 0: 24 samples", "mxfp4 run 0: success"),
    ]


def test_a_tail_takes_whole_lines_only_and_each_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == [], "not there yet"
    with path.open("a") as file:
        file.write(train(1) + evaluation(8, 5.0) + train(2)[:10])
        file.flush()
        assert tail.read() == [Evaluation(8, 5.0)]
        assert (tail.samples, tail.read()) == (8, [])
        file.write(train(2)[10:])
        file.flush()
        tail.read()
    assert tail.samples == 16


def test_speed_is_that_of_the_last_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(train(1, step_s=100.0) + "".join(train(step) for step in range(2, 80)))
    tail = Tail(path)
    tail.read()
    assert tail.samples_per_s == 16.0


def test_a_loss_that_is_no_number_is_shown_as_it_is(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(evaluation(8, "nan"))
    tail = Tail(path)
    assert math.isnan(tail.read()[0].log_perplexity)
    assert metrics.samples_left([*tail.evaluations, Evaluation(16, 5.0)], 3.0) is None


def test_the_way_to_the_target_is_extrapolated_over_the_logarithm_of_samples():
    curve = [Evaluation(samples, 10 - math.log(samples)) for samples in (256, 512, 768, 1024)]
    assert math.isclose(metrics.samples_left(curve, 10 - math.log(2048)), 1024, rel_tol=1e-9)


def test_there_is_no_estimate_without_progress():
    assert metrics.samples_left([Evaluation(256, 5.0)], 3.6) is None
    assert metrics.samples_left([Evaluation(256, 5.0), Evaluation(512, 5.1)], 3.6) is None
    assert metrics.samples_left([Evaluation(256, 5.0), Evaluation(512, 4.999999)], 0.1) is None
    assert metrics.samples_left([Evaluation(256, 5.0), Evaluation(512, 3.5)], 3.6) is None


def test_durations_are_as_exact_as_a_guess_deserves():
    assert [metrics.duration(seconds) for seconds in (42.4, 720, 11_100)] == ["42 s", "12 min", "3 h 05 min"]


def test_an_engine_that_is_passed_over_is_warned_of_once(tmp_path, capsys):
    row = {
        "kind": "engine",
        "engine": "torch block-scaled scaled_mm",
        "what": "mxfp4 H16",
        "failure": "no \x1b[2J",
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    lines = progress.Lines()
    lines.start("mxfp4 run 0", tmp_path, scripted_config(tmp_path))
    lines.poll()
    lines.poll()
    said = capsys.readouterr().err.splitlines()[1:]
    assert len(said) == 1 and said[0].isprintable()
    assert said[0].startswith(
        "mxfp4 run 0: warning: torch block-scaled scaled_mm is not used for mxfp4 H16, the next engine is: no "
    )

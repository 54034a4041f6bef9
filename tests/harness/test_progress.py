"""What a user sees while a run trains."""

from __future__ import annotations

import json
import math

from harness import metrics, progress
from harness.metrics import Evaluation, Tail
from tests.harness.scripted_harness import scripted_config


def train(step: int, *, step_s: float = 0.5) -> str:
    row = {"kind": "train", "step": step, "samples": 8 * step, "loss": 4.0, "lr": 1e-3, "step_s": step_s}
    return json.dumps(row) + "\n"


def evaluation(samples: int, loss: float | str) -> str:
    row = {"kind": "eval", "step": samples // 8, "samples": samples, "loss": loss, "elapsed_s": 1.0}
    return json.dumps(row) + "\n"


def test_an_evaluation_is_one_plain_line():
    text = progress.line("mxfp4 run 0", Evaluation(1024, 4.1234), target=3.6, samples_per_s=25.08)
    assert text == "mxfp4 run 0: 1024 samples, log perplexity 4.123 (target 3.6), 25.1 samples/s"


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
    assert metrics.samples_to_target([*tail.evaluations, Evaluation(16, 5.0)], 3.0) is None


def test_the_way_to_the_target_is_extrapolated_over_the_logarithm_of_samples():
    curve = [Evaluation(samples, 10 - math.log(samples)) for samples in (256, 512, 768, 1024)]
    assert math.isclose(metrics.samples_to_target(curve, 10 - math.log(2048)), 1024, rel_tol=1e-9)


def test_there_is_no_estimate_without_progress():
    assert metrics.samples_to_target([Evaluation(256, 5.0)], 3.6) is None
    assert metrics.samples_to_target([Evaluation(256, 5.0), Evaluation(512, 5.1)], 3.6) is None
    assert metrics.samples_to_target([Evaluation(256, 5.0), Evaluation(512, 4.999999)], 0.1) is None
    assert metrics.samples_to_target([Evaluation(256, 5.0), Evaluation(512, 3.5)], 3.6) is None


def test_a_run_on_a_terminal_says_how_long_it_will_take(tmp_path):
    path, config = tmp_path / "metrics.jsonl", scripted_config(tmp_path)
    path.write_text(
        "".join(map(train, range(1, 6))) + evaluation(40, 5.0) + "".join(map(train, range(6, 11)))
    )
    path.write_text(path.read_text() + evaluation(80, 4.5))
    tail = Tail(path)
    tail.read()
    text = progress.describe(tail, config, state="training")
    assert text.startswith("training, 80 samples, log perplexity 4.500")
    assert "16.0 samples/s, step limit in 5 s" in text
    assert "target in about" in text
    assert "limit" not in progress.describe(tail, config, state="success", running=False)


def test_durations_are_as_exact_as_a_guess_deserves():
    assert [metrics.duration(seconds) for seconds in (42.4, 720, 11_100)] == ["42 s", "12 min", "3 h 05 min"]

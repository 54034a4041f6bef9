"""The command `diagnose`: figures over layers and steps from looks that are made by hand, and files that are wrong."""

from __future__ import annotations

import json
import math
import re

import pytest

from harness import cli
from harness.base.errors import ConfigError
from harness.config import rules
from harness.config.file import resolve
from harness.contract.diagnostics_rows import Gradient
from harness.study.quantisation import figures

HOSTILE = "<script>alert(1)</script> $x^2$ \x1b[31m [bold]"


def operand(snr_db: float | None = 19.0) -> dict:
    return {
        "snr_db": snr_db,
        "bias": -0.01,
        "clipped": 0.006,
        "flushed": 0.1,
        "kurtosis": 12.0,
        "kurtosis_transformed": 3.5,
        "exponents": [[-8, 30], [-7, 70]],
    }


def row(layer: str, gemm: str, snr_db: float, gradient: dict | None = None) -> dict:
    product = {"snr_db": snr_db, "bias": -0.02, "cosine": 0.98, "energy_lost": 0.01, "orthogonal": 0.02}
    made = {"layer": layer, "gemm": gemm, "format": "mxfp4", "transform": "H16", "product": product}
    return made | {"left": operand(), "right": operand(None)} | ({"gradient": gradient} if gradient else {})


def gradient(looks: int, power: float) -> dict:
    lags = [[lag, 0.3 / lag, 0.1, 0.8] for lag in range(1, min(looks, 4))]
    three = {"error": looks**power, "rest": looks**0.5, "gradient": float(looks)}
    mean = {"error": 0.5, "rest": 0.0, "gradient": 0.9} if looks > 1 else None
    return {"error": 0.04, "bias": -0.02, "looks": looks, "lags": lags, "mean": mean, "sum": three}


def lines(looks: int = 12) -> list[dict]:
    """Two layers; the second one is a decibel better, and its errors add up in one direction."""
    return [
        {
            "step": 100 + n,
            "samples": 800 + 8 * n,
            "rows": [
                row(
                    f"layers.{k}.mlp",
                    gemm,
                    16.0 + k + n / 100,
                    gradient(n, (0.5, 1)[k]) if gemm == "wgrad" else None,
                )
                for k in (0, 1)
                for gemm in ("fprop", "dgrad", "wgrad")
            ],
        }
        for n in range(1, looks + 1)
    ]


@pytest.fixture
def campaign(tmp_path):
    """A directory like a campaign's, of one run and one attempt."""

    def make(arm: str = "mxfp4", name: str = "a", content: list[dict] | None = None, run: int = 0):
        place = tmp_path / name / f"run_{run}" / "attempt_1"
        place.mkdir(parents=True)
        looked_at = lines() if content is None else content
        text = "".join(json.dumps(line) + "\n" for line in looked_at)
        (place / "diagnostics.jsonl").write_text(text)
        (place / "config.json").write_text(json.dumps({"config": {}, "run": {"arm": arm, "index": run}}))
        steps = [{"kind": "train", "step": s, "step_s": 0.5 if s > 100 else 0.1} for s in range(1, 113)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        return tmp_path / name

    return make


def document(capsys, *paths) -> list[dict]:
    said = []
    for command in (["study", "diagnose"], ["diagnose"]):  # the second is another name of the first
        assert cli.main([*command, "--json", *map(str, paths)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    return json.loads(said[0])["attempts"]


def test_figures_are_medians_over_layers_and_looks(campaign, capsys):
    (found,) = document(capsys, campaign())
    assert (found["name"], found["steps"][0], len(found["steps"])) == ("mxfp4 run 0", 101, 12)
    assert [one["gemm"] for one in found["gemms"]] == ["fprop", "dgrad", "wgrad"]
    wgrad = found["gemms"][2]
    assert (wgrad["format"], wgrad["transform"]) == ("mxfp4", "H16")
    assert wgrad["product"]["snr_db"]["median"] == pytest.approx(16.565)
    assert wgrad["product"]["snr_db"]["low"] == pytest.approx(16.03)
    assert wgrad["product"]["snr_db"]["high"] == pytest.approx(17.1)
    assert wgrad["left"]["exponents"] == [[-8, 0.3], [-7, 0.7]] and wgrad["right"]["snr_db"] is None
    better = [one for one in found["layers"] if one["layer"] == "layers.1.mlp"][2]
    assert better["gemm"] == "wgrad" and better["product"]["snr_db"]["median"] == pytest.approx(17.065)
    last = found["over_steps"][-1]
    assert (last["step"], last["gemm"]) == (112, "wgrad") and last["snr_db"]["median"] == pytest.approx(16.62)


def test_errors_that_add_up_are_told_from_errors_that_do_not(campaign, capsys):
    errors = document(capsys, campaign())[0]["errors"]
    assert errors["layers"] == 2 and errors["error"] == {"mean": pytest.approx(0.2), "sd": 0}
    assert errors["exponent"]["error"] == {
        "mean": pytest.approx(0.75),
        "sd": pytest.approx(0.5 / math.sqrt(2)),
    }
    assert errors["exponent"]["rest"]["mean"] == pytest.approx(0.5)
    assert errors["exponent"]["gradient"]["mean"] == pytest.approx(1)
    assert errors["lags"]["2"]["error"]["mean"] == pytest.approx(0.15) and list(errors["lags"]) == [
        "1",
        "2",
        "3",
    ]
    assert errors["mean"]["gradient"]["mean"] == pytest.approx(0.9)
    assert errors["growth"][3] == [4, 3, 2, 4]


def test_too_few_looks_have_no_growth_exponent(campaign, capsys):
    errors = document(capsys, campaign(content=lines(5)))[0]["errors"]
    assert errors["exponent"] == {"error": None, "rest": None, "gradient": None}


def test_the_cost_of_looking_is_that_of_the_steps_that_were_looked_at(campaign, capsys):
    cost = document(capsys, campaign())[0]["cost"]
    assert cost["ratio"] == pytest.approx(5) and cost["every_100_pct"] == pytest.approx(4)


def test_several_attempts_stand_side_by_side_and_on_a_page(campaign, capsys, tmp_path):
    page = tmp_path / "page.html"
    paths = [campaign(), campaign("fp8", "b"), campaign("fp8", "c")]
    assert cli.main(["diagnose", *map(str, paths), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "Wgrad: median over layers and looks" in out and "16.57 (16.03 .. 17.10)" in out
    assert "b/fp8 run 0" in out and "c/fp8 run 0" in out, "names that are the same say which is which"
    assert "growth exponent of the sum" in out and "+0.750 ± 0.354" in out
    text = page.read_text()
    assert text.count("<svg") == 7 and "<script" not in text and "http://www.w3.org" in text
    assert not re.findall(r'(?:src|href)="(?!#)', text.replace('xlink:href="#', "")), "nothing is fetched"
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))


def test_hostile_names_are_text_on_the_terminal_and_on_the_page(campaign, capsys, tmp_path):
    content = lines(9)
    for line in content:
        for one in line["rows"]:
            one["layer"] = f"{HOSTILE} {one['layer']}"
            one["format"] = "<b>4</b>"
    page = tmp_path / "page.html"
    path = campaign(arm=HOSTILE, content=content)
    assert cli.main(["diagnose", str(path), "--html", str(page)]) == 0
    out, text = capsys.readouterr().out, page.read_text()
    assert "\x1b" not in out and "[bold]" in out
    assert "<script" not in text and "<b>4" not in text and "&lt;script&gt;" in text and "\x1b" not in text


def test_an_attempt_of_one_look_without_gradients_or_metrics_is_shown(campaign, capsys, tmp_path):
    content = lines(1)
    for one in content[0]["rows"]:
        one.pop("gradient", None)
        one["product"] = dict.fromkeys(one["product"])
    path = campaign(content=content) / "run_0" / "attempt_1"
    (path / "metrics.jsonl").unlink()
    assert cli.main(["diagnose", str(path), "--html", str(tmp_path / "page.html")]) == 0
    assert "Cost" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text.replace('"snr_db": 16.01', '"snr_db": NaN'), ":1: found NaN; allowed: JSON"),
        (
            lambda text: text.replace('"snr_db": 16.01', '"snr_db": "x"'),
            ":1: product.snr_db: found x; allowed: a",
        ),
        (
            lambda text: text.replace('"gemm": "fprop"', '"gemm": "f"'),
            ":1: gemm: found f; allowed: fprop | dgrad",
        ),
        (
            lambda text: text.replace('"looks": 3', '"looks": -3'),
            ":3: gradient.looks: found -3; allowed: an integer",
        ),
        (
            lambda text: text.replace("[[-8, 30]", "[[-8]"),
            ":1: left.exponents: found [-8]; allowed: rows of 2",
        ),
        (lambda text: text[: text.index("\n")], ": found no measurement; allowed: at least one whole line"),
        (lambda text: "[" * 100_000 + "\n", ":1: "),
        (lambda text: "3\n", ":1: line: found 3; allowed: a mapping"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(campaign, capsys, spoil, said):
    path = campaign() / "run_0" / "attempt_1" / "diagnostics.jsonl"
    path.write_text(spoil(path.read_text()))
    assert cli.main(["diagnose", str(path.parent)]) == 2
    error = capsys.readouterr().err
    assert f"diagnostics.jsonl{said}" in error and error.count("\n") == 1


def test_a_path_without_diagnostics_says_how_to_get_some(tmp_path, capsys):
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "allowed: a campaign or an attempt that was trained with diagnostics.every_steps above 0" in (
        capsys.readouterr().err
    )


def test_a_look_that_is_being_written_is_left_out(campaign, capsys):
    path = campaign() / "run_0" / "attempt_1" / "diagnostics.jsonl"
    path.write_text(path.read_text() + '{"step": 113, "ro')
    assert len(document(capsys, path.parent)[0]["steps"]) == 12


def test_spread_and_exponent_of_nothing_are_nothing():
    assert figures.spread([None, None]) is None
    assert figures.over_layers([]) is None
    one = Gradient(error=1, bias=0, looks=1, lags={}, mean=None, sum={"error": 0.0})
    assert figures.exponent([one] * 9, "error") is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["diagnostics.every_steps=-1"], "every_steps: found -1; allowed: 0 (none) or more"),
        (["diagnostics.consecutive_steps=2"], "consecutive_steps: found 2; allowed: 1 to 1"),
        (["diagnostics.every_steps=5", "diagnostics.consecutive_steps=6"], "found 6; allowed: 1 to 5"),
        (["diagnostics.rows=31"], "rows: found 31; allowed: 0 (all) or at least 32"),
        (
            ["diagnostics.every_steps=5", "runs.arms=[fp8-te-delayed]"],
            "found 5; allowed: 0 with the arm fp8-te",
        ),
    ],
)
def test_looks_that_cannot_be_are_refused(overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        resolve("proxy", overrides=overrides, aliases={})


def test_the_closed_division_is_not_looked_at():
    overrides = ["diagnostics.every_steps=100"]
    with pytest.raises(ConfigError, match="allowed: 0, which the closed division fixes"):
        resolve("llama31_8b", overrides=overrides, aliases={})
    config = resolve("llama31_8b", overrides=[*overrides, "system.division=open"], aliases={}).config
    rules.check(config)
    assert config.diagnostics.looks_at(200)

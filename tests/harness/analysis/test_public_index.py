from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from mlperf_logging.rcp_checker import rcp_checker
from mlperf_logging.result_summarizer import result_summarizer
from rich.console import Console

from harness import cli
from harness.analysis import (
    comparison,
    key_event_records,
    official_score,
    public_index,
    run_figures,
    submission_loader,
)
from harness.report import index_table
from tests.harness.logs import write_run, write_submission

PUBLIC = Path(__file__).parents[4] / "shared" / "public_results"
needs_public = pytest.mark.skipif(
    not PUBLIC.exists(), reason=f"published logs are not beside this repository: {PUBLIC}"
)
ENDS = [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25)]
HOSTILE = "=HYPERLINK()<b>\x1b[2J"


@pytest.fixture
def tree(tmp_path):
    """A repository of two systems, one of them numbered from 01."""
    root = tmp_path / "training_results_v9.9" / "Acme"
    for name, speed in (("box_one", 0.03), ("box_two", 0.02)):
        write_submission(root / "results" / name / "llama31_8b", ends=ENDS, seconds_per_sample=speed)
    for log in sorted((root / "results" / "box_two" / "llama31_8b").iterdir(), reverse=True):
        log.rename(log.with_name(f"result_{int(log.stem[-1]) + 1:02d}.txt"))
    description = {
        "submitter": "Acme",
        "accelerators_per_node": "4",
        "number_of_nodes": "2",
        "framework": "Anvil",
    }
    (root / "systems").mkdir()
    (root / "systems" / "box_one.json").write_text(json.dumps(description))
    return root.parent


def entries_of(tree):
    return [public_index.entry(place) for place in public_index.directories(tree)]


def test_an_index_gives_what_the_logs_give(tree, tmp_path, capsys):
    index = tmp_path / "index.json"
    assert cli.main(["results", "index", str(tree), "--out", str(index)]) == 0
    assert "2 systems, 6 runs" in capsys.readouterr().err
    places = [tree / "Acme" / "results" / name / "llama31_8b" for name in ("box_two", "box_one")]
    from_logs = comparison.compare([submission_loader.load(place) for place in places])
    from_index = comparison.compare(public_index.named(["two", "box_one"], index))
    assert any("retrieved 20" in line for line in from_index.notices), "the index knows when it read the logs"
    assert dataclasses.replace(from_index, notices=()) == dataclasses.replace(from_logs, notices=())
    assert from_index.submissions[1].accelerators == 8 and from_index.submissions[1].round == "v9.9"


def test_compare_takes_names_of_an_index(tree, tmp_path, capsys):
    (tmp_path / "index.json").write_text(public_index.document(entries_of(tree)))
    own = write_submission(tmp_path / "own", ends=ENDS)
    options = ["--index", str(tmp_path / "index.json"), "--json"]
    assert cli.main(["compare", str(own), "--public", "ACME/box_o", *options]) == 0
    ratio = json.loads(capsys.readouterr().out)["ratios"][0]
    assert (ratio["submission"], ratio["baseline"]) == ("own", "box_one")
    assert ratio["time_to_train"]["ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("box", "means 2 systems: v9.9/Acme/box_one, v9.9/Acme/box_two"),
        ("crate", "no system 'crate'"),
    ],
)
def test_a_name_that_is_not_one_system_lists_what_there_is(tree, tmp_path, capsys, name, said):
    (tmp_path / "index.json").write_text(public_index.document(entries_of(tree)))
    assert cli.main(["compare", "--public", name, "--index", str(tmp_path / "index.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_whole_name_wins_over_a_longer_one_that_contains_it(tree):
    entries = entries_of(tree)
    longer = dataclasses.replace(entries[0], system="box_one_more")
    assert public_index.find([longer, *entries], "box_one") is entries[0]


def test_a_log_that_cannot_be_read_is_named_and_left_out(tree, capsys):
    write_run(tree / "Zeta" / "results" / "crate" / "llama31_8b" / "result_0.txt", seed=1, losses=[6.0])
    torn = tree / "Zeta" / "results" / "crate" / "llama31_8b" / "result_0.txt"
    torn.write_text(torn.read_text().rpartition(":::MLLOG")[0])
    assert cli.main(["results", "index", str(tree)]) == 0
    assert "left out:" in capsys.readouterr().err


def test_a_tree_without_logs_is_one_clear_line(tmp_path, capsys):
    assert cli.main(["results", "index", str(tmp_path)]) == 2
    assert "found no llama31_8b logs; allowed: a repository with" in capsys.readouterr().err
    (tmp_path / "index.json").write_text("[]")
    assert cli.main(["results", "list", "--index", str(tmp_path / "index.json")]) == 2
    assert "no index of llama31_8b results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"runs": []},
        {"runs": [{"seed": 1}]},
        {"points": 7},
        {"accelerators": "many"},
        {"precision": 1, "source": 0},
        {"points": {"submission_status": ["onprem"]}},
        {
            "runs": [
                {
                    "seed": 1,
                    "status": "success",
                    "run_ms": 9,
                    "init_ms": None,
                    "evaluation_ms": None,
                    "samples": [1, 2],
                    "at_ms": [1],
                    "log_perplexity": [4.0, 3.0],
                }
            ]
        },
    ],
)
def test_an_entry_of_the_wrong_shape_is_one_clear_line(tree, tmp_path, capsys, change):
    index = json.loads(public_index.document(entries_of(tree)))
    index["systems"][0].update(change)
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert cli.main(["compare", "--public", "box", "--index", str(tmp_path / "index.json")]) == 2
    error = capsys.readouterr().err
    assert "Acme/box_one: found an entry of the wrong shape" in error and error.count("\n") == 1


def test_what_strangers_write_is_harmless_in_table_and_spreadsheet(tmp_path, capsys):
    place = tmp_path / "v9.9" / "=cmd()" / "results" / "box" / "llama31_8b"
    write_submission(place, ends=ENDS, org=HOSTILE, submission_platform=HOSTILE)
    table = tmp_path / "table.csv"
    assert cli.main(["results", "index", str(tmp_path), "--out", str(table)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert rows[0]["organisation"] == "'=cmd()" and float(rows[0]["time_to_train_min"]) > 1
    found = public_index.submission(entries_of(tmp_path)[0])
    assert "\x1b" not in found.org + found.system


def test_the_shipped_index_is_compared_offline(capsys):
    """Nothing but the repository: NVFP4 against FP8 on eight B200."""
    assert cli.main(["compare", "--public", "SYS-422GS", "hpg.dgxb200x8.n1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = document["ratios"][0]
    assert found["time_to_train"]["ratio"] == pytest.approx(0.908, abs=0.005)
    assert found["samples_to_target"]["ratio"] == pytest.approx(1.09, abs=0.005)
    assert found["throughput"]["ratio"] == pytest.approx(1.197, abs=0.005)
    for name in ("time_to_train", "samples_to_target", "throughput"):
        low, high = found[name]["ci95"]
        assert low < found[name]["ratio"] < high and not low < 1 < high
    assert "9.2 % less time" in found["verdict"] and "9.0 % more samples" in found["verdict"]
    assert any("nvfp4" in line and "fp8" in line for line in document["differences"])


def test_the_shipped_index_has_every_published_system():
    entries = public_index.read()
    rounds = [one.round for one in entries]
    assert (rounds.count("v5.1"), rounds.count("v6.0")) == (39, 10)
    assert all(len(one.runs) == 10 and len(one.source.sha256) == 64 for one in entries)
    assert not any(one.precision == "unknown" for one in entries), (
        "precision.csv has those that do not say it"
    )
    assert all(bool(one.source.origin) == (one.round == "v6.0") for one in entries), "v6.0 is from a mirror"
    assert sum(one.partial for one in entries) == 2
    assert all(run_figures.time_to_train_min(public_index.submission(one)) > 1 for one in entries)
    assert ":::MLLOG" not in public_index.SHIPPED.read_text()


def public_directories():
    return list(public_index.directories(PUBLIC)) if PUBLIC.exists() else []


@pytest.mark.public
@needs_public
def test_the_shipped_index_is_what_the_logs_give():
    shipped = {one.key: one for one in public_index.read()}
    records = sorted(PUBLIC.glob("v6.0-partial/*.json"))
    found = [*map(public_index.entry, public_directories()), *map(key_event_records.entry, records)]
    rebuilt = {one.key: one for one in found}
    both = shipped.keys() & rebuilt.keys()  # submissions at hand may be newer than the index
    assert len(both) >= 25
    for key in sorted(both):
        origin, retrieved = shipped[key].source.origin, shipped[key].source.retrieved  # stand in no log
        source = dataclasses.replace(rebuilt[key].source, origin=origin, retrieved=retrieved)
        assert shipped[key] == dataclasses.replace(rebuilt[key], source=source), key


@pytest.mark.public
@needs_public
@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_olympic_and_normalised_scores_are_the_official_tools(tmp_path, step):
    """Every system (or every twelfth) in the folder that the official tools want, and the tools' own scaling."""
    for place in list(public_directories())[::step]:
        target = tmp_path / place.parent.name / "llama31_8b"
        shutil.copytree(place, target, ignore=shutil.ignore_patterns("scaling.json"))
        loaded = submission_loader.load(place)
        olympic = run_figures.time_to_train_min(loaded)
        assert olympic == pytest.approx(official_minutes(target, scaled=False), abs=1e-6)
        assert official_score.problem(loaded) is None
        passed, _, factor = rcp_checker.check_directory(
            str(target), "training", "5.1.0", False, False, rcp_pass="full_rcps"
        )
        assert passed
        assert official_score.estimate(loaded).value == pytest.approx(olympic * factor, abs=1e-6)
        (target / "scaling.json").write_text(json.dumps({"scaling_factor": factor}))
        assert official_score.estimate(loaded).value == pytest.approx(official_minutes(target), abs=1e-6)


def official_minutes(directory, *, scaled=True):
    """The official tool's own olympic mean, with the scaling that it finds."""
    name = f"{directory.parents[2].name}/{directory.parent.name}"
    score, _, scaling = result_summarizer._compute_strong_score_standalone(
        "llama31_8b", name, False, str(directory), "training", "5.1.0"
    )
    assert scaled or scaling == 1
    return score


def test_an_index_that_is_read_is_written_as_it_was():
    text = public_index.SHIPPED.read_text()
    assert public_index.document(public_index.read()) == text


@pytest.fixture
def record(tmp_path):
    """Key events of a system of which one run is whole."""
    ends = [[1_900_000_060_000, 24_576, 3.4], [1_900_000_090_000, 36_864, 3.2]]
    run = {
        "seed": 1, "status": "success", "init_start": 1_900_000_000_000, "run_start": 1_900_000_010_000,
        "run_stop": 1_900_000_090_500, "first_eval": [1_900_000_030_000, 12_288, 5.0], "evals": ends,
    }  # fmt: skip
    whole = {**run, "seed": 2, "all_evals": [run["first_eval"], *ends]}
    content = {
        "org": "Acme", "system": "box_three", "path": "Acme/results/box_three/llama31_8b", "source": "a mirror",
        "common": {
            "submission_benchmark": "llama31_8b", "global_batch_size": 16, "target_accuracy": 3.3,
            "opt_base_learning_rate": 4e-4,
        },
        "system_description": {
            "system_name": "Box 3", "accelerator_model_name": "NVIDIA B200", "number_of_nodes": "2",
            "accelerators_per_node": "4", "framework": "Anvil", "status": "Available cloud",
        },
        "runs": [run, whole, {**run, "seed": 3}],
    }  # fmt: skip
    place = tmp_path / "v9.9-partial" / "box_three.json"
    place.parent.mkdir()
    place.write_text(json.dumps(content))
    return place


def test_a_record_of_key_events_and_a_directory_are_added_to_an_index(tree, record, tmp_path, capsys):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert cli.main(["results", "index", str(tree), "--out", str(first)]) == 0
    place = tree / "Acme" / "results" / "box_one" / "llama31_8b"
    paths = [str(record), str(place)]
    assert cli.main(["results", "add", *paths, "--index", str(first), "--out", str(second)]) == 0
    assert "3 systems, 9 runs" in capsys.readouterr().err
    found = public_index.find(public_index.read(second), "v9.9/Acme/box_three")
    assert (found.partial, found.source.origin, found.status) == (True, "a mirror", "Available cloud")
    one = public_index.submission(found)
    assert run_figures.time_to_train_min(one) == pytest.approx(80.5 / 60)
    assert run_figures.target_samples(one)[0] == pytest.approx(30_720)
    assert one.accelerators == 8 and one.timings[0].init_ms == 10_000


@pytest.mark.parametrize(
    "change", [{"runs": []}, {"common": {}}, {"system_description": None}, {"runs": [{}]}]
)
def test_a_record_that_lacks_something_is_one_clear_line(record, tmp_path, capsys, change):
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    assert cli.main(["results", "add", str(record), "--out", str(tmp_path / "out.json")]) == 2
    error = capsys.readouterr().err
    assert "no record of key events" in error and error.count("\n") == 1


def test_the_list_filters_sorts_and_drops_columns_from_the_right(capsys):
    wanted = ["results", "list", "--accelerator", "mi355x", "--precision", "MXFP4", "--sort", "minutes"]
    assert cli.main([*wanted, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["systems"]
    minutes = [one["time_to_train_normalized_min"] for one in found]
    assert len(found) == 5 and minutes == sorted(minutes) and minutes[0] == pytest.approx(86.845, abs=0.001)
    assert {one["model"] for one in found} == {"MI355X"} and found[0]["accelerator_hours"] > 11
    rows = [index_table.row(one) for one in public_index.read()[:4]]
    heads = []
    for width in (200, 130, 70, 40):
        console = Console(width=width, file=io.StringIO())
        index_table.show(rows, console)
        text = console.file.getvalue()
        assert "122.929" in text and "…" not in text
        heads.append(
            [title for title in ("official", "precision", "acc. hours", "samples/s") if title in text]
        )
    counts = [len(one) for one in heads]
    assert counts == sorted(counts, reverse=True) and (counts[0], counts[-1]) == (4, 1)
    assert all(wide[: len(narrow)] == narrow for wide, narrow in pairwise(heads))


def test_a_filter_that_nothing_passes_says_what_there_is(capsys):
    assert cli.main(["results", "list", "--precision", "fp4"]) == 2
    assert "precisions fp8, mxfp4, nvfp4" in capsys.readouterr().err

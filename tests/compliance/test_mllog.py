"""Text to records: true line numbers, and nothing that a file can hold stops the parser."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance import checker, mllog, runlog
from compliance.runlog import Evaluation
from tests.compliance.logs import compliant_log, lines, parsed, positions

RECORD = {
    "namespace": "",
    "time_ms": 1_760_000_000_000,
    "event_type": "POINT_IN_TIME",
    "key": "seed",
    "value": 7,
    "metadata": {"file": "train.py", "lineno": 3},
}
GOOD = f":::MLLOG {json.dumps(RECORD)}"


def one(text):
    return mllog.parse([text], path="log")


def test_an_event_knows_its_physical_line_whatever_stands_before_the_token():
    result = mllog.parse(["noise\n", f"0: {GOOD}\r\n", "\n", f"\x1b[32m[rank0] {GOOD}\n"], path="log")
    assert [event.line for event in result.events] == [2, 4] and result.malformed == ()
    assert result.events[0].value == 7 and result.events[0].metadata["lineno"] == 3


BAD = {
    "two records": (GOOD + GOOD, "two records"),
    "truncated": (GOOD[:-20], "not valid JSON"),
    "text behind": (GOOD + " trailing", "not valid JSON"),
    "no space": (GOOD.replace("MLLOG ", "MLLOG"), "no space"),
    "no token": (GOOD.removeprefix(":::"), "without the token"),
    "time a word": (GOOD.replace("1760000000000", '"noon"'), "time_ms is a string"),
    "time nowhere": (GOOD.replace("1760000000000", '"nan"'), "time_ms is a string"),
    "time far off": (GOOD.replace("1760000000000", "1e300"), "time_ms is a float"),
    "time true": (GOOD.replace("1760000000000", "true"), "time_ms is a boolean"),
    "NaN": (GOOD.replace("7,", "NaN,"), "NaN is not a JSON number"),
    "infinity": (GOOD.replace("7,", "-Infinity,"), "-Infinity is not a JSON number"),
    "overflow": (GOOD.replace("7,", "1e999,"), "out of range"),
    "huge": (GOOD.replace("7,", "9" * 5000 + ","), "out of range"),
    "a field twice": (GOOD.replace('"value"', '"key": "x", "value"'), "occurs twice"),
    "no metadata": (GOOD.replace('"metadata"', '"meta"'), "no field metadata"),
    "metadata null": (GOOD.replace('{"file": "train.py", "lineno": 3}', "null"), "metadata is null"),
    "event type": (GOOD.replace("POINT_IN_TIME", "POINT"), "event_type is 'POINT'"),
    "a list": (":::MLLOG []", "the record is a list"),
    "empty": (":::MLLOG ", "not valid JSON"),
    "deep": (":::MLLOG " + "[" * 100_000, ""),
    "long": (GOOD + " " * mllog.LONGEST_LINE, "longer than"),
    "a line separator before": (GOOD.replace("MLLOG ", "MLLOG \u2028"), "not valid JSON"),
    "a line separator behind": (GOOD + "\u2028", "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_record_is_kept_with_its_line_and_reason(name):
    text, reason = BAD[name]
    result = mllog.parse(["first line\n", text], path="log")
    assert result.events == () and [line.line for line in result.malformed] == [2]
    assert reason in result.malformed[0].reason


def test_a_malformed_line_names_the_keys_of_the_records_that_are_lost():
    keys = {name: one(text).malformed[0].keys for name, (text, _) in BAD.items()}
    assert keys["truncated"] == keys["no token"] == keys["long"] == ("seed",)
    assert keys["a list"] == keys["empty"] == keys["deep"] == ()
    lost = mllog.parse([BAD["truncated"][0]], path="log")
    assert lost.may_lack("run_stop", "seed") and not lost.may_lack("run_stop")
    assert mllog.parse([BAD["a list"][0]], path="log").may_lack("run_stop")
    assert not one(GOOD).may_lack("seed")


@pytest.mark.parametrize(("written", "word"), [("1760000000000.75", "float"), ('"1.76e12"', "string")])
def test_a_time_that_is_written_as_a_float_or_a_text_is_wrong_and_still_read(written, word):
    result = one(GOOD.replace("1760000000000", written))
    assert result.malformed == () and result.events[0].time_ms == 1_760_000_000_000
    assert [(line.line, line.reason) for line in result.guessed] == [
        (1, f"time_ms is a {word}, not an integer")
    ]


@pytest.mark.parametrize("behind", ["\r", " \t", "\x0b\x0c", "\x1c\x1f"])
def test_ascii_space_around_a_record_is_no_defect(behind):
    assert one(GOOD.replace("MLLOG ", "MLLOG  \t") + behind).malformed == ()


def test_a_line_feed_alone_ends_a_line_of_a_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"50%\r100%\x0b\x0c\xe2\x80\xa8 \xff\n" + GOOD.encode() + b"\r\n" + GOOD.encode())
    assert [event.line for event in mllog.read(path).events] == [2, 3]


def test_a_line_without_end_is_neither_kept_nor_lost(tmp_path):
    path = tmp_path / "log"
    filler = b"x" * (30 << 20)
    path.write_bytes(filler + GOOD.encode() + b"\n" + filler + b"\n" + GOOD.encode() + b"\n")
    began = time.monotonic()
    result = mllog.read(path)
    assert [line.line for line in result.malformed] == [1] and [e.line for e in result.events] == [3]
    assert time.monotonic() - began < 5


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_stop_the_parser_or_a_rule(tmp_path_factory, content, after_token):
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes((b":::MLLOG " if after_token else b"") + content)
    for ruleset in ("6.1.0", "proxy"):
        checker.check_directory([path, path], checker.load(ruleset))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 100), st.sampled_from(["value", "metadata", "key", "time_ms", "samples_count"]), _JSON)
def test_no_value_in_any_field_stops_a_rule(which, field, value):
    log = compliant_log(evaluations=3)
    record = dict(log[which % len(log)])
    if field == "samples_count":
        record["metadata"] = {**record["metadata"], "samples_count": value}
    else:
        record[field] = value
    log[which % len(log)] = record
    case = mllog.parse(lines(log), path="log")
    for violation in checker.check_logs([case, case], checker.load("6.1.0")):
        str(violation)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_no_order_and_no_loss_of_records_stops_a_rule(data):
    log = compliant_log(evaluations=3)
    chosen = data.draw(st.lists(st.sampled_from(range(len(log))), max_size=len(log)))
    checker.check_log(parsed([log[i] for i in chosen]), checker.load("6.1.0"))


def test_a_run_log_has_named_fields():
    log = compliant_log()
    run = runlog.build(parsed(log))
    assert (run.benchmark, run.seed, run.global_batch_size, run.run_status) == (
        "llama31_8b",
        1000,
        32,
        "success",
    )
    assert run.duration_s == pytest.approx(15 * 309 + 0.001)
    assert run.samples_at_stop == 15 * 12288 and run.precision == "mxfp4" and run.target == 3.3
    first = positions(log, "eval_accuracy")[0]
    value, time_ms = log[first]["value"], log[first]["time_ms"]
    assert run.evaluations[0] == Evaluation(
        line=first + 1, time_ms=time_ms, samples=12288, log_perplexity=value
    )


def test_a_run_log_of_nothing_is_empty():
    run = runlog.build(mllog.parse([], path="log"))
    assert run.duration_s is None and run.samples_at_stop is None and run.evaluations == ()
    assert run.benchmark is None and run.precision is None


def test_records_of_a_key_that_nobody_asks_for_are_passed_over_and_no_other_line_is():
    step = GOOD.replace('"seed"', '"tracked_stats"')
    text = [step, GOOD, step[:-9], f"{step} {GOOD}", GOOD.replace("train.py", "tracked_stats")]
    found = mllog.parse(text, path="log", without="tracked_stats")
    assert [(event.line, event.key) for event in found.events] == [(2, "seed"), (5, "seed")]
    assert [bad.line for bad in found.malformed] == [4], (
        "two records on one line are a defect whatever they are"
    )

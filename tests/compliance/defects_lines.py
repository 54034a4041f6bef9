"""Defects of a log as text: name -> (rule, change of the lines)."""

from __future__ import annotations

import json

from tests.compliance.logs import lines


def text(change):
    """A change of the text of the whole log."""
    return lambda log: change("\n".join(lines(log))).split("\n")


def of(key, change, which=0):
    """A change of the which-th line that holds a key."""

    def changed(log):
        found = lines(log)
        places = [i for i, line in enumerate(found) if f'"key": "{key}"' in line]
        found[places[which]] = change(found[places[which]])
        return found

    return changed


def replaced(key, old, new, which=0):
    def change(line):
        assert old in line, (old, line)
        return line.replace(old, new)

    return of(key, change, which)


def _joined(log):
    found = lines(log)
    return [*found[:5], found[5] + found[6], *found[7:]]


def _nested(log):
    record = json.dumps(log[10])[:-1] + ', "more": ' + "[" * 5000 + "]" * 5000 + "}"
    return [*lines(log), f":::MLLOG {record}"]


_EVAL = '"key": "eval_accuracy"'

DEFECTS = {
    "two records on one line": ("C17", _joined),
    "a line separator before the record": ("C17", replaced("seed", ":::MLLOG ", ":::MLLOG \u2028")),
    "a line separator behind the record": ("C17", of("seed", lambda line: line + "\u2028")),
    "a vertical tab before the record": ("C17", replaced("seed", ":::MLLOG ", ":::MLLOG \x0b")),
    "a hard space behind the record": ("C17", of("seed", lambda line: line + "\u00a0")),
    "a record cut short": ("C17", of("opt_name", lambda line: line[:-20])),
    "the last record cut short": ("C17", of("run_stop", lambda line: line[:-9])),
    "text behind a record": ("C17", of("seed", lambda line: line + " (edited)")),
    "a comma too many": ("C17", of("max_steps", lambda line: line[:-1] + ",}")),
    "single quotes": ("C17", of("opt_name", lambda line: line.replace('"', "'"))),
    "no space behind the token": ("C17", replaced("seed", ":::MLLOG ", ":::MLLOG")),
    "a token of two colons": ("C17", replaced("seed", ":::MLLOG", "::MLLOG")),
    "no token": ("C17", replaced("eval_accuracy", ":::MLLOG", "MLLOG", 3)),
    "NaN": ("C17", of("eval_accuracy", lambda line: line.replace('"value": ', '"value": NaN, "was": '), 3)),
    "Infinity": (
        "C17",
        of("eval_accuracy", lambda line: line.replace('"value": ', '"value": -Infinity, "was": ')),
    ),
    "a number out of range": ("C17", replaced("opt_base_learning_rate", "0.0008", "1e999")),
    "an integer of 5,000 digits": ("C17", replaced("max_steps", "1200000", "1" * 5000)),
    "digits of another script": (
        "C17",
        replaced("global_batch_size", '"value": 32', '"value": \uff13\uff12'),
    ),
    "a hexadecimal number": ("C17", replaced("global_batch_size", '"value": 32', '"value": 0x20')),
    "a field twice": ("C17", replaced("seed", '"value"', '"value": 1, "value"')),
    "samples_count twice": (
        "C17",
        replaced("eval_accuracy", '"samples_count"', '"samples_count": 1, "samples_count"'),
    ),
    "no metadata": ("C17", replaced("eval_accuracy", '"metadata"', '"meta"', 2)),
    "metadata null": (
        "C17",
        of("opt_name", lambda line: line[: line.index('"metadata"')] + '"metadata": null}'),
    ),
    "metadata a text": (
        "C17",
        of("opt_name", lambda line: line[: line.index('"metadata"')] + '"metadata": "x"}'),
    ),
    "no time_ms": ("C17", replaced("run_start", '"time_ms"', '"time"')),
    "time_ms a text": (
        "C17",
        of(
            "run_start",
            lambda line: line.replace('"time_ms": ', '"time_ms": "').replace(', "event', '", "event', 1),
        ),
    ),
    "time_ms a float": ("C17", of("run_stop", lambda line: line.replace(', "event', '.5, "event', 1))),
    "time_ms null": (
        "C17",
        of("eval_stop", lambda line: line.replace('"time_ms": ', '"time_ms": null, "t": ')),
    ),
    "no key": ("C17", replaced("max_steps", '"key"', '"name"')),
    "key null": ("C17", replaced("max_steps", '"max_steps"', "null")),
    "an empty key": ("C17", replaced("max_steps", '"max_steps"', '""')),
    "no value": ("C17", replaced("seed", '"value"', '"val"')),
    "no namespace": ("C17", replaced("seed", '"namespace"', '"space"')),
    "a namespace": ("C17", replaced("seed", '"namespace": ""', '"namespace": "worker1"')),
    "no event_type": ("C17", replaced("run_start", '"event_type"', '"type"')),
    "an event_type of lower case": ("C17", replaced("run_start", "INTERVAL_START", "interval_start")),
    "run_start as a point": ("C17", replaced("run_start", "INTERVAL_START", "POINT_IN_TIME")),
    "run_stop as a start": ("C17", replaced("run_stop", "INTERVAL_END", "INTERVAL_START")),
    "a hyperparameter as an interval": ("C17", replaced("opt_name", "POINT_IN_TIME", "INTERVAL_END")),
    "an array for a record": ("C17", of("opt_name", lambda line: ":::MLLOG []")),
    "nested brackets": ("C17", _nested),
    "a line of 70,000 characters": ("C17", of("seed", lambda line: line + " " * 70_000)),
    "a trap in metadata": ("C17", replaced("opt_name", '"lineno": 1', '"lineno": 1, "eval_error": 5')),
    "a trap in an evaluation": (
        "C17",
        replaced("eval_accuracy", '"lineno": 1', '"lineno": 1, "global_batch_size": 16', 2),
    ),
    "a trap in a key": (
        "C17",
        lambda log: [*lines(log[:-1]), lines([{**log[-2], "key": "my_eval_accuracy"}])[0], *lines(log[-1:])],
    ),
    "a trap in a value": ("C17", replaced("submission_platform", "8x_accelerator", "submission_benchmark")),
    "a trap in a source file's name": ("C17", replaced("opt_name", "submission/train.py", "eval_error.py")),
    "a hidden key": (
        "C17",
        replaced("global_batch_size", '"global_batch_size"', '"global\\u005fbatch_size"'),
    ),
    "a carriage return between records": (
        "C17",
        lambda log: [*lines(log[:3]), "\r".join(lines(log[3:5])), *lines(log[5:])],
    ),
    "UTF-16": ("C17", lambda log: [line.encode("utf-16-le").decode("latin-1") for line in lines(log)]),
    "an empty file": ("C17", lambda log: []),
    "a file of noise": ("C17", lambda log: ["step 100 loss 3.3"] * 50),
}

"""Ways to give a log a defect; each takes a log and returns another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.compliance.logs import Clock, Log, Record, positions, without

Change = Callable[[Log], Log]


def at(**fields: Any) -> Callable[[Record], Record]:
    """A change of a record's fields; metadata is merged."""

    def change(record: Record) -> Record:
        metadata = {**record["metadata"], **fields.get("metadata", {})}
        return {**record, **fields, "metadata": metadata}

    return change


def later(by_ms: int) -> Callable[[Record], Record]:
    return lambda record: {**record, "time_ms": record["time_ms"] + by_ms}


def edit(key: str, which: int = 0, /, **fields: Any) -> Change:
    """The which-th record of a key with other fields."""

    def change(log: Log) -> Log:
        place = positions(log, key)[which]
        return [*log[:place], at(**fields)(log[place]), *log[place + 1 :]]

    return change


def edit_all(key: str, /, **fields: Any) -> Change:
    return lambda log: [at(**fields)(record) if record["key"] == key else record for record in log]


def delay(key: str, by_ms: int, which: int = 0) -> Change:
    """One record's clock, and no other's."""

    def change(log: Log) -> Log:
        place = positions(log, key)[which]
        return [*log[:place], later(by_ms)(log[place]), *log[place + 1 :]]

    return change


def drop(key: str, which: int = 0) -> Change:
    return lambda log: without(log, key, which=which)


def twice(key: str, which: int = 0, /, **fields: Any) -> Change:
    """The record again, right behind itself."""

    def change(log: Log) -> Log:
        place = positions(log, key)[which]
        return [*log[: place + 1], at(**fields)(log[place]), *log[place + 1 :]]

    return change


def moved(key: str, to: str, which: int = 0) -> Change:
    """The record in front of another one and at its time."""

    def change(log: Log) -> Log:
        record, rest = log[positions(log, key)[0]], without(log, key)
        place = positions(rest, to)[which]
        return [*rest[:place], {**record, "time_ms": rest[place]["time_ms"]}, *rest[place:]]

    return change


def carried(key: str, to: str, which: int = 0) -> Change:
    """The record in front of another one, with its own time."""

    def change(log: Log) -> Log:
        record, rest = log[positions(log, key)[0]], without(log, key)
        place = positions(rest, to)[which]
        return [*rest[:place], record, *rest[place:]]

    return change


def shifted(from_key: str, by_ms: int, which: int = 0) -> Change:
    """Everything from a record on, later."""

    def change(log: Log) -> Log:
        first = positions(log, from_key)[which]
        return log[:first] + [later(by_ms)(record) for record in log[first:]]

    return change


def scaled(by: float) -> Change:
    """The clock of the whole run slower or faster."""

    def change(log: Log) -> Log:
        first = log[0]["time_ms"]
        return [{**r, "time_ms": int(first + (r["time_ms"] - first) * by)} for r in log]

    return change


def appended(key: str, value: Any = None, **metadata: Any) -> Change:
    return lambda log: [*log, Clock(log[-1]["time_ms"]).record(key, value, **metadata)]


def inserted(before: str, key: str, value: Any = None, which: int = 0, **metadata: Any) -> Change:
    def change(log: Log) -> Log:
        place = positions(log, before)[which]
        record = Clock(log[place]["time_ms"]).record(key, value, **metadata)
        return [*log[:place], record, *log[place:]]

    return change


def swapped(key: str, other: str, which: int = 0) -> Change:
    """Two records change places, times and all."""

    def change(log: Log) -> Log:
        first, second = positions(log, key)[which], positions(log, other)[which]
        copy = list(log)
        copy[first], copy[second] = copy[second], copy[first]
        return copy

    return change


def interval_of(samples: int, of: int = 12288) -> Change:
    """The evaluations of another interval, every record consistent with it."""

    def change(record: Record) -> Record:
        count = record["metadata"].get("samples_count")
        if count is None:
            return record
        return {**record, "metadata": {**record["metadata"], "samples_count": count // of * samples}}

    return lambda log: [change(record) for record in log]


def evaluation_left_out(which: int) -> Change:
    """The evaluation and the end of its block are gone; the block before it ends where the next one did."""

    def change(log: Log) -> Log:
        first = positions(log, "eval_start")[which]
        return log[: first - 1] + log[first + 4 :]

    return change


def own_losses(run: int) -> Change:
    """Losses as far from those of other runs as published ones: the spread falls from 0.05 to 0.005 nats."""
    draw = random.Random(run)

    def change(log: Log) -> Log:
        places = positions(log, "eval_accuracy")
        copy = list(log)
        for k, place in enumerate(places[:-1]):
            away = abs(draw.gauss(0, 0.05 / (1 + k * 9 / len(places))))
            copy[place] = {**log[place], "value": log[place]["value"] + away}
        copy[places[-1]] = {**log[places[-1]], "value": 3.3 - draw.uniform(0.0005, 0.02)}
        return copy

    return change


def rounded(decimals: int) -> Change:
    """The losses as a logger that prints so many decimals writes them."""

    def change(record: Record) -> Record:
        is_loss = record["key"] == "eval_accuracy"
        return {**record, "value": round(record["value"], decimals)} if is_loss else record

    return lambda log: [change(record) for record in log]


def block_shortened(which: int, to_ms: int, name: str = "block") -> Change:
    """A block, or an evaluation, takes less time, and everything behind it comes earlier."""

    def change(log: Log) -> Log:
        start, stop = (positions(log, f"{name}_{end}")[which] for end in ("start", "stop"))
        saved = log[stop]["time_ms"] - log[start]["time_ms"] - to_ms
        first = start + 1
        return log[:first] + [later(-saved)(record) for record in log[first:]]

    return change


def removed(from_key: str, to_key: str, which: int = 0) -> Change:
    """Everything between two records, the second excluded."""

    def change(log: Log) -> Log:
        first = positions(log, from_key)[which]
        last = next(i for i in positions(log, to_key) if i > first)
        return log[:first] + log[last:]

    return change


def of_equal_blocks(log: Log, share: float = 1.0) -> Log:
    """The first blocks of a run, this share of them, take 300.007 s."""
    for which in range(round(share * len(positions(log, "block_start")))):
        log = block_shortened(which, 300_007)(log)
    return log


def valued(values: list[float]) -> Change:
    """These values at the evaluations, in order; the evaluations behind them keep theirs."""

    def change(log: Log) -> Log:
        copy = list(log)
        for place, value in zip(positions(log, "eval_accuracy"), values, strict=False):
            copy[place] = {**log[place], "value": value}
        return copy

    return change


def losses(log: Log) -> list[float]:
    return [record["value"] for record in log if record["key"] == "eval_accuracy"]


def reversed_curve(log: Log) -> Log:
    """Every value but the last one in the order of the others turned round."""
    return valued(losses(log)[-2::-1])(log)


def noisy(of: Log, by: float) -> Change:
    """The values of another run, up to this much off."""
    values = [value + by * (k % 3 - 1) for k, value in enumerate(losses(of)[:-1])]
    return valued([*values, losses(of)[-1] - by])


def timed_like(other: Log) -> Change:
    """The times of another run of as many records, ten days later."""

    def change(log: Log) -> Log:
        pairs = zip(log, other, strict=True)
        return [{**record, "time_ms": theirs["time_ms"] + 864_000_000} for record, theirs in pairs]

    return change

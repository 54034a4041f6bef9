"""What one process writes another one reads back equal, for every typed row; also what earlier versions wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.base.paths import ROOT
from harness.campaign import campaign
from harness.campaign.campaign import Campaign, Run
from harness.campaign.nodes import Sign
from harness.contract import (
    attempt_rows,
    checkpoint_manifest,
    diagnostics_rows,
    files,
    metrics_rows,
    token_records,
    typed_json,
)
from harness.contract.attempt_rows import (
    AttemptConfig,
    EngineProbe,
    Proof,
    ProvenGemm,
    RunIdentity,
    Status,
)
from harness.contract.checkpoint_manifest import CheckpointManifest
from harness.contract.diagnostics_rows import FOLLOWED, GEMMS, OPERAND, PRODUCT, Gradient, Look, Operand, Row
from harness.contract.ending import Ending, Reason
from harness.contract.metrics_rows import CheckpointRow, EngineRow, EvaluationRow, StragglerRow, TrainRow
from harness.contract.token_records import BuildReport, CorpusManifest
from harness.contract.typed_json import RowError
from harness.records.run_environment import RunEnvironment
from submission.corpus.c4_output import BuildRecord, MadeOf, Progress
from submission.watchdog.heartbeats import Beat
from tests.harness.scripted_harness import scripted_config

BEFORE = ROOT / "tests" / "harness" / "before_the_move"
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
)
FIGURE = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(min_value=0)
SETTINGS = st.dictionaries(st.text(), LEAVES, max_size=3)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=10)


def figures(names: tuple[str, ...], *, nothing: bool = False) -> st.SearchStrategy:
    return st.fixed_dictionaries({name: FIGURE | st.none() if nothing else FIGURE for name in names})


OPERANDS = st.builds(
    Operand,
    numbers=figures(OPERAND, nothing=True),
    exponents=st.dictionaries(st.integers(), COUNT, max_size=3),
)
GRADIENTS = st.builds(
    Gradient,
    error=FIGURE,
    bias=FIGURE,
    looks=COUNT,
    lags=st.dictionaries(COUNT, st.tuples(FIGURE, FIGURE, FIGURE), max_size=3),
    mean=st.none() | figures(FOLLOWED),
    sum=figures(FOLLOWED),
)
LOOKS = st.builds(
    Look,
    step=COUNT,
    samples=COUNT,
    rows=st.lists(
        st.builds(
            Row,
            gemm=st.sampled_from(GEMMS),
            product=figures(PRODUCT, nothing=True),
            left=OPERANDS,
            right=OPERANDS,
            gradient=st.none() | GRADIENTS,
        ),
        max_size=2,
    ).map(tuple),
)


def every_field(kind: type, **chosen: st.SearchStrategy) -> st.SearchStrategy:
    """Values of a dataclass with every field drawn, also those that have a default."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: chosen.get(name, drawn(hint)) for name, hint in hints.items()})


def drawn(hint: Any) -> st.SearchStrategy:
    if typing.get_origin(hint) is Mapping:
        return st.dictionaries(*map(drawn, typing.get_args(hint)), max_size=3)
    return every_field(hint) if dataclasses.is_dataclass(hint) else st.from_type(hint)


METRICS = st.one_of(*map(every_field, (TrainRow, EvaluationRow, CheckpointRow, StragglerRow, EngineRow)))
INPUTS = st.lists(st.tuples(st.text(), COUNT)).map(tuple)
PLAIN: dict[type, st.SearchStrategy] = {  # rows that are what to_plain makes of them, in a file or on a line
    Status: every_field(Status),
    RunIdentity: every_field(RunIdentity),
    Proof: every_field(
        Proof,
        gemms=st.lists(every_field(ProvenGemm), max_size=3).map(tuple),
        probes=st.lists(every_field(EngineProbe), max_size=2).map(tuple),
    ),
    CheckpointManifest: every_field(CheckpointManifest, fixed=SETTINGS, layout=SETTINGS),
    CorpusManifest: every_field(CorpusManifest),
    BuildReport: every_field(BuildReport),
    BuildRecord: st.builds(
        BuildRecord, progress=every_field(Progress), made_of=every_field(MadeOf, inputs=INPUTS)
    ),
    Run: every_field(Run),
    RunEnvironment: every_field(RunEnvironment),
    Sign: every_field(Sign),
    Ending: every_field(Ending),
    Beat: every_field(Beat),
}


def same(one: object, other: object) -> bool:
    """Equal, where NaN is equal to NaN."""
    return repr(one) == repr(other)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_a_row_is_read_as_it_was_written(kind):
    @MANY
    @given(PLAIN[kind])
    def check(row):
        text = json.dumps(typed_json.to_plain(row), allow_nan=False)
        assert same(typed_json.from_text(kind, text), row)

    check()


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_keys_of_a_later_version_are_ignored_and_missing_ones_have_their_default(kind):
    @FEW
    @given(PLAIN[kind])
    def check(row):
        plain = typed_json.to_plain(row)
        assert same(typed_json.from_plain(kind, {**plain, "of a later version": [1]}), row)
        for field in dataclasses.fields(kind):
            less = {key: value for key, value in plain.items() if key != field.name}
            if field.default is not dataclasses.MISSING:
                assert same(
                    typed_json.from_plain(kind, less), dataclasses.replace(row, **{field.name: field.default})
                )
            elif field.default_factory is dataclasses.MISSING:
                with pytest.raises(RowError, match=f"{field.name}: found 'nothing'"):
                    typed_json.from_plain(kind, less)

    check()


@MANY
@given(st.lists(METRICS), st.integers(min_value=0, max_value=200))
def test_metrics_are_read_as_they_were_written_and_a_torn_last_line_is_skipped(rows, cut):
    whole = "".join(map(metrics_rows.to_line, rows)).encode()
    assert same(list(metrics_rows.from_lines(whole)), rows)
    torn = metrics_rows.to_line(TrainRow(step=7, samples=56, loss=4.0)).encode()
    torn = torn[: min(cut, len(torn) - 2)]  # without its brace
    assert same(list(metrics_rows.from_lines(whole + torn)), rows)


def test_lines_of_metrics_that_nobody_here_wrote_are_skipped():
    strange = b'[]\n3\n{"kind": "later"}\n{"kind": "straggler", "rank": "x", "ratio": 1}\nnull\n\xff\n'
    train = metrics_rows.to_line(TrainRow(step=1, loss=math.inf)).encode()
    assert same(list(metrics_rows.from_lines(strange + train)), [TrainRow(step=1, loss=math.inf)])


@MANY
@given(LOOKS)
def test_diagnostics_are_read_as_they_were_written(look):
    assert diagnostics_rows.from_line(diagnostics_rows.to_line(look)) == look


@MANY
@given(PLAIN[BuildReport])
def test_lines_of_a_build_are_read_as_they_were_written(report):
    assert same(token_records.from_line(token_records.to_line(report)), report)


@FEW
@given(*(PLAIN[kind] for kind in (Status, Proof, CheckpointManifest, CorpusManifest, RunIdentity)))
def test_files_are_read_as_they_were_written(status, proof, checkpoint, corpus, run):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        told = AttemptConfig(config=scripted_config(directory, runs__seed=7), run=run)
        attempt_rows.write_config(directory / "config.json", told)
        attempt_rows.write_status(directory, status)
        attempt_rows.write_proof(directory, proof)
        checkpoint_manifest.write(directory, checkpoint)
        token_records.write_manifest(directory, corpus)
        assert same(attempt_rows.read_config(directory / "config.json"), told)
        assert same(attempt_rows.read_identity(directory / "config.json"), run)
        assert same(attempt_rows.read_status(directory), status)
        assert same(attempt_rows.read_proof(directory), proof)
        assert same(checkpoint_manifest.read(directory), checkpoint)
        assert same(token_records.read_manifest(directory), corpus)
        assert not list(directory.glob(".*")), "no file of a writer is left"


@FEW
@given(st.lists(PLAIN[Run], max_size=3), st.text(), st.text())
def test_a_campaign_is_loaded_as_it_was_saved(runs, job, arm):
    with tempfile.TemporaryDirectory() as name:
        config = scripted_config(Path(name))
        made = Campaign(
            directory=Path(name), job=job, arm=arm, arms=(arm, "fp8"), config=config, runs=tuple(runs)
        )
        campaign.save(made)
        assert same(campaign.load(Path(name)), made)


@given(every_field(Ending), every_field(Status))
def test_an_ending_is_read_from_the_status_that_it_made(ending, before):
    status = typed_json.from_plain(Status, typed_json.to_plain(before.ended(ending)))
    assert status.ending == dataclasses.replace(ending, ranks=())
    assert dataclasses.replace(status, state="training").ending is None
    other = "aborted" if ending.outcome == "success" else "success"
    assert dataclasses.replace(status, outcome=other).ending is None, "it contradicts itself"


ATTEMPTS = sorted(path.parent for path in BEFORE.glob("*/run_*/attempt_*/config.json"))


def test_attempts_of_the_commit_before_the_move_are_there():
    assert len(ATTEMPTS) == 3


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda path: f"{path.parents[1].name}-{path.parent.name}")
def test_an_earlier_attempt_is_read_with_every_value_it_holds(attempt):
    def document(name: str) -> Any:
        return json.loads((attempt / name).read_text())

    def holds(row: object, told: dict[str, Any]) -> bool:
        plain = typed_json.to_plain(row)
        return all(plain[key] == value for key, value in told.items())

    told = attempt_rows.read_config(attempt / "config.json")
    assert holds(told.run, document("config.json")["run"])
    assert told.config.runs.arms == ("mxfp4", "fp8")
    if not (attempt / "status.json").exists():  # of the run that was killed
        assert attempt_rows.read_status(attempt) is None and attempt_rows.read_proof(attempt) is None
        assert list(metrics_rows.read(attempt / "metrics.jsonl")) == []
        return
    assert holds(attempt_rows.read_status(attempt), document("status.json"))
    assert attempt_rows.read_status(attempt).ending == Ending(reason=Reason.TARGET)
    assert holds(attempt_rows.read_proof(attempt), document("proof.json"))
    lines = [json.loads(line) for line in (attempt / "metrics.jsonl").read_text().splitlines()]
    rows = list(metrics_rows.read(attempt / "metrics.jsonl"))
    assert len(rows) == len(lines) and all(
        holds(row, {key: value for key, value in line.items() if key != "kind"})
        for row, line in zip(rows, lines, strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (Status, "[", "row: found '['; allowed: JSON"),
        (Status, "[]", "row: found '[]'; allowed: a mapping"),
        (Status, '{"samples": true}', "samples: found 'True'; allowed: a whole number"),
        (Status, '{"reason": "boredom"}', "reason: found 'boredom'; allowed: target | step_limit"),
        (StragglerRow, '{"rank": 1, "ratio": "fast"}', "ratio: found 'fast'; allowed: a number"),
        (
            CorpusManifest,
            '{"vocab_size": 1, "splits": {"a": {"tokens": 2}}}',
            "splits.a.documents: found 'nothing'",
        ),
        (
            Beat,
            '{"who": {"rank": 0, "pid": 1, "machine": "m", "address": "a"}, "saw": {"x": "y"}}',
            "saw: found 'x'",
        ),
    ],
)
def test_what_is_no_such_row_is_told_with_its_key(kind, text, said):
    with pytest.raises(RowError) as error:
        typed_json.from_text(kind, text)
    assert str(error.value).startswith(said)


def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/page\.html'$"):
        files.replace_text(tmp_path / "none" / "page.html", "")

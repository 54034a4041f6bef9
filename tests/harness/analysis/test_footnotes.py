"""The footnotes that the messaging rules require under results."""

from __future__ import annotations

from harness.analysis import footnotes, public_index, submission_loader
from harness.report import index_table
from tests.harness.logs import write_submission

ENDS = [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25)]


def test_each_round_and_source_has_its_footnote_and_the_trademarks_come_last():
    lines = index_table.notices([index_table.row(one) for one in public_index.read()])
    cited = [line for line in lines if line.startswith("MLPerf® Training v")]
    assert len(cited) == 2 and lines[-1] == footnotes.TRADEMARK
    assert (
        "v5.1 Closed llama31_8b, 39 systems: logs retrieved 2026-11-21 from github.com/mlcommons" in cited[0]
    )
    assert (
        "v6.0 Closed llama31_8b, 10 systems" in cited[1]
        and "a third party's mirror of the results" in cited[1]
    )
    assert all(one.endswith("Result not verified by MLCommons Association.") for one in cited)


def test_results_that_were_never_reviewed_say_so_beside_published_ones(tmp_path):
    own = submission_loader.load(write_submission(tmp_path / "own", ends=ENDS))
    published = public_index.submission(public_index.read()[0])
    lines = footnotes.lines([footnotes.of(own), footnotes.of(published)])
    assert lines[0].startswith("MLPerf® Training v5.1") and lines[1].startswith("Unverified MLPerf® Training")
    assert lines[2] == footnotes.UNREVIEWED and len(lines) == 4


def test_a_proxy_is_no_result_and_needs_no_footnote(tmp_path):
    made = write_submission(tmp_path / "p", ends=ENDS, submission_benchmark="llama31_8b_proxy")
    assert footnotes.lines([footnotes.of(submission_loader.load(made))]) == []

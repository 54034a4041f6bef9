from __future__ import annotations

import csv
import io
import json
import re
import time
from html.parser import HTMLParser

import pytest

from harness import cli
from harness.analysis import comparison, submission_loader
from harness.contract import attempt_rows
from harness.contract.attempt_rows import Proof, ProvenGemm
from harness.report import page as report_page
from tests.harness.logs import write_run, write_submission


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.attributes = [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {key for key, _ in attrs}
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]


def page_of(text):
    page = _Page()
    page.feed(text)
    return page


@pytest.fixture
def written(tmp_path):
    ends = [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25)]
    a = write_submission(tmp_path / "a", ends=ends, submission_benchmark="llama31_8b_proxy")
    b = write_submission(
        tmp_path / "b", ends=ends, submission_benchmark="llama31_8b_proxy", seconds_per_sample=0.04
    )
    (a / "campaign.json").write_text(
        json.dumps({"arm": "mxfp4", "config": {"benchmark": "llama31_8b_proxy"}})
    )
    gemm = ProvenGemm(
        layer="layers.0.qkv",
        gemm="fprop",
        format="mxfp4",
        transform="H16",
        scale_rule="even",
        backend="reference",
        calls=7,
    )
    (a / "run_0" / "attempt_1").mkdir(parents=True)
    proof = Proof(recipe="amd-te", linears=1, gemms=(gemm,), verified=True)
    attempt_rows.write_proof(a / "run_0" / "attempt_1", proof)
    loaded = [submission_loader.load(path) for path in (a, b)]
    return report_page.write_report(loaded, comparison.compare(loaded), tmp_path)


def test_the_page_stands_alone_and_shows_every_figure(written):
    text = written.read_text()
    page = page_of(text)
    assert page.tags.count("svg") == page.tags.count("figure") == 3
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert all(link.startswith("#") for link in page.links), "something is loaded from elsewhere"
    assert len(page.ids) == len(set(page.ids))
    assert text.count('role="img" aria-label="') == 3


def test_the_page_says_what_it_is_and_what_ran(written):
    text = written.read_text()
    assert "unverified" in text and "Proxy: a toy-scale rehearsal" in text
    assert re.search(r"With the same seeds and data order, mxfp4 needs 0.0 % more samples", text)
    assert "say nothing about hardware" in text and "less time" not in text
    for cell in ("amd-te", "H16", "reference", "even"):
        assert f">{cell}<" in text


def test_the_data_beside_the_page_holds_every_curve(written):
    document = json.loads((written.parent / "report.json").read_text())
    assert [curve["name"] for curve in document["curves"]] == ["mxfp4", "b"]
    assert all(len(curve["runs"]) == 3 for curve in document["curves"])
    assert document["ratios"][0]["time_to_train"]["ratio"] == pytest.approx(0.75)


def test_every_run_is_a_row_of_the_spreadsheet(written):
    rows = list(csv.DictReader(io.StringIO((written.parent / "report.csv").read_text())))
    assert [row["submission"] for row in rows] == ["mxfp4"] * 3 + ["b"] * 3
    assert float(rows[0]["minutes"]) == pytest.approx(5 * 12288 * 0.03 / 60)
    assert float(rows[0]["to_target"]) == pytest.approx(4.5 * 12288)


def test_the_page_says_what_cannot_be_concluded_and_marks_what_differs(written):
    text = written.read_text()
    assert "It cannot be concluded" in text and "Whether samples to target differ" in text
    assert re.search(r'<tr class="differs"><td>organisation', text) is None
    assert re.search(r"<td>base learning rate</td>", text)
    assert "b: no proof beside the logs; precision as disclosed: unknown." in text


def test_every_colour_follows_the_theme(written):
    """A colour written out in a plot would stay dark on a dark page."""
    text = written.read_text()
    drawn = "".join(re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"#[0-9a-fA-F]{6}", drawn) and "var(--c0)" in drawn and "currentColor" in drawn
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_a_page_has_its_suffix_and_is_overwritten_only_with_force(tmp_path, capsys):
    directory = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 3)
    call = ["compare", str(directory), "--html"]
    assert cli.main([*call, str(tmp_path / "page.json")]) == 2
    assert "page.json; allowed: a name that ends in .html" in capsys.readouterr().err
    (tmp_path / "page.csv").write_text("mine")
    assert cli.main([*call, str(tmp_path / "page.html")]) == 2
    assert "page.csv exists; choose another name, or overwrite with --force" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists() and (tmp_path / "page.csv").read_text() == "mine"
    assert cli.main([*call, str(tmp_path / "page.html"), "--force"]) == 0
    assert re.search(r"wrote .*page.html \(\d+ kB\), .*page.json \(.*page.csv \(", capsys.readouterr().err)


def test_the_page_of_a_proxy_shows_no_minutes(written):
    labels = re.findall(r'aria-label="([^"]*)"', written.read_text())
    assert len(labels) == 3 and not [label for label in labels if "minutes" in label or "time" in label]


def test_the_page_of_two_published_submissions_is_small_and_quick(tmp_path, capsys):
    page = tmp_path / "page.html"
    start = time.process_time()
    assert (
        cli.main(
            [
                "compare",
                "--public",
                "MI355X_EPYC_9575F_primus",
                "MI355X_EPYC_9575F_pytorch",
                "--html",
                str(page),
            ]
        )
        == 0
    )
    assert time.process_time() - start < 4
    text = page.read_text()
    assert len(text) < 2_000_000 and page_of(text).tags.count("svg") == 7
    for part in (
        "public runs, batch 32",
        "−12.9 %",
        "12.6 % less time (9.0 to 15.9 % less)",
        "4.9 % more samples",
        "86.845",
        "nats; above 0: worse",
        "RCP mean",
    ):
        assert part in text


def test_what_strangers_write_into_logs_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>$\\frac{1}{0}$"
    directory = tmp_path / "<b>$x_1$ & co"
    write_submission(directory, ends=[(3.4, 3.2)] * 3, org=evil, submission_platform=evil)
    loaded = [submission_loader.load(directory)]
    text = report_page.render(loaded, comparison.compare(loaded))
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "<b>$" not in text and "&lt;b&gt;$x_1$ &amp; co" in text


def test_names_that_try_to_leave_their_place_stay_in_it(tmp_path):
    """Attributes, style sheets, comments, templates, formulas: of a name in a path, a log and a description."""
    evil = [
        '"><img src=x onerror=alert(1)>',
        "{{7*7}}{% raw %}",
        "--><svg onload=alert(1)>",
        "]]><!ENTITY x>",
        "'+alert(1)+'",
    ]
    paths = []
    for index, name in enumerate(evil):
        path = tmp_path / f"{index}" / name.replace("/", "_")
        points = {"submission_platform": name, "lowest_numerical_precision_in_linear": name, "opt_name": name}
        paths.append(
            write_submission(path, ends=[(3.4, 3.2)] * 3, org=name, submission_division=name, **points)
        )
    page = tmp_path / "page.html"
    assert cli.main(["compare", *map(str, paths), "--html", str(page)]) == 0
    text = page.read_text()
    parsed = page_of(text)
    assert not {"img", "script", "iframe", "object"} & set(parsed.tags)
    assert parsed.tags.count("svg") == 6
    assert not any(name.startswith("on") for name in parsed.attributes)
    assert "{{7*7}}" in text, "a name is no template"
    rows = list(csv.reader(io.StringIO((tmp_path / "page.csv").read_text())))
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row)


def test_the_same_logs_give_the_same_page(tmp_path):
    loaded = [submission_loader.load(write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 3))]
    pages = {report_page.render(loaded, comparison.compare(loaded)) for _ in range(2)}
    assert len(pages) == 1


def test_a_submission_without_any_converged_run_still_gets_a_page(tmp_path):
    write_run(tmp_path / "a" / "result_0.txt", seed=1, losses=[6.0, 5.0], status="aborted")
    write_run(tmp_path / "b" / "result_0.txt", seed=1, losses=[], status="aborted")
    for name in ("a", "b"):
        loaded = [submission_loader.load(tmp_path / name)]
        assert "no run reached the target" in report_page.render(loaded, comparison.compare(loaded))


def test_compare_writes_the_page_where_it_is_told(tmp_path):
    directory = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 3)
    assert cli.main(["compare", str(directory), str(directory), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")

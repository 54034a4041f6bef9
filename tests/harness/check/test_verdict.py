"""Three verdicts: pass, needs review for what a person must decide, fail; severities and exit codes as ever."""

from __future__ import annotations

import json
import re

import pytest

from compliance.official.package_checker import Oracle
from harness import cli
from harness.analysis import equal_hardware, public_index
from harness.check import grouped_text
from harness.check.document import document
from harness.check.log_directory import Checked
from harness.check.results_repository import answer
from tests.compliance.logs import RUN_MS, compliant_log, write
from tests.harness.package.test_verify import DESCRIPTION


def result(root, hardware="NVIDIA B200", **keys):
    place = root / "reference/results/box/llama31_8b"
    place.mkdir(parents=True)
    write(place, *(compliant_log(run=run, **keys) for run in range(10)))
    (root / "reference/systems").mkdir()
    description = {**DESCRIPTION, "accelerator_model_name": hardware}
    (root / "reference/systems/box.json").write_text(json.dumps(description))
    return place


def checked(capsys, *arguments):
    code = cli.main(["check", "--skip-official", *map(str, arguments)])
    out = capsys.readouterr().out
    return code, json.loads(out) if "--json" in arguments else out


def rules_for_review(document):
    return {one["rule"] for one in document["violations"] if one["review"]}


def test_clean_logs_pass_and_a_broken_rule_fails(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run) for run in range(10)))
    code, found = checked(capsys, tmp_path, "--json")
    assert (code, found["verdict"], rules_for_review(found)) == (0, "pass", set())
    write(tmp_path, compliant_log(opt_adamw_epsilon=1e-8))
    code, found = checked(capsys, tmp_path, "--json")
    assert (code, found["verdict"]) == (1, "fail")


def test_runs_that_overlap_need_a_review_and_the_exit_code_stays(tmp_path, capsys):
    logs = [compliant_log(run=run) for run in range(10)]
    early = [{**record, "time_ms": record["time_ms"] - RUN_MS + 4_000_000} for record in logs[5]]
    write(tmp_path, *logs[:5], early, *logs[6:])
    code, found = checked(capsys, tmp_path, "--json")
    assert (code, found["ok"], found["verdict"]) == (0, True, "needs review")
    assert rules_for_review(found) == {"C22"} and {v["severity"] for v in found["violations"]} == {"warning"}
    _, out = checked(capsys, tmp_path)
    assert re.search(r"^REVIEW .*\(1 for a reviewer\)$", out, re.M) and "  review C22: " in out


@pytest.mark.parametrize("with_switch", [True, False])
def test_checks_that_are_asked_to_be_left_out_are_a_reviewers_to_allow(with_switch, tmp_path, capsys):
    place = result(tmp_path)
    if with_switch:
        (place / "package_checker_params").write_text("rcp-bypass\n")
    code, found = checked(capsys, place, "--json")
    wanted = (1, "needs review", {"C19"}) if with_switch else (0, "pass", set())
    assert (code, found["verdict"], rules_for_review(found)) == wanted


def test_a_batch_size_without_reference_points_is_a_reviewers_to_allow(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run, global_batch_size=192) for run in range(10)))
    _, found = checked(capsys, tmp_path, "--json")
    assert "rcp" in rules_for_review(found)


def one(violations=(), *, official=()):
    return Checked(
        directory=None, ruleset="6.1.0", ruleset_why="", paths=(), cases=(),
        violations=tuple(violations), official=tuple(official),
    )  # fmt: skip


def test_a_package_checker_that_fails_without_a_reason_of_ours_fails():
    failed = Oracle(tool="package_checker", verdict="fail", note="RCP")
    assert document([one()], [failed]).verdict == "fail"
    assert document([one()], []).verdict == "pass"


def test_a_system_far_from_equal_public_hardware_needs_a_review(tmp_path, capsys):
    """Ten runs of 184,320 samples in 77 minutes: 0.0251 s per sample; eight MI350X need 0.035 at best."""
    code, found = checked(capsys, result(tmp_path, "AMD Instinct MI350X"), "--json")
    told = [v for v in found["violations"] if v["rule"] == "equal_hardware"]
    assert code == 0 and found["verdict"] == "needs review" and len(told) == 1
    assert told[0]["found"].startswith("0.0251") and "4 public systems" in told[0]["expected"]


def test_no_public_system_is_far_from_its_peers():
    """The calibration of the margins: every system of the index against the others."""
    compared = 0
    for entry in public_index.read():
        found = equal_hardware.against(
            public_index.submission(entry).runs,
            hardware=entry.accelerator or entry.system.replace("_", " "),
            accelerators=entry.accelerators,
            target=entry.target,
        )
        compared += len(found)
        assert [one.quantity for one in found if one.outside] == [], entry.key
        assert all(peer.name != entry.key for one in found for peer in one.peers)
    assert compared > 50


def test_the_totals_of_a_repository_count_what_needs_a_review(tmp_path):
    lines = [line for lines, _ in answer([], [str(tmp_path)], as_json=False) for line in lines]
    assert lines == ["0 results, 0 logs: 0 pass, 0 fail"]


def test_errors_stand_before_what_a_reviewer_decides_and_that_before_warnings(tmp_path, capsys):
    place = result(tmp_path, "AMD Instinct MI350X", opt_adamw_epsilon=1e-8)
    _, out = checked(capsys, place)
    words = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert words == sorted(words, key=grouped_text.ORDER.index)
    assert {"error", "review", "warning"} <= set(words)

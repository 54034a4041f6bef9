"""What our messages say of the official tools, asked of these tools."""

from __future__ import annotations

import json
import re

import pytest

from compliance import checker, mllog
from compliance.official import compliance_checker, package_checker
from tests.compliance import defects_runs
from tests.compliance.logs import Log, compliant_log, lines, write
from tests.compliance.mutate import edit, edit_all, moved, shifted, twice
from tests.compliance.official.test_package_checker import package  # noqa: F401  a fixture

pytest.importorskip("mlperf_logging", reason="mlperf-logging IS NOT INSTALLED: nothing here was asked")
from mlperf_logging.compliance_checker import mlp_parser
from mlperf_logging.package_checker.seed_checker import SeedChecker
from mlperf_logging.rcp_checker import rcp_checker
from mlperf_logging.system_desc_checker import system_desc_checker


def official_errors(path):
    _, errors = mlp_parser.parse_file(str(path), ruleset="6.1.0")
    return len(errors)


def ours(path):
    parsed = mllog.read(path)
    return len(parsed.malformed)


def first_line(change):
    """A log whose first line is changed as text."""
    text = lines(compliant_log())
    return [change(text[0]), *text[1:]]


READ = {
    "a line separator before": (lambda line: line.replace("MLLOG ", "MLLOG \u2028"), True),
    "a line separator behind": (lambda line: line + "\u2028", True),
    "a hard space behind": (lambda line: line + "\u00a0", True),
    "a vertical tab before": (lambda line: line.replace("MLLOG ", "MLLOG \x0b"), True),
    "tabs and spaces": (lambda line: line.replace("MLLOG ", "MLLOG \t ") + " \t\x0b\x0c\x1c", False),
    "a line separator before the token": (lambda line: "\u2028" + line, False),
    "a fraction": (lambda line: line.replace(', "event', '.5, "event', 1), False),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_a_record_to_the_official_parser_is_one_to_ours(name, tmp_path):
    change, refused = READ[name]
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(first_line(change)), encoding="utf-8")
    assert (official_errors(path), ours(path)) == ((1, 1) if refused else (0, 0))


def test_a_time_that_is_a_text_is_a_time_to_the_official_tools(tmp_path):
    log = [{**record, "time_ms": str(record["time_ms"])} for record in compliant_log()]
    (verdict,) = compliance_checker.compliance_checker(write(tmp_path, log), checker.load("6.1.0"))
    assert verdict.verdict == "pass"


def read_by_rcp_checker(path, change):
    """Not converged, samples, batch size, benchmark: as the RCP reader takes them from a log."""
    write(path, change(compliant_log()))
    return rcp_checker.read_submission_file(str(path / "result_0.txt"), "6.1.0", False)


def test_the_rcp_reader_takes_a_word_for_its_key_anywhere_in_a_record(tmp_path):
    plain = read_by_rcp_checker(tmp_path, lambda log: log)
    assert plain == (0, 184_320, 32, "llama31_8b")
    trapped = edit("micro_batch_size", metadata={"note": "global_batch_size"})
    assert read_by_rcp_checker(tmp_path, trapped)[2] == 2
    for word in ("eval_accuracy", "eval_error", "submission_benchmark"):
        with pytest.raises(KeyError):
            read_by_rcp_checker(tmp_path, edit("opt_name", metadata={"note": word}))
    beside = edit_all("eval_accuracy", metadata={"train_samples": 5})
    assert read_by_rcp_checker(tmp_path, beside) == plain  # of BERT alone


def test_of_two_records_on_one_line_the_official_parser_reads_the_last_one(tmp_path):
    text = lines(compliant_log())
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join([text[0] + " " + text[1], *text[2:]]))
    loglines, errors = mlp_parser.parse_file(str(path), ruleset="6.1.0")
    assert not errors and loglines[0].key == json.loads(text[1].removeprefix(":::MLLOG "))["key"]


def test_a_record_without_space_behind_its_token_is_none_to_the_official_parser(tmp_path):
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(first_line(lambda line: line.replace("MLLOG ", "MLLOG"))))
    loglines, errors = mlp_parser.parse_file(str(path), ruleset="6.1.0")
    assert not errors and len(loglines) == len(compliant_log()) - 1


def test_a_hidden_key_is_none_to_the_rcp_reader(tmp_path):
    write(tmp_path, compliant_log())
    path = tmp_path / "result_0.txt"
    path.write_text(path.read_text().replace('"global_batch_size"', '"global\\u005fbatch_size"'))
    assert rcp_checker.read_submission_file(str(path), "6.1.0", False)[2] == -1


def refused_by_compliance_checker(tmp_path, log: Log):
    (verdict,) = compliance_checker.compliance_checker(write(tmp_path, log), checker.load("6.1.0"))
    return verdict.verdict == "fail"


def test_the_official_checker_takes_less_than_thirty_minutes_of_initialisation(tmp_path):
    log = compliant_log()
    begun, stop = (next(r["time_ms"] for r in log if r["key"] == key) for key in ("init_start", "init_stop"))
    to_the_limit = 1_800_000 - (stop - begun)
    assert refused_by_compliance_checker(tmp_path, shifted("init_stop", to_the_limit)(log))
    assert not refused_by_compliance_checker(tmp_path, shifted("init_stop", to_the_limit - 1)(log))


def test_the_official_checker_wants_warmup_steps_before_decay_steps(tmp_path):
    before = moved("opt_learning_rate_decay_steps", "opt_learning_rate_warmup_steps")
    assert refused_by_compliance_checker(tmp_path, before(compliant_log()))


def seed_errors(tmp_path, change):
    paths = write(tmp_path, change(compliant_log()), compliant_log(run=1))
    return SeedChecker("6.1.0")._assert_unique_seed_per_run(list(map(str, paths)))


@pytest.mark.filterwarnings("ignore:Result file")
def test_two_seeds_are_no_error_of_the_official_seed_checker_and_one_seed_twice_is(tmp_path):
    assert seed_errors(tmp_path, twice("seed", value=5)) == []
    assert seed_errors(tmp_path, twice("seed", metadata={"lineno": 7})) == []
    assert "already logs the same seed" in seed_errors(tmp_path, twice("seed"))[0]


def test_the_official_seed_checker_fails_without_file_and_line(tmp_path):
    def bare(log):
        return [{**r, "metadata": {}} if r["key"] == "seed" else r for r in log]

    assert "Error found when querying seeds" in seed_errors(tmp_path, bare)[0]


def described(tmp_path, **fields):
    path = tmp_path / "box.json"
    path.write_text(json.dumps({**defects_runs.DESCRIPTION, **fields}))
    return str(path)


def test_the_official_tools_crash_on_a_description_whose_fields_are_no_text(tmp_path):
    assert system_desc_checker.check_system_desc(described(tmp_path), "training", "6.1.0")[0]
    with pytest.raises(TypeError):
        system_desc_checker.check_system_desc(
            described(tmp_path, accelerators_per_node=8), "training", "6.1.0"
        )


def test_the_summarizer_reads_counts_with_int(package):  # noqa: F811
    path = package / "systems" / "box.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "accelerators_per_node": "eight"}))
    (oracle,) = package_checker.ask(package, "6.1.0", ("result_summarizer",))
    assert oracle.verdict == "fail" and "invalid literal for int" in oracle.note


def test_a_division_in_capitals_switches_official_checks_off(package):  # noqa: F811
    for run in range(10):
        defects_runs.put(package / "results/box/llama31_8b", run, compliant_log(run=run, seed=7))
    asked = ("package_checker",)
    assert package_checker.ask(package, "6.1.0", asked)[0].verdict == "fail"
    path = package / "systems" / "box.json"
    path.write_text(re.sub('"division": "closed"', '"division": "Closed"', path.read_text()))
    assert package_checker.ask(package, "6.1.0", asked)[0].verdict == "pass"

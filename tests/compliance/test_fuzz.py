"""Logs and trees that chance has broken: every command answers, and none passes what the official checker refuses."""

from __future__ import annotations

import json
import random
import string

import pytest

from compliance import checker
from compliance.official import compliance_checker
from harness import cli
from harness.base.errors import UsageError
from harness.check.log_directory import examine
from tests.compliance import defects_runs
from tests.compliance.logs import compliant_log, lines, write
from tests.compliance.test_catalogue import package  # noqa: F401  a fixture

STRANGE = [
    None,
    True,
    -1,
    0,
    3.3,
    1e308,
    10**19,
    "",
    "3.3",
    "\u202e",
    "\ud800",
    "<b>",
    "=1+1",
    [],
    [[]],
    {},
    {"a": {"b": 1}},
    "llama31_405b",
    "x" * 70_000,
]


def broken_record(chance, record):
    """One field of a record becomes something else, goes, or moves into the metadata."""
    record = json.loads(json.dumps(record))
    inner = record.get("metadata")
    where = inner if isinstance(inner, dict) and inner and chance.random() < 0.3 else record
    name = chance.choice(list(where))
    what = chance.random()
    if what < 0.15:
        del where[name]
    elif what < 0.3 and type(where[name]) in (int, float):
        where[name] = where[name] * chance.choice([-1, 0, 0.5, 2, 1000])
    else:
        where[name] = chance.choice(STRANGE)
    return record


def broken_lines(chance, log):
    """Records changed, dropped, doubled, exchanged; then bytes of the text."""
    log = list(log)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        place, other = chance.randrange(len(log)), chance.randrange(len(log))
        way = chance.randrange(5)
        if way == 0:
            del log[place]
        elif way == 1:
            log.insert(other, log[place])
        elif way == 2:
            log[place], log[other] = log[other], log[place]
        else:
            log[place] = broken_record(chance, log[place])
    text = lines(log)
    if chance.random() < 0.4:
        place = chance.randrange(len(text))
        at = chance.randrange(len(text[place]))
        text[place] = (
            text[place][:at]
            + chance.choice(["", *string.printable, "\x00", "\u2028"])
            + text[place][at + 1 :]
        )
    if chance.random() < 0.1:
        text = text[: chance.randrange(len(text))]
    return text


def answered(capsys, *command):
    """A verdict or one line, never a traceback."""
    code = cli.main([str(part) for part in command])
    said = capsys.readouterr()
    assert code in (0, 1, 2) and "Traceback" not in said.out + said.err
    assert code != 2 or said.err.count("\n") == 1
    return code


@pytest.mark.parametrize(
    ("seed", "logs"), [(1, 40), pytest.param(2, 2_000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
)
def test_every_command_answers_on_broken_logs(seed, logs, tmp_path, capsys):
    chance = random.Random(seed)
    good = tmp_path / "good"
    good.mkdir()
    write(good, *(compliant_log(run=run) for run in range(3)))
    path, page = tmp_path / "broken" / "result_0.txt", tmp_path / "page.html"
    path.parent.mkdir()
    asked = []
    for number in range(logs):
        text = broken_lines(chance, compliant_log())
        path.write_text("\n".join(text) + "\n", encoding="utf-8", errors="surrogatepass")
        code = answered(capsys, "check", "--skip-official", "--ruleset", "6.1.0", path)
        answered(capsys, "score", path)
        answered(capsys, "rcp", path)
        answered(capsys, "compare", path, good, *(["--html", page] if number % 20 == 0 else []))
        if code == 0:
            kept = tmp_path / f"passed_{number}.txt"
            kept.write_bytes(path.read_bytes())
            asked.append(kept)
    verdicts = compliance_checker.compliance_checker(asked, checker.load("6.1.0")) if asked else []
    weaker = [verdict for verdict in verdicts if verdict.verdict == "fail"]
    assert not weaker, [(verdict.path, verdict.note) for verdict in weaker]


def broken_tree(chance, tree):
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    for _ in range(chance.choice([1, 2, 4])):
        path = chance.choice(files)
        way = chance.randrange(7)
        if not path.is_file() or path.is_symlink():
            continue
        if way == 0:
            path.unlink()
        elif way == 1:
            path.write_bytes(chance.randbytes(chance.randrange(300)))
        elif way == 2:
            path.rename(
                path.with_name(chance.choice(["result_99.txt", "result_x.txt", "a b", ".hidden", "=x.txt"]))
            )
        elif way == 3:
            path.unlink()
            path.mkdir()
        elif way == 4:
            path.unlink()
            path.symlink_to(chance.choice(["/dev/null", "nowhere", path.name, ".."]))
        elif way == 5 and path.name == "box.json":
            described = dict(defects_runs.DESCRIPTION)
            described[chance.choice(list(described))] = chance.choice(STRANGE[:15])
            path.write_text(json.dumps(described))
        elif path.name.startswith("result_"):
            text = broken_lines(chance, compliant_log(run=chance.randrange(10)))
            path.write_text("\n".join(text) + "\n", encoding="utf-8", errors="surrogatepass")


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 200))]
)
def test_every_command_answers_on_a_broken_tree(seed, package, capsys):  # noqa: F811
    broken_tree(random.Random(seed), package[0])
    for command in (
        ["check", "--skip-official"],
        ["check", "--all", "--skip-official"],
        ["score"],
        ["rcp"],
        ["compare"],
    ):
        answered(capsys, *command, package[0])
    if seed % 4 == 0:
        answered(capsys, "package", "verify", package[0])


def test_the_generator_breaks_what_it_is_given(tmp_path):
    """Most of its logs are refused: else the tests above would show nothing."""
    chance = random.Random(3)
    path = tmp_path / "result_0.txt"
    refused = 0
    for _ in range(50):
        text = broken_lines(chance, compliant_log())
        path.write_text("\n".join(text) + "\n", encoding="utf-8", errors="surrogatepass")
        try:
            refused += bool(examine([str(path)], "6.1.0", skip_official=True)[0].errors)
        except UsageError:
            refused += 1
    assert refused > 35

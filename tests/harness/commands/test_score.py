"""`score`: what it says beside the mean."""

from __future__ import annotations

import json
import shutil

from harness import cli
from tests.harness.logs import write_submission


def test_copies_of_a_log_are_named(tmp_path, capsys):
    directory = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 3)
    shutil.copy(directory / "result_1.txt", directory / "result_3.txt")
    assert cli.main(["score", str(directory), "--json"]) == 0
    (scored,) = json.loads(capsys.readouterr().out)["scores"]
    assert scored["copies"] == [["result_1.txt", "result_3.txt"]]
    assert cli.main(["score", str(directory)]) == 0
    assert "  copies of one log: result_1.txt, result_3.txt\n" in capsys.readouterr().out


def test_a_directory_without_a_mean_says_so(tmp_path, capsys):
    directory = write_submission(tmp_path / "a", ends=[(4.0, 3.9)] * 2)
    assert cli.main(["score", str(directory)]) == 1
    out = capsys.readouterr().out
    assert "  no olympic mean, mean samples at stop" in out and "  not a valid score: " in out

"""The page of published systems: whole without its script, one script that the page itself allows, names as text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

from harness import cli
from harness.analysis import public_index
from harness.contract.file_names import RESULTS_PAGE
from harness.report import results_page

HOSTILE = "</td><script>alert(1)</script>"


def test_every_system_is_in_the_page_and_only_its_own_script_may_run():
    entries = public_index.read()
    text = results_page.render([dataclasses.replace(entries[0], system=HOSTILE), *entries[1:]])
    assert text.count("<tr data-round=") == len(entries) == 49
    assert "alert(1)" in text and HOSTILE not in text
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text
    for said in (
        "NVIDIA theia_ngpu512",
        "third party",
        "registered and unregistered trademarks",
        "100 %",
        "29 %",
    ):
        assert said in text


def test_the_command_writes_one_file_and_keeps_an_existing_one(tmp_path, capsys):
    call = ["results", "page", "--out", str(tmp_path / "published"), "--org", "Cisco"]
    assert cli.main(call) == 0
    (page,) = (tmp_path / "published").iterdir()
    assert page.name == RESULTS_PAGE and f"wrote {page}" in capsys.readouterr().err
    assert cli.main(call) == 2 and "overwrite with --force" in capsys.readouterr().err
    assert cli.main([*call, "--force"]) == 0
    capsys.readouterr()
    call[3] = str(page)
    assert cli.main(call) == 2 and "is a file; allowed: a directory" in capsys.readouterr().err

"""A closed run on a machine whose caches stay is refused before anything starts; the doctor says the same."""

from __future__ import annotations

import pytest

from harness import main_job
from harness.base.errors import EnvironmentFailure
from harness.campaign import store
from harness.config.file import resolve
from harness.data import ensure
from harness.doctor import host
from harness.doctor.checks import Patient
from harness.machine import page_caches
from harness.machine.page_caches import Caches

FREE = Caches(way="/proc/sys/vm/drop_caches", fix="run as root", data_files=True)
STUCK = Caches(way=None, fix="run as root", data_files=True)


def config(profile: str = "llama31_8b", division: str = "closed"):
    return resolve(profile, overrides=[f"system.division={division}"], aliases={}).config


@pytest.fixture
def stuck(monkeypatch):
    monkeypatch.setattr(page_caches, "ask", lambda: STUCK)


def test_a_closed_run_is_refused_with_what_to_do_before_anything_starts(stuck, monkeypatch):
    monkeypatch.setattr(main_job, "require_accelerators", lambda config: None)
    for owner, name in ((ensure, "ensure"), (store, "create")):
        monkeypatch.setattr(owner, name, lambda config: pytest.fail("something started"))
    with pytest.raises(EnvironmentFailure) as refused:
        main_job.start(config(), print)
    said = str(refused.value)
    assert said.startswith("page caches: this user cannot drop them; the closed division drops them")
    assert "run as root" in said and "system.division=open" in said and "\n" not in said


@pytest.mark.parametrize(("profile", "division"), [("llama31_8b", "open"), ("proxy", "closed")])
def test_other_runs_go_on_where_caches_stay(stuck, profile, division):
    page_caches.require(config(profile, division))


def test_a_machine_that_drops_them_is_not_refused(monkeypatch):
    monkeypatch.setattr(page_caches, "ask", lambda: FREE)
    page_caches.require(config())


@pytest.mark.parametrize(
    ("answer", "profile", "verdict", "words"),
    [
        (FREE, "llama31_8b", "ok", "all caches can be dropped (/proc/sys/vm/drop_caches)"),
        (STUCK, "llama31_8b", "fail", "only the caches of the data files can be dropped"),
        (STUCK, "proxy", "ok", "only the caches of the data files can be dropped"),
        (Caches(way=None, fix="Linux", data_files=False), "proxy", "warn",
         "the caches cannot be dropped on this system"),
    ],
)  # fmt: skip
def test_the_doctor_says_what_a_run_would(monkeypatch, answer, profile, verdict, words):
    monkeypatch.setattr(page_caches, "ask", lambda: answer)
    patient = Patient(config=config(profile), gpus=0, needs_gpus=False, quick=True)
    (finding,) = host.page_cache(patient)
    assert (finding.verdict, finding.found) == (verdict, words)
    assert bool(finding.fix) is (verdict != "ok")


def test_the_submission_answers_what_this_machine_allows():
    assert page_caches.ask().fix and page_caches.ask().data_files


def test_no_answer_is_no_permission(monkeypatch):
    monkeypatch.setattr(page_caches.sys, "executable", "/bin/false")
    with pytest.raises(EnvironmentFailure, match="no answer from submission"):
        page_caches.require(config())

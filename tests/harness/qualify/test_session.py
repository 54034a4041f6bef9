"""A qualification keeps what it has, whatever its steps and its user do."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.qualify import page, session
from harness.qualify.answer import Claim, Fact, State, Table, Verdict
from harness.qualify.session import Machine, Stop
from harness.qualify.step_list import Step, steps


def machine() -> Machine:
    facts = (Fact(name="processor", value="a <b>"),)
    return Machine(name="test", gpus=0, ranks=1, inventory=(), facts=facts)


def proven(text="it works", **more) -> Claim:
    return Claim(claim=text, verdict=Verdict.PROVEN, **more)


def step(name, act, cost_s=1.0, **more) -> Step:
    return Step(name=name, title=name.capitalize(), cost_s=cost_s, act=act, **more)


def run(tmp_path, *todo, minutes=1.0, stop=None):
    with contextlib.nullcontext(stop) if stop else Stop() as asked:
        return session.run(machine, lambda _: todo, tmp_path, minutes=minutes, stop=asked)


def test_a_step_that_raises_is_a_finding_and_the_next_one_runs(tmp_path):
    def breaks(_):
        yield proven("before it broke")
        raise ZeroDivisionError("of the test")

    made = run(tmp_path, step("broken", breaks), step("whole", lambda _: iter([proven()])))
    broken, whole = made.answers[1:]
    assert broken.state is State.BROKEN and whole.state is State.DONE
    assert [claim.verdict for claim in broken.claims] == [Verdict.PROVEN, Verdict.FAILED]
    assert broken.claims[1].found == "ZeroDivisionError: of the test"
    assert made.headline == "test: 2 claims proven, 1 failed, 0 not proven here"


def test_what_there_is_no_time_for_is_not_proven_and_said(tmp_path):
    made = run(tmp_path, step("late", lambda _: iter([proven()])), minutes=0.05)
    (claim,) = made.answers[1].claims
    assert made.answers[1].state is State.NO_TIME
    assert (claim.claim, claim.verdict) == ("Late", Verdict.OPEN) and "raise --minutes" in claim.found


def test_a_step_may_take_what_the_later_ones_leave_but_not_all():
    def allowed(cost_s, remaining_s, later_s, **more):
        return session._allowance(step("one", lambda _: iter(()), cost_s, **more), remaining_s, later_s)

    assert allowed(50, 480, 490) == 100, "time is short: twice its cost"
    assert allowed(50, 480, 200) == 150, "there is time: three times"
    assert allowed(50, 1800, 200, patience=float("inf")) == 1600
    assert allowed(50, 30, 0) == 30


def test_the_page_is_there_before_the_first_step_and_after_each(tmp_path):
    seen = []

    def look(_):
        seen.append(page.read(tmp_path))
        yield proven()

    made = run(tmp_path, step("one", look), step("two", look))
    first, second = seen
    assert [one.state for one in first.answers] == [State.DONE, State.WAITING, State.WAITING]
    assert [claim.found for claim in first.claims(Verdict.OPEN)] == ["not begun yet"] * 2
    assert [one.state for one in second.answers] == [State.DONE, State.DONE, State.WAITING]
    assert page.read(tmp_path) == made and made.state is State.DONE


def test_a_signal_ends_the_step_that_runs_and_begins_no_other(tmp_path):
    with Stop() as stop:

        def told(bench):
            yield proven("before the signal")
            os.kill(os.getpid(), signal.SIGTERM)
            assert bench.cut_off
            yield Claim(claim="half", verdict=Verdict.OPEN, found="cut off")

        made = run(tmp_path, step("one", told), step("two", lambda _: iter([proven()])), stop=stop)
    assert made.state is State.CUT_OFF and made.why == "stopped by SIGTERM"
    assert [one.state for one in made.answers[1:]] == [State.CUT_OFF, State.WAITING]
    assert made.claims(Verdict.PROVEN) == [proven("before the signal")]
    assert "stopped by SIGTERM" in (tmp_path / page.PAGE).read_text()


def test_a_step_that_raises_because_it_was_cut_off_has_not_failed(tmp_path):
    with Stop() as stop:

        def told(_):
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError("of the test")
            yield

        made = run(tmp_path, step("one", told), stop=stop)
    (claim,) = made.answers[1].claims
    assert claim.verdict is Verdict.OPEN and made.answers[1].state is State.CUT_OFF


def test_only_a_directory_of_its_own_is_written_to(tmp_path):
    (tmp_path / "attempts").mkdir()
    (tmp_path / "attempts" / "mine").touch()
    with pytest.raises(UsageError, match="which holds other files"):
        page.prepare(tmp_path)
    with pytest.raises(UsageError, match="a file"):
        page.prepare(tmp_path / "attempts" / "mine")
    (tmp_path / page.DOCUMENT).touch()
    page.prepare(tmp_path)
    assert not (tmp_path / "attempts").exists(), "of an earlier one: it would pass for this one's"
    page.prepare(tmp_path / "new" / "place")
    assert (tmp_path / "new" / "place").is_dir()


TOY = """
import sys, time
from pathlib import Path
from harness.qualify import session
from harness.qualify.answer import Claim, Verdict
from harness.qualify.step_list import Step
from harness.qualify.bench import module
from harness.qualify.children import Child

def act(bench):
    child = Child(name="child", command=[sys.executable, "-c", "import time; print(1, flush=True); time.sleep(0.4)"], environment={})
    (ended,) = bench.run("toy", child)
    yield Claim(claim="a child ended", verdict=Verdict.PROVEN if ended.code == 0 else Verdict.OPEN)

with session.Stop() as stop:
    print("ready", flush=True)
    machine = session.Machine(name="toy", gpus=0, ranks=1, inventory=(), facts=())
    steps = [Step(name=f"s{i}", title=f"S{i}", cost_s=5, act=act) for i in range(20)]
    session.run(lambda: machine, lambda _: steps, Path(sys.argv[1]), minutes=5, stop=stop)
"""  # noqa: E501


@pytest.mark.parametrize("seed", range(3))
def test_cut_off_at_a_random_moment_it_keeps_what_it_had(tmp_path, seed):
    command = [sys.executable, "-c", TOY, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.Random(seed + time.time_ns()).uniform(0.0, 3.0))
    before = page.read(tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    process.stdout.close()
    made = page.read(tmp_path)
    assert made.state is State.CUT_OFF and made.why == "stopped by SIGTERM"
    had = before.claims(Verdict.PROVEN) if before else []
    assert made.claims(Verdict.PROVEN)[: len(had)] == had
    assert made.headline in (tmp_path / page.TEXT).read_text()
    assert len([one for one in made.answers if one.state is State.CUT_OFF]) <= 1


def test_the_steps_are_those_of_the_documentation():
    names = [one.name for one in steps(on_gpu=True)]
    assert names == [one.name for one in steps(on_gpu=False)]
    assert names[:3] == ["doctor", "engines", "mxfp4"], "the most telling first"
    text = (ROOT / "docs" / "qualify.md").read_text()
    assert [name for name in names if f"| `{name}` |" in text] == names


def test_the_page_escapes_what_machines_say_and_the_text_keeps_its_tables(tmp_path):
    rows = (("a|b", "1"),)
    acts = [proven("x", found="<script>"), Table(title="T", head=("what", "n"), rows=rows)]
    run(tmp_path, step("one", lambda _: iter(acts)))
    html = (tmp_path / page.PAGE).read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html and "a &lt;b&gt;" in html
    assert "No GPU was used" in html
    text = (tmp_path / page.TEXT).read_text()
    assert "| a\\|b | 1 |" in text and "| x | <script> |" in text
    assert json.loads((tmp_path / page.DOCUMENT).read_text())["answers"][1]["tables"][0]["head"] == [
        "what",
        "n",
    ]

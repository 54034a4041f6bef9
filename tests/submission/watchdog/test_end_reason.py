"""Which rank a verdict names, and when there is one. Pure: what was heard is written down here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.contract.ending import Reason
from submission.watchdog import end_reason, nonfinite, stragglers
from submission.watchdog.end_reason import Patience, Seen, World
from submission.watchdog.heartbeats import Beat, Note
from submission.watchdog.nonfinite import RankFinding
from submission.watchdog.processes import Who

PATIENCE = Patience(init_s=100, hang_s=10, silence_s=20)
FOUR = World(ranks=4, per_node=4)
TWO_NODES = World(ranks=4, per_node=2)


def beat(rank: int, **changes) -> Beat:
    who = Who(rank=rank, pid=100 + rank, machine="m", address=f"10.0.0.{rank}")
    return replace(Beat(who=who, started=True, step=6, passes=50, line="step.py:1 forward"), **changes)


def heard(*, world: int = 4, silent_s: float = 0.2, **of_rank: dict) -> list[Seen]:
    """All ranks wait in a collective and progressed a second ago, but for what `rank_2={..}` says."""
    seen = []
    for rank in range(world):
        changes = dict(of_rank.get(f"rank_{rank}", {}))
        outer = {
            key: changes.pop(key) for key in ("died", "silent_s", "starved_s", "stopped") if key in changes
        }
        own = {"idle_s": 1.0, "waits": True, **changes}
        seen.append(Seen(**{"beat": beat(rank, **own), "silent_s": silent_s, **outer}))
    return seen


def judged(seen, world=FOUR, patience=PATIENCE):
    return end_reason.verdict(seen, world, patience)


def all_idle(idle_s: float, **of_rank: dict) -> list[Seen]:
    return heard(
        **{f"rank_{rank}": {"idle_s": idle_s, **of_rank.get(f"rank_{rank}", {})} for rank in range(4)}
    )


def test_ranks_that_make_progress_are_left_alone():
    assert judged(heard()) is None
    assert judged(all_idle(9.0, rank_2={"waits": False})) is None


def test_of_ranks_that_stand_still_the_one_in_no_collective_is_named():
    found = judged(all_idle(11.0, rank_2={"waits": False, "line": "data.py:7 read"}))
    assert (found.reason, found.ranks) == ("hung", (2,))
    wanted = "no progress for 11 s in step 7: rank 2 (process 102) is at data.py:7 read; the other 3 wait"
    assert found.message == wanted


def test_where_all_wait_the_rank_that_came_least_far_is_named():
    assert judged(all_idle(11.0, rank_3={"passes": 49})).ranks == (3,)
    nobody = judged(all_idle(11.0))
    assert nobody.ranks == () and "all 4 ranks wait for one another" in nobody.message


def test_a_rank_without_a_core_is_neither_silent_nor_hung():
    starving = {"silent_s": 35.0, "starved_s": 30.0}
    assert judged(heard(rank_2={"silent_s": 35.0})).reason is Reason.LOST_RANK
    assert judged(heard(rank_2=starving)) is None
    assert judged(heard(rank_2={**starving, "starved_s": 14.0})).ranks == (2,)
    patient = replace(PATIENCE, hang_s=0)
    for silent_s, ends in ((79.0, False), (81.0, True)):  # of a limit of 20 s, extended by at most 60 s
        found = judged(heard(rank_2={"silent_s": silent_s, "starved_s": silent_s}), patience=patient)
        assert (found is not None) == ends
    assert judged(all_idle(12.0)).reason is Reason.HUNG
    assert judged(all_idle(12.0, rank_2={"starved_s": 3.0})) is None, "the others wait for it"
    no_core_since_its_last_progress = [
        replace(one, beat=replace(one.beat, starved_s=3.0 if one.rank == 2 else 0.0))
        for one in all_idle(12.0)
    ]
    assert judged(no_core_since_its_last_progress) is None


def test_before_the_first_step_is_done_there_is_more_patience():
    young = {f"rank_{rank}": {"started": False} for rank in range(4)}
    assert judged(all_idle(99.0, **young)) is None
    assert "before the first step was done" in judged(all_idle(101.0, **young)).message
    assert judged(heard(rank_1={"started": False, "silent_s": 99.0})) is None
    assert judged(heard(rank_1={"started": False, "silent_s": 101.0, "idle_s": 0.0})).ranks == (1,)


def test_zero_is_endless_patience():
    endless = Patience(init_s=0, hang_s=0, silence_s=0)
    assert judged(all_idle(1e6, rank_1={"silent_s": 1e6}), patience=endless) is None


def test_a_rank_that_falls_silent_is_named_with_its_node_and_what_the_system_says():
    seen = heard(rank_3={"silent_s": 21.0, "idle_s": 0.0})
    patience = replace(PATIENCE, hang_s=0)
    found = judged(seen, TWO_NODES, patience)
    assert (found.reason, found.ranks) == ("lost_rank", (3,))
    assert found.message.startswith("rank 3 (node 1, 10.0.0.3, process 103) has sent no heartbeat for 21 s")
    assert "network" in found.message
    stopped = judged(heard(rank_3={"silent_s": 21.0, "stopped": True}), patience=patience)
    assert stopped.message.endswith("stopped (SIGSTOP, a debugger)")


def test_a_silent_rank_is_the_cause_of_a_hang():
    seen = all_idle(11.0, rank_1={"silent_s": 6.0}, rank_2={"waits": False})
    assert (judged(seen).reason, judged(seen).ranks) == ("lost_rank", (1,))


def test_a_rank_that_was_never_heard_is_the_cause_of_a_hang():
    found = judged(all_idle(11.0)[:3])
    assert found.ranks == (3,) and found.message == "rank 3: no heartbeat since the start"


def test_a_dead_rank_is_named_with_its_signal_and_the_step_of_the_others():
    found = judged(heard(rank_1={"died": "was killed by SIGKILL", "step": 5}))
    assert (found.reason, found.ranks) == ("lost_rank", (1,))
    assert found.message == "rank 1 (process 101) was killed by SIGKILL in step 7"


def test_a_rank_that_ended_well_may_die():
    gone = {"died": "ended with exit status 0", "note": Note(order=1), "silent_s": 500.0}
    assert judged(heard(rank_1=gone)) is None


def note(message: str, order: int, *, lost_peer: bool = False, reason: Reason = Reason.EXCEPTION) -> dict:
    return {"note": Note(reason=reason, message=message, order=order, lost_peer=lost_peer)}


@pytest.mark.parametrize("reason", [Reason.EXCEPTION, Reason.INTERRUPTED])
def test_the_first_error_is_named_and_not_those_that_follow_from_it(reason):
    seen = heard(
        rank_0=note("Connection closed by peer", 1, lost_peer=True),
        rank_2=note("second", 3),
        rank_3=note("SIGTERM", 2, reason=Reason.INTERRUPTED)
        if reason is Reason.INTERRUPTED
        else note("first", 2),
    )
    found = judged(seen)
    assert found.message == (
        "rank 2 (process 102): second" if reason is Reason.INTERRUPTED else "rank 3 (process 103): first"
    )


def test_an_error_that_only_blames_a_peer_is_believed_when_nobody_explains_it():
    complaint = note("Connection closed by peer", 1, lost_peer=True)
    assert judged(heard(rank_2={**complaint, "silent_s": 5.0})) is None
    assert judged(heard(rank_2={**complaint, "silent_s": 9.0})).ranks == (2,)
    both = heard(rank_2={**complaint, "silent_s": 9.0}, rank_1={"silent_s": 9.0})
    assert judged(both).ranks == (1,), "the silent rank is whom it lost"


def test_beats_survive_their_way_through_the_store():
    told = beat(
        3, saw={1: "was killed by SIGKILL"}, note=Note(reason=Reason.EXCEPTION, message="no", order=2)
    )
    assert Beat.from_json(told.to_json()) == told


def test_a_rank_half_as_slow_again_as_its_like_has_that_ratio():
    slow = stragglers.compared([(1.0, 0), (1.0, 0), (1.5, 0), (1.1, 0)])
    assert slow == [1.0, 1.0, 1.5, 1.1]
    assert stragglers.compared([(1.0, 0), (3.0, 1), (1.0, 0), (3.0, 1)]) == [1.0] * 4, (
        "stages differ by right"
    )
    assert stragglers.compared([(1.0, 0), (2.0, 0)]) == [1.0, 2.0]


CLEAN = RankFinding(micro_batch=0, gradient=False)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([CLEAN, replace(CLEAN, micro_batch=2, gradient=True)], "first in the loss of rank 1, micro batch 2"),
        ([replace(CLEAN, micro_batch=1)] * 2, "on every rank alike"),
        ([replace(CLEAN, gradient=True), CLEAN], "first in the gradients of rank 0"),
        ([replace(CLEAN, gradient=True)] * 2, "gradients are not: the cause is in code that all ranks run"),
        ([CLEAN] * 2, "it is unknown which rank's gradients are not"),
        (
            [RankFinding(micro_batch=-1, gradient=False), replace(CLEAN, micro_batch=3)],
            "rank 1, micro batch 3",
        ),
    ],
)
def test_a_value_that_is_not_finite_is_told_with_the_ranks_it_came_from(found, words):
    assert words in nonfinite.tell(found)


@pytest.mark.parametrize(
    ("bad", "sources"),
    [
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], []),
        ([[1, 0, 0], [1, 1, 1], [0, 0, 1]], [1]),  # everywhere in rank 1's, and so in every sum
        ([[0, 0, 0], [0, 1, 0], [0, 0, 0]], [1]),  # in its own shard alone: nobody else can have added it
        ([[1, 0, 0], [0, 0, 0], [1, 0, 0]], [2]),  # in the sum that rank 0 keeps
    ],
)
def test_a_shard_of_the_gradients_that_is_not_finite_is_traced_to_its_source(bad, sources):
    assert [rank for rank in range(3) if nonfinite.guilty(bad, rank)] == sources

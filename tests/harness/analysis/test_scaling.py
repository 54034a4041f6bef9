"""Published systems by size: the Pareto front, scaling efficiency, equal hardware in several rounds."""

from __future__ import annotations

import pytest

from harness.analysis import public_index, run_figures, scaling


@pytest.fixture(scope="module")
def systems():
    return [run_figures.of(public_index.submission(one)) for one in public_index.read()]


def test_no_system_of_the_front_is_beaten_in_size_and_time(systems):
    best = scaling.front(systems)
    assert [scaling.hardware(one) for one in best][:2] == ["8x GB300", "16x B200"]
    for one in best:
        for other in systems:
            smaller = (other.accelerators or 0) <= (one.accelerators or 0)
            assert not (
                smaller and (other.time_to_train_normalized_min or 1e9) < one.time_to_train_normalized_min
            )


def test_the_efficiency_of_one_organisation_over_its_sizes(systems):
    """University of Florida, 1 to 32 nodes; four and eight nodes have batch sizes of their own."""
    found = {(one.org, one.accelerator): one for one in scaling.series(systems)}
    florida = found["University-of-Florida", "B200"]
    assert [one.accelerators for one in florida.sizes] == [8, 16, 32, 64, 128, 256]
    assert [round(100 * one.by_time) for one in florida.sizes] == [100, 78, 65, 65, 51, 29]
    assert [round(100 * one.by_speed) for one in florida.sizes] == [100, 96, 69, 72, 71, 62]


def test_equal_hardware_is_held_against_itself_over_rounds(systems):
    found = dict(scaling.over_rounds(systems))
    assert found.keys() == {"8x B200", "8x GB300", "8x MI350X", "8x MI355X"}
    assert [one.round for one in found["8x MI355X"]] == ["v5.1"] * 4 + ["v6.0"] * 5

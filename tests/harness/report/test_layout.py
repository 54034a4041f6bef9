"""Plots can be read: no text over another, none cut off, no two ticks with one label, whatever is compared."""

from __future__ import annotations

import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from harness.analysis import comparison, index_selection, public_index, submission_loader
from harness.report import loss_plots, page, pair_plots, plots, results_page, results_plots
from tests.harness.logs import write_submission


def faults(figure):
    """What is wrong with the text of a figure, as it is drawn."""
    figure.canvas = FigureCanvasAgg(figure)
    figure.canvas.draw()
    renderer, room = figure.canvas.get_renderer(), figure.bbox
    texts = [one for one in figure.findobj(Text) if one.get_visible()]
    ticks = {}
    for axes in figure.axes:
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            outside = [
                tick for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9
            ]
            gone = [text for tick in outside for text in (tick.label1, tick.label2)]
            texts = [one for one in texts if not any(one is text for text in gone)]
            shown = [tick.label1.get_text() for tick in axis.get_major_ticks() if tick not in outside]
            ticks[axes, name] = [text for text in shown if text]
    boxes = [(one.get_text(), one.get_window_extent(renderer)) for one in texts if one.get_text().strip()]
    for (one, its), (other, theirs) in itertools.combinations(boxes, 2):
        width = min(its.x1, theirs.x1) - max(its.x0, theirs.x0)
        height = min(its.y1, theirs.y1) - max(its.y0, theirs.y0)
        if width > 1 and height > 2:
            yield f"{one!r} over {other!r}"
    for text, box in boxes:
        if box.x0 < room.x0 - 1 or box.x1 > room.x1 + 1 or box.y0 < room.y0 - 1 or box.y1 > room.y1 + 1:
            yield f"{text!r} is cut off"
    for labels in ticks.values():
        if len(labels) != len(set(labels)):
            yield f"ticks repeat: {labels}"


@pytest.fixture
def drawn(monkeypatch):
    """Faults of every plot that is drawn, by its name on the page."""
    found = {}

    def looked(axes, description, name, true=plots.svg):
        answer = true(axes, description, name)
        found[name] = list(faults(axes.get_figure(root=True)))
        return answer

    for module in (loss_plots, plots, pair_plots, results_plots):
        monkeypatch.setattr(module, "svg", looked)
    return found


def published(count):
    entries = list(public_index.read(public_index.SHIPPED))
    step = max(1, len(entries) // count)
    return [public_index.submission(entry) for entry in entries[::step][:count]]


@pytest.mark.parametrize(
    "count", [1, 2, pytest.param(3, marks=pytest.mark.slow), 8, pytest.param(41, marks=pytest.mark.slow)]
)
def test_published_systems(drawn, count):
    submissions = published(count)
    text = page.render(submissions, comparison.compare(submissions))
    assert len(submissions) == count and drawn
    assert not [f"{name}: {one}" for name, wrong in drawn.items() for one in wrong]
    assert len(text) < 1_500_000


@pytest.mark.parametrize("count", [1, 2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_proxies_with_long_names(drawn, tmp_path, count):
    for index in range(count):
        ends = [(3.4, 3.2 + 0.01 * index), (3.5, 3.29), (3.35, 3.25)]
        name = f"20261129-101010_proxy_a-recipe-with-a-long-name_{index}"
        write_submission(
            tmp_path / name,
            ends=ends,
            submission_benchmark="llama31_8b_proxy",
            seconds_per_sample=0.02,
            interval=400,  # as in the proxy, whose runs end after about 1,500 samples
        )
    submissions = [submission_loader.load(path) for path in sorted(tmp_path.iterdir())]
    page.render(submissions, comparison.compare(submissions))
    assert not [f"{name}: {one}" for name, wrong in drawn.items() for one in wrong]


@pytest.mark.parametrize("chosen", [{}, {"org": "Cisco"}])
def test_the_page_of_published_systems(drawn, chosen):
    entries = index_selection.wanted(public_index.read(), index_selection.Filter(**chosen))
    text = results_page.render(entries)
    assert drawn.keys() == ({"front", "scaling", "bands"} | (set() if chosen else {"rounds", "forest"}))
    assert not [f"{name}: {one}" for name, wrong in drawn.items() for one in wrong]
    assert len(text) < 300_000

"""Runs on every node but the first: joins each training of the first node, until the first node ends."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from harness.base.errors import EXIT_INTERRUPTED, EXIT_OK, EnvironmentFailure, UsageError, UserError
from harness.base.stderr import tell
from harness.base.text import printable
from harness.campaign import nodes as campaign_nodes
from harness.campaign import process, torchrun
from harness.campaign.nodes import Sign
from harness.campaign.runner import Command
from harness.config.profile_choice import require_accelerators
from harness.contract import attempt_rows, file_names
from harness.contract.build import ConfigProblem
from harness.contract.config import Config, Launch
from harness.data import ensure
from harness.machine import page_caches
from harness.machine.power import recorder
from harness.records import attempt, lock, run_environment

_POLL_S = 1.0
_SILENCE_S = 120.0  # the first node writes every 5 s; a network file system may show it a minute late
_CLOSING_S = 15.0  # time for this node's ranks to end after the first node's have ended


class FirstNodeEnded(UserError):
    """The first node ended with an error; this node ends with the same exit code."""

    def __init__(self, sign: Sign):
        super().__init__(printable(f"the first node ended: {sign.why}"))
        self.exit_code = sign.code


class FirstNodeLost(UserError):
    """The first node stopped writing. The exit code is not final: starting all nodes again continues the campaign."""

    exit_code = EXIT_INTERRUPTED


class _LeftAlone(Exception):
    """The first node no longer trains the attempt that this node has joined."""


class Watcher:
    """Watches the first node's file. A file from before this process started counts only after it has changed."""

    def __init__(self, path: Path, *, poll_s: float = _POLL_S):
        self._path, self._poll_s = path, poll_s
        self._last, self._looked_at = campaign_nodes.read(path), time.monotonic()
        self._changed_at, self.begun = self._looked_at, False

    def look(self) -> Sign | None:
        """What the first node last wrote; None before it has written anything."""
        now = time.monotonic()
        if now - self._looked_at >= self._poll_s:
            self._looked_at, sign = now, campaign_nodes.read(self._path)
            if sign is not None and sign != self._last:
                self._last, self._changed_at, self.begun = sign, now, True
        return self._last if self.begun else None

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._changed_at


def follow(
    output: Path,
    place: Launch,
    *,
    patience_s: float,
    silence_s: float = _SILENCE_S,
    command: Command = torchrun.command,
    poll_s: float = _POLL_S,
) -> int:
    """Join every attempt of the first node, one after the other.

    Args:
        output: the directory of the campaigns, shared by all nodes.
        command: builds the training's command line; tests replace Megatron by a script.

    Returns:
        EXIT_OK when the first node has ended without an error.

    Raises:
        FirstNodeEnded: it ended with an error.
        FirstNodeLost: it stopped writing.
        EnvironmentFailure: it never started, or its software differs from this node's.
        Interrupted: SIGINT or SIGTERM.
    """
    path = campaign_nodes.path_of(output, place)
    watcher, joined = Watcher(path, poll_s=poll_s), set()
    while True:
        sign = watcher.look()
        if watcher.silent_s > (silence_s if sign else patience_s):
            raise _silence(path, watcher)
        if sign and sign.state == "ended":
            if sign.code:
                raise FirstNodeEnded(sign)
            return EXIT_OK
        if sign and sign.attempt and (sign.session, sign.attempt) not in joined:
            joined.add((sign.session, sign.attempt))
            _join(output / sign.attempt, place, command, _company(watcher, sign, silence_s))
        time.sleep(poll_s / 4)


def _silence(path: Path, watcher: Watcher) -> UserError:
    if watcher.begun:
        found = f"{path}: the first node has been silent for {watcher.silent_s:.0f} s"
        return FirstNodeLost(
            f"{found}; the node or the shared file system has failed; start ./run.sh "
            "resume there and ./run.sh follow here"
        )
    found = f"{path}: the first node has not started within {watcher.silent_s:.0f} s"
    wanted = "start ./run.sh run there, with the same MASTER_ADDR, MASTER_PORT and shared LOGDIR"
    return EnvironmentFailure(f"{found}; {wanted}")


def _company(watcher: Watcher, joined: Sign, silence_s: float) -> Callable[[], None]:
    """Raise when the first node no longer trains this attempt, after the time that both nodes need to end ranks."""
    left_at: list[float] = []

    def watch() -> None:
        sign = watcher.look()
        if sign is None or (sign.session, sign.attempt) != (joined.session, joined.attempt):
            left_at[:] = left_at or [time.monotonic()]
        if watcher.silent_s > silence_s or (left_at and time.monotonic() - left_at[0] > _CLOSING_S):
            raise _LeftAlone

    return watch


def _join(directory: Path, place: Launch, command: Command, watch: Callable[[], None]) -> None:
    """Train one attempt together with the first node, which decides how the attempt ended."""
    config = dataclasses.replace(_config(directory), launch=place)
    nodes = config.parallelism.nodes
    if place.node_rank >= nodes:
        raise UsageError(
            f"environment NODE_RANK: found {place.node_rank}; allowed: 1 to {nodes - 1}, the nodes of this job"
        )
    mine = directory / file_names.node(place.node_rank)
    try:
        mine.mkdir()
    except (
        FileExistsError
    ):  # this node joined the attempt before and was restarted: its former ranks are gone
        tell(f"{directory}: this node joined this attempt before; waiting for the next attempt")
        return
    _require_likeness(directory, mine)
    require_accelerators(config)
    page_caches.require(config)
    meter = recorder.prepare(config)
    ensure.ensure(config)
    tell(f"joining {directory} as node {place.node_rank} of {nodes}")
    with tempfile.TemporaryDirectory() as private, lock.held([Path(private)]) as locks, meter.running(mine):
        try:
            code = process.train(
                command(config, directory),
                campaign=Path(private),
                attempt=mine,
                environment=torchrun.training_environment(config),
                lock_descriptor=locks[Path(private)],
                watch=watch,
            )
        except _LeftAlone:
            tell(f"{directory}: the attempt ended on the first node; its ranks on this node were stopped")
            return
    if code:
        tell(
            f"{directory}: exit status {code} here; the first node decides how the "
            f"attempt ended\n{attempt.last_words(mine)}"
        )


def _config(directory: Path) -> Config:
    path = directory / file_names.CONFIG
    try:
        return attempt_rows.read_config(path).config
    except ConfigProblem as problem:
        raise EnvironmentFailure(
            f"{path}: {problem}; use the same version on all nodes and a shared directory"
        ) from None


def _require_likeness(directory: Path, mine: Path) -> None:
    """Refuse a node whose software differs: it would train something else without any error.

    Raises:
        EnvironmentFailure: the version of a package, or the commit, differs from the first node's.
    """
    here = run_environment.describe()
    run_environment.write(mine, here)
    theirs, ours = run_environment.read(directory).versions, here.versions
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            found = f"{name}: found {ours.get(name)} on this node, {theirs.get(name)} on the first"
            raise EnvironmentFailure(printable(f"{found}; install the same on every node"))


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Make SIGTERM end this process like Ctrl-C between runs. During a run the handlers of process.train apply."""
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt

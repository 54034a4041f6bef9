"""The process that samples power during a training: one thread, low priority. It ends when its stdin closes.

python -m harness.machine.power.sampler --out F --every S --source NAME [..]

A row of F is {"t": seconds since the epoch, "source": .., "watts": [..]}, or {"t", "source", "trouble"} where a source
failed. The last row has the CPU time of the sampling itself. It is a process of its own, so that a driver that hangs
stops nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from harness.machine.child_process import die_with_this_process
from harness.machine.power.sources import Hwmon, Lines, Rapl, Row, Tool, tool

SAMPLER = "sampler"  # the source of the row about this process itself
_LONGEST_LINE = 4096
_LONGEST_PAUSE_S = 60.0
_NICE = 10


class Log:
    """Writes rows. A reader never sees an incomplete row."""

    def __init__(self, file: IO[str]):
        self._file = file

    def rows(self, rows: Sequence[Row]) -> None:
        for now, source, values in rows:
            self.put({"t": round(now, 3), "source": source, "watts": [_short(value) for value in values]})

    def trouble(self, now: float, source: str, why: str) -> None:
        self.put({"t": round(now, 3), "source": source, "trouble": why})

    def put(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class Feed:
    """One running tool. If it ends or stops writing, it is started again, after longer and longer pauses."""

    def __init__(self, tool: Tool, *, every_s: float, log: Log, patience_s: float):
        self._tool, self._every_s, self._log, self._patience_s = tool, every_s, log, patience_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s, self.due_s = every_s, 0.0
        self.terminal = -1

    def look(self, selector: selectors.BaseSelector, now: float) -> None:
        """Start the tool, or end one that is silent. Call this when `due_s` has come."""
        if self._process is None:
            self._start(selector, now)
        else:
            self._fail(selector, now, f"no reading for {self._patience_s:.0f} s")

    def _start(self, selector: selectors.BaseSelector, now: float) -> None:
        self._lines, self._text = Lines(tool=self._tool), b""
        self.terminal, inner = (
            os.openpty()
        )  # a terminal, because C programs buffer 4 KiB when they write into a pipe
        try:
            self._process = subprocess.Popen(
                self._tool.command(self._every_s),
                stdin=subprocess.DEVNULL,
                stdout=inner,
                stderr=inner,
                preexec_fn=die_with_this_process(),
            )
        except OSError as error:
            os.close(self.terminal)
            self._fail(selector, now, error.strerror or str(error))
            return
        finally:
            os.close(inner)
        selector.register(self.terminal, selectors.EVENT_READ, self)
        self.due_s = now + self._patience_s

    def take(self, selector: selectors.BaseSelector, now: float) -> None:
        """Read what the tool has written."""
        try:
            added = os.read(self.terminal, 65536)
        except OSError:  # a terminal raises this when the tool has ended
            added = b""
        if not added:
            self._fail(selector, now, "the program ended")
            return
        *lines, rest = (self._text + added).split(b"\n")
        self._text = rest[:_LONGEST_LINE]
        rows = [row for line in lines for row in self._lines.take(line.decode("utf-8", "replace"), now)]
        self._log.rows(rows)
        if rows:
            self._pause_s, self.due_s = self._every_s, now + self._patience_s

    def _fail(self, selector: selectors.BaseSelector, now: float, why: str) -> None:
        self.end(selector)
        self._log.trouble(now, self._tool.name, why)
        self.due_s = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def end(self, selector: selectors.BaseSelector) -> None:
        if self._process is None:
            return
        self._log.rows(self._lines.rest())
        selector.unregister(self.terminal)
        os.close(self.terminal)
        self._process.kill()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # stuck in the kernel; it ends when the kernel lets it
            self._process.wait(1.0)
        self._process = None


def measure(
    sources: Sequence[str], *, every_s: float, root: Path, log: Log, stop: int, patience_s: float = 5.0
) -> None:
    """Sample until the other end of the descriptor `stop` is closed.

    Args:
        patience_s: how long a tool may be silent; at least five samples.
    """
    selector = selectors.DefaultSelector()
    selector.register(stop, selectors.EVENT_READ)
    patience_s = max(patience_s, 5 * every_s)
    tools = [found for name in sources if (found := tool(name))]
    feeds = [Feed(one, every_s=every_s, log=log, patience_s=patience_s) for one in tools]
    meters = [kind(root) for kind in (Hwmon, Rapl) if kind.name in sources]
    due_s = 0.0
    while True:
        now = time.time()
        for feed in feeds:
            if feed.due_s <= now:
                feed.look(selector, now)
        if meters and due_s <= now:
            log.rows([row for one in meters if (row := one.sample(now))])
            due_s = max(due_s + every_s, now + every_s / 2)
        wake_s = min([feed.due_s for feed in feeds] + [due_s] * bool(meters), default=now + 3600)
        for key, _ in selector.select(max(0.0, wake_s - time.time())):
            if key.fd == stop:
                for feed in feeds:
                    feed.end(selector)
                return
            key.data.take(selector, time.time())


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.machine.power.sampler")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=float, required=True)
    parser.add_argument("--source", action="append", required=True)
    parser.add_argument("--root", type=Path, default=Path("/"))
    args = parser.parse_args(argv)
    os.nice(_NICE)
    began = time.monotonic()
    with args.out.open("x", encoding="utf-8") as file:
        log = Log(file)
        measure(args.source, every_s=args.every, root=args.root, log=log, stop=sys.stdin.fileno())
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
        cost = {"cpu_s": round(cpu_s, 3), "seconds": round(time.monotonic() - began, 3)}
        log.put({"t": round(time.time(), 3), "source": SAMPLER, **cost})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

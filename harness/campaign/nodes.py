"""How the nodes of one job find each other: the launch variables, and the sign that the first node gives the others.

The first node keeps the campaign, its clock and its files; the others only train. They learn what to train from one
file in the directory of the campaigns, which all nodes share. Its name is the rendezvous (address and port), so that
jobs which share a directory do not meet; its sequence number rises while the first node lives, so that nobody compares
clocks of two machines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_TRAINING, UsageError, UserError
from harness.contract import environment, file_names, files, typed_json
from harness.contract.config import Config, Launch

_BEAT_S = 5.0
_LAUNCH = ("launch.master_addr", "launch.master_port", "launch.node_rank")
_ATTEMPT = re.compile(rf"[^/]+/{file_names.RUN}\d+/{file_names.ATTEMPT}\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """What the first node says.

    Args:
        session: of the process that says it; a resumed job has another.
        state: waiting (between runs) | training | ended.
        attempt: that trains, relative to the directory of the campaigns.
        code: exit code of the first node, once ended; `why` is its last word.
    """

    session: str
    sequence: int
    state: str
    attempt: str | None = None
    code: int = EXIT_OK
    why: str = ""


class Beacon:
    """The first node's side; on a job of one node it writes nothing."""

    def __init__(self, path: Path | None):
        self._path, self._written_at = path, 0.0
        self._sign = Sign(session=secrets.token_hex(8), sequence=0, state="waiting")

    @contextlib.contextmanager
    def training(self, attempt: Path) -> Iterator[None]:
        """While an attempt trains."""
        if self._path is not None:
            self._show(state="training", attempt=attempt.relative_to(self._path.parent).as_posix())
        try:
            yield
        finally:
            self._show(state="waiting", attempt=None)

    def beat(self) -> None:
        """Called often; writes every few seconds."""
        if time.monotonic() - self._written_at > _BEAT_S:
            self._show()

    def ended(self, code: int, why: str = "") -> None:
        self._show(state="ended", attempt=None, code=code, why=why)

    def _show(self, **change: object) -> None:
        if self._path is None:
            return
        self._sign = dataclasses.replace(self._sign, sequence=self._sign.sequence + 1, **change)  # type: ignore[arg-type]
        self._written_at = time.monotonic()
        files.replace_json(self._path, typed_json.to_plain(self._sign))


@contextlib.contextmanager
def lit(config: Config, output: Path) -> Iterator[Beacon]:
    """The beacon of a job, which in the end says how the job ended.

    Args:
        output: the directory of the campaigns, which every node sees.
    """
    beacon = Beacon(path_of(output, config.launch) if config.parallelism.nodes > 1 else None)
    try:
        yield beacon
    except BaseException as error:
        code = error.exit_code if isinstance(error, UserError) else EXIT_TRAINING
        code = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else code
        with contextlib.suppress(OSError):  # a full disk: the others find out by its silence
            beacon.ended(code, (str(error) or type(error).__name__).splitlines()[0])
        raise
    beacon.ended(EXIT_OK)


def path_of(output: Path, launch: Launch) -> Path:
    name = re.sub(r"[^\w.-]", "_", f"{launch.master_addr}_{launch.master_port}")
    return output / f".rendezvous_{name}.json"


def read(path: Path) -> Sign | None:
    """The sign, None where there is none or one of another version."""
    sign = typed_json.read(Sign, path)
    if sign is not None and sign.state == "training" and not _ATTEMPT.fullmatch(str(sign.attempt)):
        return None
    return sign


def here() -> Launch:
    """This node's place, as MASTER_ADDR, MASTER_PORT and NODE_RANK say it.

    Raises:
        UsageError: one is missing or no number.
    """
    given = environment.alias_overrides()
    names = {path: name for name, path in environment.ALIASES.items()}
    for path in _LAUNCH:
        if path not in given:
            raise UsageError(
                f"environment {names[path]}: found nothing; allowed: the same as on the first node"
            )
    for path in _LAUNCH[1:]:
        if not re.fullmatch(r"\d{1,5}", given[path][1]):
            raise UsageError(f"environment {names[path]}: found {given[path][1]!r}; allowed: a number")
    address, port, rank = (given[path][1] for path in _LAUNCH)
    return Launch(master_addr=address, master_port=int(port), node_rank=int(rank))


def placed(config: Config) -> Config:
    """A campaign's configuration where it runs now: a requeued job has another first node than the one it began on."""
    if not all(path in environment.alias_overrides() for path in _LAUNCH):
        return config
    return dataclasses.replace(config, launch=here())

"""How the nodes of a job find each other: from launch variables, and from a file that the first node writes.

The first node keeps the campaign, its clock and its files; the other nodes only train. They learn what to train from
one file in the directory of the campaigns, which all nodes share. Its name is the rendezvous (address and port), so
that the files of two jobs in one directory differ. Its sequence number rises while the first node lives, so that no
node compares clocks of two machines.
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
    """State of the first node, as it writes it.

    Args:
        session: identifies the process that wrote it; a resumed job has another one.
        state: waiting (between runs) | training | ended.
        attempt: directory of the attempt in training, relative to the directory of the campaigns.
        code: exit code of the first node when it has ended; `why` is its last message.
    """

    session: str
    sequence: int
    state: str
    attempt: str | None = None
    code: int = EXIT_OK
    why: str = ""


class Beacon:
    """Writes the first node's state; for a job of one node it writes nothing."""

    def __init__(self, path: Path | None):
        self._path, self._written_at = path, 0.0
        self._sign = Sign(session=secrets.token_hex(8), sequence=0, state="waiting")

    @contextlib.contextmanager
    def training(self, attempt: Path) -> Iterator[None]:
        """Write that an attempt trains, inside the context."""
        if self._path is not None:
            self._show(state="training", attempt=attempt.relative_to(self._path.parent).as_posix())
        try:
            yield
        finally:
            self._show(state="waiting", attempt=None)

    def beat(self) -> None:
        """Call this often; it writes every few seconds."""
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
    """Creates the first node's state file, as a `Beacon` that updates it; on exit it writes how the job ended.

    Args:
        output: the directory of the campaigns, shared by all nodes.
    """
    beacon = Beacon(path_of(output, config.launch) if config.parallelism.nodes > 1 else None)
    try:
        yield beacon
    except BaseException as error:
        code = error.exit_code if isinstance(error, UserError) else EXIT_TRAINING
        code = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else code
        with contextlib.suppress(
            OSError
        ):  # on a full disk the other nodes notice that the file stops changing
            beacon.ended(code, (str(error) or type(error).__name__).splitlines()[0])
        raise
    beacon.ended(EXIT_OK)


def path_of(output: Path, launch: Launch) -> Path:
    name = re.sub(r"[^\w.-]", "_", f"{launch.master_addr}_{launch.master_port}")
    return output / f".rendezvous_{name}.json"


def read(path: Path) -> Sign | None:
    """The first node's state; None if there is no file or if another version wrote it."""
    sign = typed_json.read(Sign, path)
    if sign is not None and sign.state == "training" and not _ATTEMPT.fullmatch(str(sign.attempt)):
        return None
    return sign


def here() -> Launch:
    """The rank and address of this node, from MASTER_ADDR, MASTER_PORT and NODE_RANK.

    Raises:
        UsageError: a variable is missing or is not a number.
    """
    given = environment.alias_overrides()
    names = {path: name for name, path in environment.ALIASES.items()}
    for path in _LAUNCH:
        if path not in given:
            raise UsageError(f"environment {names[path]}: not set; set it to the first node's value")
    for path in _LAUNCH[1:]:
        if not re.fullmatch(r"\d{1,5}", given[path][1]):
            raise UsageError(f"environment {names[path]}: found {given[path][1]!r}; allowed: a number")
    address, port, rank = (given[path][1] for path in _LAUNCH)
    return Launch(master_addr=address, master_port=int(port), node_rank=int(rank))


def placed(config: Config) -> Config:
    """The campaign's configuration with this node's place. A requeued job may have another first node than before."""
    if not all(path in environment.alias_overrides() for path in _LAUNCH):
        return config
    return dataclasses.replace(config, launch=here())

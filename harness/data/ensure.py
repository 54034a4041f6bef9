"""Makes the tokens of a profile ready for use: builds the proxy's corpus, verifies other data."""

from __future__ import annotations

from collections.abc import Callable

from harness.base.errors import EnvironmentFailure, UsageError
from harness.contract.config import Config
from harness.data import c4 as data_c4
from harness.data import proxy


def ensure(config: Config) -> None:
    """Make the data ready before a run: build the proxy's corpus if it is missing, check names and sizes of other data.

    Raises:
        EnvironmentFailure: the data is missing, damaged or built for another configuration; the message says what to
            do.
    """
    if config.data.corpus != "c4" and not proxy.exists(config):
        build(config, force=False)
    problems = verify(config, full=False)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EnvironmentFailure(f"{problems[0]}{more}; ./run.sh data verify lists all problems")


def verify(config: Config, *, full: bool, report: Callable[[str], None] | None = None) -> list[str]:
    """What is wrong with the data, one line each.

    Raises:
        EnvironmentFailure: there is no data at all.
    """
    if config.data.corpus == "c4":
        return data_c4.problems(config, full=full, report=report)
    return proxy.problems(config, digests=full, report=report)


def summary(config: Config, *, full: bool) -> str:
    """One line about data without a problem."""
    if config.data.corpus == "c4":
        return data_c4.summary(config, full=full)
    return proxy.summary(config, full=full)


def build(config: Config, *, force: bool) -> bool:
    """Build the proxy's corpus.

    Returns:
        False if a corpus exists already; it is kept.

    Raises:
        UsageError: the profile reads published data, which is not built.
    """
    if config.data.corpus == "c4":
        raise UsageError(
            f"data build makes the proxy's corpus; {config.profile} reads the MLCommons-prepared C4: "
            "./run.sh data fetch gets it; --input FILE .. --tokenizer PATH --out PREFIX makes tokens of raw C4"
        )
    return proxy.build(config, force=force)

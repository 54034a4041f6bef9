"""Command `data`: fetch, build or verify the tokens of either profile."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from harness.base.errors import EXIT_FAILED, EXIT_OK, EnvironmentFailure, UsageError
from harness.base.stderr import tell
from harness.config.file import resolve
from harness.contract.config import Config
from harness.data import c4 as data_c4
from harness.data import fetch, proxy, raw_c4

_ACTIONS = (
    "fetch the published C4, build the proxy's corpus or (--input) tokens from raw C4, verify the files"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["fetch", "build", "verify"], help=_ACTIONS)
    parser.add_argument("--profile", help="whose data (default proxy; fetch: llama31_8b)")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument("--force", action="store_true", help="build: replace what is there")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--fast", action="store_true", help="verify names, sizes and structure (default for C4)"
    )
    depth.add_argument("--full", action="store_true", help="verify every byte too (default for the proxy)")
    fetch.arguments(parser)
    raw_c4.arguments(parser)


def main(args: argparse.Namespace) -> int:
    if args.action == "fetch":
        return fetch.main(args)
    if args.action == "build" and (args.input or args.tokenizer or args.out):
        return raw_c4.main(args)
    config = resolve(args.profile or "proxy", overrides=args.overrides).config
    if args.action == "build" and not build(config, force=args.force):
        tell(f"{config.data.directory}: already built; --force replaces it")
    full = args.full or (config.data.corpus != "c4" and not args.fast)
    problems = verify(config, full=full, report=tell)
    for problem in problems:
        print(problem)
    if not problems:
        c4 = config.data.corpus == "c4"
        print(data_c4.summary(config, full=full) if c4 else proxy.summary(config, full=full))
    return EXIT_FAILED if problems else EXIT_OK


def ensure(config: Config) -> None:
    """Make the data usable before a run: build a missing proxy corpus, check names and sizes of any other.

    Raises:
        EnvironmentFailure: missing, damaged or made for another configuration; says what to do.
    """
    if config.data.corpus != "c4" and not proxy.exists(config):
        build(config, force=False)
    problems = verify(config, full=False)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise EnvironmentFailure(f"{problems[0]}{more}; ./run.sh data verify says all")


def verify(config: Config, *, full: bool, report: Callable[[str], None] | None = None) -> list[str]:
    """What is wrong with the data, one line each.

    Raises:
        EnvironmentFailure: there is no data at all.
    """
    if config.data.corpus == "c4":
        return data_c4.problems(config, full=full, report=report)
    return proxy.problems(config, digests=full, report=report)


def build(config: Config, *, force: bool) -> bool:
    """Build the proxy's corpus.

    Returns:
        False where one is already there and stays.

    Raises:
        UsageError: this data is published, not built.
    """
    if config.data.corpus == "c4":
        raise UsageError(
            f"data build makes the proxy's corpus; {config.profile} reads the MLCommons-prepared C4: "
            "./run.sh data fetch gets it; --input FILE .. --tokenizer PATH --out PREFIX makes tokens of raw C4"
        )
    return proxy.build(config, force=force)

"""Command `data`: fetches, builds or verifies the tokens of a profile."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.base.stderr import tell
from harness.commands.options import add_profile, add_set
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, PROXY_PROFILE
from harness.contract import environment
from harness.data import ensure, fetch, raw_c4
from harness.data.published import METADATA, WHAT

_ACTIONS = "fetch published tokens; build the proxy's corpus or, with --input, tokens from raw C4; verify"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["fetch", "build", "verify"], help=_ACTIONS)
    add_profile(parser, f"profile of the data (default {PROXY_PROFILE}; fetch: {BENCHMARK_PROFILE})")
    add_set(parser)
    parser.add_argument("--force", action="store_true", help="build: replace existing data")
    depth = parser.add_mutually_exclusive_group()
    fast = "verify only names, sizes and structure (default for C4)"
    full = "also verify every byte (default for the proxy)"
    depth.add_argument("--fast", action="store_true", help=fast)
    depth.add_argument("--full", action="store_true", help=full)
    get = parser.add_argument_group("fetch")
    get.add_argument("--to", metavar="DIR", help="directory (default: data.directory of the profile)")
    get.add_argument("--what", default=",".join(WHAT), help=f"default {','.join(WHAT)}")
    get.add_argument("--offline", metavar="DIR", help="copy from a directory instead of the network")
    get.add_argument("--url", default=METADATA, help="address of .uri and .md5 files (default: MLCommons)")
    raw = parser.add_argument_group("build from raw C4")
    raw.add_argument("--input", nargs="+", metavar="FILE", help="c4-train.*.json.gz: names or a pattern")
    raw.add_argument("--tokenizer", metavar="PATH", help="a tokenizer.json, or its directory")
    raw.add_argument("--out", metavar="PREFIX", help="write PREFIX.bin and PREFIX.idx")
    raw.add_argument("--workers", type=int, default=environment.cores(), help="processes (default: cores)")
    end = "token that ends every document (default: none, as published)"
    raw.add_argument("--append-eod", metavar="TOKEN", help=end)


def main(args: argparse.Namespace) -> int:
    if args.action == "fetch":
        return _fetch(args)
    if args.action == "build" and (args.input or args.tokenizer or args.out):
        return _build_raw(args)
    config = resolve(args.profile or PROXY_PROFILE, overrides=args.overrides).config
    if args.action == "build" and not ensure.build(config, force=args.force):
        tell(f"{config.data.directory}: the data exists already; --force builds it again")
    full = args.full or (config.data.corpus != "c4" and not args.fast)
    problems = ensure.verify(config, full=full, report=tell)
    print("\n".join(problems or [ensure.summary(config, full=full)]))
    return EXIT_FAILED if problems else EXIT_OK


def _fetch(args: argparse.Namespace) -> int:
    profile = args.profile or BENCHMARK_PROFILE
    directory = Path(args.to or resolve(profile, overrides=args.overrides).config.data.directory)
    wanted = fetch.datasets(args.what)
    fetched = fetch.fetch(wanted, directory, fetch.source_of(offline=args.offline, url=args.url))
    size = sum(one.size for one in fetched)
    print(f"{directory}: {len(fetched)} files, {size:,} bytes, MD5 as published")
    return EXIT_OK


def _build_raw(args: argparse.Namespace) -> int:
    values = {name: getattr(args, name) for name in ("input", "tokenizer", "out", "workers", "append_eod")}
    if missing := [name for name in ("input", "tokenizer", "out") if values[name] is None]:
        raise UsageError(f"data build from raw C4: missing options; add --{', --'.join(missing)}")
    code, built = raw_c4.build(raw_c4.Order(**values, force=args.force))
    if built:
        print(built)
    return code

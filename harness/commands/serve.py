"""Command `serve`: shows campaigns in a browser of this machine while they train."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import EXIT_OK, UsageError
from harness.base.stderr import tell
from harness.campaign import store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="?", type=Path, metavar="DIR", help="directory of campaigns (default: runs/)"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=8777,
        metavar="N",
        help="port on 127.0.0.1 (default 8777; 0: any free port)",
    )


def main(args: argparse.Namespace) -> int:
    from harness.report import server  # matplotlib takes a second

    directory = args.runs or store.output_directory()
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory; expected one with campaigns, such as runs/")
    try:
        server.serve(directory, args.port, tell)
    except KeyboardInterrupt:  # the user ends the server this way
        return EXIT_OK
    except OSError as error:
        raise UsageError(
            f"--port {args.port}: {error.strerror or error}; choose another port, or 0"
        ) from None
    return EXIT_OK


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: 0 to 65535")
    return int(text)

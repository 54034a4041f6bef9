"""Reads raw C4 in blocks of whole lines, each with the position after it, from which reading can start again.

A .json.gz file is one or more gzip members (each of MLCommons' shards is 128 concatenated files). A position holds the
byte at which its member begins, so that a restart decompresses only this member, not everything before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

_READ_BYTES = 1 << 20
_LONGEST_LINE_BYTES = (
    1 << 28
)  # C4's longest document is below 1 MB; the limit keeps a file without newlines from filling the memory
_GZIP = b"\x1f\x8b"


class InputError(Exception):
    """An input file is damaged or in another format; the message names the file and, where known, the line."""


@dataclass(frozen=True, slots=True)
class Position:
    """The place at which the next unread line begins."""

    file: int = 0  # index in the list of inputs
    member: int = 0  # byte of the file at which the gzip member begins
    offset: int = 0  # decompressed bytes of the member before the line
    line: int = 1  # number of the line in the file


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive whole lines of one file."""

    text: bytes
    start: Position
    end: Position
    read_bytes: int  # bytes of the file on the disk (compressed) that were read so far


@dataclass(frozen=True, slots=True)
class _Piece:
    text: bytes
    member: int
    offset: int
    read_bytes: int


def blocks(paths: list[Path], start: Position, block_bytes: int) -> Iterator[Block]:
    """The lines of all files in order, from `start` on, in blocks of about `block_bytes`.

    Raises:
        InputError: damaged or truncated gzip data, or a line that is too long.
    """
    for number in range(start.file, len(paths)):
        begin = start if number == start.file else Position(file=number)
        try:
            yield from _blocks_of_file(paths[number], begin, block_bytes)
        except zlib.error as error:
            raise InputError(f"{paths[number]}: damaged gzip data ({error}); fetch the file again") from None


def _blocks_of_file(path: Path, start: Position, block_bytes: int) -> Iterator[Block]:
    pieces: list[_Piece] = []
    size, cut = 0, -1  # cut: index of the last piece that contains a newline
    for piece in _pieces(path, start):
        pieces.append(piece)
        size += len(piece.text)
        if b"\n" in piece.text:
            cut = len(pieces) - 1
        elif size > _LONGEST_LINE_BYTES:
            raise InputError(
                f"{path}:{start.line}: a line of more than {_LONGEST_LINE_BYTES:,} bytes; pass C4's JSON lines"
            )
        if size >= block_bytes and cut >= 0:
            block, rest = _cut(pieces, cut, start)
            yield block
            pieces, size, cut, start = rest, sum(len(one.text) for one in rest), -1, block.end
    if size:
        text = b"".join(piece.text for piece in pieces)
        last = pieces[-1]
        lines = text.count(b"\n") + (not text.endswith(b"\n"))
        end = Position(start.file, last.member, last.offset + len(last.text), start.line + lines)
        yield Block(text, start, end, last.read_bytes)


def _cut(pieces: list[_Piece], at: int, start: Position) -> tuple[Block, list[_Piece]]:
    """Everything up to the last newline of piece `at`, and the pieces of the unfinished line after it."""
    last = pieces[at]
    length = last.text.rindex(b"\n") + 1
    text = b"".join([*(piece.text for piece in pieces[:at]), last.text[:length]])
    end = Position(start.file, last.member, last.offset + length, start.line + text.count(b"\n"))
    rest = _Piece(last.text[length:], last.member, last.offset + length, last.read_bytes)
    return Block(text, start, end, last.read_bytes), [rest, *pieces[at + 1 :]]


def _pieces(path: Path, start: Position) -> Iterator[_Piece]:
    """The text after `start`, in pieces of at most a megabyte."""
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            for piece in _decompressed(file, start.member, path):
                skip = start.offset - piece.offset if piece.member == start.member else 0
                if skip < len(piece.text):
                    skip = max(skip, 0)
                    yield replace(piece, text=piece.text[skip:], offset=piece.offset + skip)
            return
        file.seek(start.offset)
        while text := file.read(_READ_BYTES):
            yield _Piece(text, 0, file.tell() - len(text), file.tell())


def _decompressed(file: BinaryIO, member: int, path: Path) -> Iterator[_Piece]:
    """The decompressed text of every gzip member from byte `member` on."""
    file.seek(member)
    unread, offset, ended, decoder = b"", 0, True, zlib.decompressobj(wbits=31)
    while unread := unread or file.read(_READ_BYTES):
        if ended:
            unread = unread.lstrip(b"\0")  # gzip allows zeros after a member
            if not unread:
                continue
            member, offset, decoder = file.tell() - len(unread), 0, zlib.decompressobj(wbits=31)
        text = decoder.decompress(unread, _READ_BYTES)
        ended = decoder.eof
        unread = decoder.unused_data if ended else decoder.unconsumed_tail
        if text:
            yield _Piece(text, member, offset, file.tell() - len(unread))
        offset += len(text)
    if not ended:
        raise InputError(f"{path}: truncated gzip data; fetch the file again")

"""The answer to a name that does not exist: which name may have been meant, and which names exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harness.base.text import printable

_SHORTEST_PART = 3  # characters: a shorter part would match almost every name
_MOST_LISTED = 40


def unknown_name(kind: str, name: object, names: Iterable[str], *, plural: str = "", more: str = "") -> str:
    """`no profile 'llama' (did you mean llama31_8b?); profiles: proxy, study, llama31_8b`.

    Args:
        kind: what the name is the name of, as a singular noun.
        names: all that exist, in the order in which they are listed.
        plural: of kind, where it is not kind with an s.
        more: what is allowed besides these names.
    """
    known = list(names)
    listed = [*known[:_MOST_LISTED], *([f"{len(known) - _MOST_LISTED} more"] if known[_MOST_LISTED:] else [])]
    allowed = ", ".join(map(printable, [*listed, *([more] if more else [])]))
    text = printable(name)
    return f"no {kind} '{text}'{did_you_mean(text, known)}; {plural or kind + 's'}: {allowed or 'none'}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean global_batch_size?)`, or nothing where no name is near."""
    near = nearest(name, names)
    return f" (did you mean {printable(near)}?)" if near else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that is spelled most alike; else the shortest one that contains the text. Capitals do not count."""
    by_small_letters = {
        other.casefold(): other for other in reversed(list(names))
    }  # of two, the first is kept
    wanted = name.casefold()
    if alike := difflib.get_close_matches(wanted, by_small_letters, n=1):
        return by_small_letters[alike[0]]
    containing = [other for other in by_small_letters if len(wanted) >= _SHORTEST_PART and wanted in other]
    return by_small_letters[min(containing, key=len)] if containing else None

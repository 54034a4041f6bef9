"""The answer to a name that does not exist: which name may have been meant, and which names exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harness.base.text import printable

_SHORTEST_PART = 3  # characters: a shorter part would match almost every name
_MOST_LISTED = 40


def unknown_name(kind: str, name: object, names: Iterable[str], *, plural: str = "", more: str = "") -> str:
    """A message: `no profile 'llama' (did you mean llama31_8b?); profiles: proxy, study, llama31_8b`.

    Args:
        kind: the kind of thing that is named, as a singular noun, for example profile.
        names: all existing names, in the order in which they are listed.
        plural: the plural of kind; empty if it is kind with an s.
        more: other allowed values that are not names.
    """
    known = list(names)
    listed = [*known[:_MOST_LISTED], *([f"{len(known) - _MOST_LISTED} more"] if known[_MOST_LISTED:] else [])]
    allowed = ", ".join(map(printable, [*listed, *([more] if more else [])]))
    text = printable(name)
    return f"no {kind} '{text}'{did_you_mean(text, known)}; {plural or kind + 's'}: {allowed or 'none'}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean global_batch_size?)`; empty if no name is similar."""
    near = nearest(name, names)
    return f" (did you mean {printable(near)}?)" if near else ""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name with the most similar spelling; else the shortest that contains the text. Case is ignored."""
    by_small_letters = {
        other.casefold(): other for other in reversed(list(names))
    }  # of names that differ only in case, the first is kept
    wanted = name.casefold()
    if alike := difflib.get_close_matches(wanted, by_small_letters, n=1):
        return by_small_letters[alike[0]]
    containing = [other for other in by_small_letters if len(wanted) >= _SHORTEST_PART and wanted in other]
    return by_small_letters[min(containing, key=len)] if containing else None

"""Inputs that are nearly right: a seed with a few edits gets further into a parser than noise does."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

MAX_BYTES = 8192

_PIECES = st.one_of(
    st.binary(max_size=8),
    st.sampled_from(
        [
            *(b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\n", b"\r\n", b"\t", b" ", b"\\", b'"', b"'"),
            *(b"-1", b"0", b"1e999", b"Infinity", b"NaN", b"null", b"true", b"9" * 40, b"9" * 5000),
            *(b"{", b"}", b"[", b"]", b",", b":", b"[" * 3000, b"\\ud800", b"\x1b[2J", b"..", b"/", b"%"),
            *(b"\0" * 64, b"\xff" * 64, b"x" * 5000),
        ]
    ),
)
WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, math.inf, -math.inf, math.nan, 1 << 31, 1 << 63, 10**30, -(10**30)),
    *("", " ", "0", "x" * 5000, "\0", "\ud800", "\x1b[2J", "é", "..", "/", "{name}", "true", "1GiB", "ext4"),
    *([], {}, [[]], [None], {"a": {}}, [{}], [[[]]], {"": ""}),
)
"""In the place of any value of a JSON document."""


@st.composite
def mutate_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Return seeds with up to eight pieces put in, taken out, repeated or written over."""
    edits = st.tuples(
        st.sampled_from(("insert", "remove", "overwrite", "repeat", "cut")), st.floats(0, 1), _PIECES
    )
    return _edit(draw(st.sampled_from(list(seeds))), draw(st.lists(edits, min_size=1, max_size=8)))


def _edit(seed: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, piece in edits:
        at = int(where * len(seed))
        if kind == "insert":
            seed = seed[:at] + piece + seed[at:]
        elif kind == "remove":
            seed = seed[:at] + seed[at + max(1, len(piece)) :]
        elif kind == "overwrite":
            seed = seed[:at] + piece + seed[at + len(piece) :]
        elif kind == "repeat":
            seed = seed[:at] + seed[at : at + 64] * 3 + seed[at:]
        else:
            seed = seed[:at]
        seed = seed[: 4 * MAX_BYTES]
    return seed


@st.composite
def mutate_json(draw: st.DrawFn, documents: Sequence[Any]) -> Any:
    """Return documents in which up to four values are weird ones, missing, or somewhere else."""
    edits = st.tuples(st.integers(0, 1 << 16), st.sampled_from(("put", "put", "drop", "add", "nest")), JSON)
    number = draw(st.integers(0, len(documents) - 1))
    return _edit_document(documents[number], draw(st.lists(edits, min_size=1, max_size=4)))


JSON = st.one_of(
    st.sampled_from(WEIRD),
    st.recursive(
        st.one_of(st.sampled_from(WEIRD[:28]), st.text(max_size=12), st.integers()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)


def _edit_document(document: Any, edits: list[tuple[int, str, Any]]) -> Any:
    document = copy.deepcopy(document)
    for number, kind, drawn in edits:
        value = copy.deepcopy(drawn)
        places = list(_find_places(document))
        if not places:
            return value
        holder, key = places[number % len(places)]
        if kind == "drop":
            del holder[key]
        elif kind == "nest":
            holder[key] = [holder[key]] if number % 2 else {"a": holder[key]}
        elif kind == "add" and isinstance(holder, dict):
            holder[f"x{number}" if number % 2 else str(value)[:40]] = value
        else:
            holder[key] = value
    return document


def _find_places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _find_places(value[key])

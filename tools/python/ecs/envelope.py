"""From messages to bytes and back, under the rules of ``schemas/spec/envelope.md``.

E2  Unknown fields are ignored; an unknown version is refused.
E3  At most :data:`~ecs.limits.HEADER_BYTES_MAX` and :data:`~ecs.limits.BODY_BYTES_MAX` are read, nested less than
    :data:`~ecs.limits.DEPTH_MAX` deep; no bytes behind the map.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import msgpack

from . import messages
from .errors import BadMessage, UnsupportedVersion
from .fields import Mismatch
from .limits import BODY_BYTES_MAX, DEPTH_MAX, HEADER_BYTES_MAX, PROTOCOL_VERSION

_SCALARS = frozenset((type(None), bool, int, float, str, bytes))


def encode(kind: str, fields: Any) -> bytes:
    """The bytes of a message of this kind. Raises :class:`BadMessage` naming the field that is wrong."""
    try:
        messages.check(kind, fields, kind)
        encoded: bytes = msgpack.packb(fields, use_bin_type=True)
    except (Mismatch, TypeError, ValueError, OverflowError) as error:
        raise BadMessage(f"cannot be sent: {error}") from None
    if len(encoded) > BODY_BYTES_MAX:
        raise BadMessage(f"{kind} of {len(encoded)} bytes; at most {BODY_BYTES_MAX}")
    return encoded


def decode(kind: str, data: bytes) -> Any:
    """What a body of this kind says. Raises :class:`BadMessage`, whatever the bytes are."""
    limit = HEADER_BYTES_MAX if kind == "header" else BODY_BYTES_MAX
    if len(data) > limit:
        raise BadMessage(f"{kind} of {len(data)} bytes; at most {limit} are accepted")
    fields = _unpack(kind, data)
    try:
        understood = messages.check(kind, fields, kind)
    except Mismatch as error:
        raise BadMessage(str(error)) from None
    if kind == "header" and understood["v"] != PROTOCOL_VERSION:
        raise UnsupportedVersion(f"protocol version {understood['v']}; this side speaks {PROTOCOL_VERSION}")
    return understood


def _unpack(kind: str, data: bytes) -> Any:
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
        _check_forms(value)
        return value
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise BadMessage(f"{kind} is not the expected MessagePack: {error or type(error).__name__}") from None


def _check_forms(value: Any) -> None:
    """Depth, text keys, and no extension types. Without recursion: the sender chooses the depth."""
    open_: List[Tuple[Any, int]] = [(value, 1)]
    while open_:
        here, depth = open_.pop()
        if type(here) in _SCALARS:
            continue
        if depth >= DEPTH_MAX:
            raise ValueError(f"lists and maps nest {DEPTH_MAX} deep or more")
        if isinstance(here, dict):
            if not all(type(key) is str for key in here):
                raise ValueError("a map has a key that is no text")
            inner: Any = here.values()
        elif isinstance(here, list):
            inner = here
        else:
            raise ValueError(f"{type(here).__name__} is no form of a value")
        open_.extend((entry, depth + 1) for entry in inner if type(entry) not in _SCALARS)


def header(kind: str, id: int, **more: Any) -> Dict[str, Any]:
    """A header's fields; those of ``more`` that are None are left out."""
    return {"v": PROTOCOL_VERSION, "kind": kind, "id": id, **{k: v for k, v in more.items() if v is not None}}

"""The golden vectors of `schemas/vectors/messages.json`: the same bytes as every other codec."""

import json
import pathlib

import pytest

from ecs import envelope
from ecs.errors import BadMessage, EcsError, UnsupportedVersion, error_of

VECTORS = json.loads((pathlib.Path(__file__).parents[3] / "schemas/vectors/messages.json").read_text())


def value_of(fields):
    """JSON has no bytes: {"$bytes": HEX} stands for them."""
    if isinstance(fields, dict):
        return bytes.fromhex(fields["$bytes"]) if "$bytes" in fields else {k: value_of(v) for k, v in fields.items()}
    return [value_of(entry) for entry in fields] if isinstance(fields, list) else fields


def cases(which):
    assert VECTORS[which]
    return [pytest.param(case["type"], case.get("value"), case["hex"], id=case["name"]) for case in VECTORS[which]]


@pytest.mark.parametrize("kind, value, hex_", cases("exact"))
def test_exact_vector_encodes_to_its_bytes_and_decodes_to_its_fields(kind, value, hex_):
    encoded = envelope.encode(kind, value_of(value))
    assert encoded.hex() == hex_
    understood = envelope.decode(kind, bytes.fromhex(hex_))
    assert understood == envelope.messages.check(kind, value_of(value), kind)


@pytest.mark.parametrize("kind, value, hex_", cases("accepted"))
def test_accepted_vector_is_understood_as_its_fields(kind, value, hex_):
    understood = envelope.decode(kind, bytes.fromhex(hex_))
    expected = envelope.messages.check(kind, value_of(value), kind)
    if kind == "error" and expected["code"] == "other":
        # A code that is not known stays as it came: a program may still log it. It reads as a plain EcsError.
        assert type(error_of(understood)) is EcsError
        understood["code"] = "other"
    assert understood == expected


@pytest.mark.parametrize("kind, value, hex_", cases("refused"))
def test_refused_vector_is_an_error(kind, value, hex_):
    with pytest.raises(BadMessage):
        envelope.decode(kind, bytes.fromhex(hex_))


def test_bundle_is_a_list_of_bytes_that_any_messagepack_reads():
    """This client sends and takes two parts; who speaks bundles needs no more than this."""
    for case in VECTORS["bundles"]:
        entries = envelope.msgpack.unpackb(bytes.fromhex(case["hex"]))
        assert [[header.hex(), body.hex()] for header, body in zip(entries[::2], entries[1::2])] == case["messages"]


def test_header_of_another_version_is_refused_as_such():
    with pytest.raises(UnsupportedVersion, match="version 2"):
        envelope.decode("header", envelope.msgpack.packb({"v": 2, "kind": "x", "id": 1}))


@pytest.mark.parametrize(
    "data", [b"\x91" * 4000 + b"\xc0", b"\xdd\xff\xff\xff\xff", b"\xc7\x01\x05\x00", b"\xd6\xff\0\0\0\0"]
)
def test_hostile_bytes_are_an_error_whatever_they_are(data):
    """Deep nesting, a huge claim, an extension type, a timestamp."""
    with pytest.raises(BadMessage):
        envelope.decode("value", data)


def test_body_above_the_limit_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(envelope, "BODY_BYTES_MAX", 16)
    with pytest.raises(BadMessage, match="at most 16"):
        envelope.decode("value", b"\xc4\x20" + bytes(32))
    with pytest.raises(BadMessage, match="at most 16"):
        envelope.encode("value", bytes(32))

"""Where the broker is, and with what key it is spoken to."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

from .errors import EcsError

try:
    import tomllib
except ImportError:  # before Python 3.11
    import tomli as tomllib  # type: ignore[no-redef, import-not-found]

#: Read where nothing else is named and it is in the current folder.
DEFAULT_FILE = "beamline.toml"
REQUEST_DEFAULT = "tcp://127.0.0.1:7750"
PUBLISH_DEFAULT = "tcp://127.0.0.1:7751"


@dataclass(frozen=True)
class Key:
    """A key file's content. It has no way into a log: its repr is its name."""

    name: str
    public: bytes
    secret: bytes
    broker: bytes

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


@dataclass(frozen=True)
class Place:
    requests: str
    publish: str
    key: Optional[Key] = None


def find(
    where: Union[str, os.PathLike[str], None] = None,
    publish: Optional[str] = None,
    key: Union[str, os.PathLike[str], None] = None,
) -> Place:
    """The broker at an endpoint, or of a beamline's file.

    Without ``where``: ``ECS_BROKER``, else the file ``ECS_CONFIG``, else ``beamline.toml`` in the current folder where
    there is one, else ``tcp://127.0.0.1:7750``. Without ``key``: ``ECS_KEY``, else what the file says, else none.

    Raises :class:`EcsError` (`bad_parameter`) naming what is wrong with the endpoint or file.
    """
    where = str(where) if where is not None else _default_place()
    key = key if key is not None else os.environ.get("ECS_KEY")
    if "://" in where:
        return Place(where, publish or _one_port_above(where), _read_key(key))
    broker = _read_toml(pathlib.Path(where), "beamline file").get("broker", {})
    if key is None and "key" in broker:
        key = pathlib.Path(where).parent / broker["key"]
    requests = broker.get("request_endpoint", REQUEST_DEFAULT)
    return Place(requests, publish or broker.get("publish_endpoint", PUBLISH_DEFAULT), _read_key(key))


def _default_place() -> str:
    named = os.environ.get("ECS_BROKER") or os.environ.get("ECS_CONFIG")
    return named or (DEFAULT_FILE if os.path.isfile(DEFAULT_FILE) else REQUEST_DEFAULT)


def _one_port_above(endpoint: str) -> str:
    """The broker publishes one port above the one of its requests, where nothing else is said."""
    host, _, port = endpoint.rpartition(":")
    if not endpoint.startswith("tcp://") or not port.isdigit() or int(port) > 65534:
        raise _bad(f"endpoint {endpoint!r}: give tcp://HOST:PORT, or publish= too, or a beamline file")
    return f"{host}:{int(port) + 1}"


def _read_key(path: Union[str, os.PathLike[str], None]) -> Optional[Key]:
    if path is None:
        return None
    fields = _read_toml(pathlib.Path(path), "key file")
    try:
        public, secret, broker = (fields[name].encode() for name in ("public_key", "secret_key", "broker_key"))
        return Key(fields["name"], public, secret, broker)
    except (KeyError, AttributeError):  # never quotes the file: it holds a secret
        raise _bad(f"key file {path}: it has name, public_key, secret_key and broker_key, all texts") from None


def _read_toml(path: pathlib.Path, what: str) -> Dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise _bad(f"cannot read the {what} {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        reason = "" if what == "key file" else f": {error}"
        raise _bad(f"the {what} {path} is not TOML{reason}") from None


def _bad(message: str) -> EcsError:
    return EcsError(message, code="bad_parameter")

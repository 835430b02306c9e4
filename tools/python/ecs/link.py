"""The sockets of one connection. Only its I/O thread touches them.

L1  Nothing is queued for a broker that is not there (ZMQ_IMMEDIATE): a request that has timed out is never carried
    out later.
L2  Every connection that is made, broken or refused is seen on a monitor; the broker knows each by a new identity.
L3  With a key a connection is to that key's broker or to none.
"""

from __future__ import annotations

import enum
from typing import Any, List, Optional, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from .limits import (
    BODY_BYTES_MAX,
    CONNECT_INTERVAL_MAX_MS,
    CONNECT_INTERVAL_MS,
    CURVE_BYTES,
    LINGER_MS,
    LINK_HWM,
    PROBE_INTERVAL_MS,
    PROBE_TIMEOUT_MS,
    SUBSCRIBER_HWM,
)  # fmt: skip
from .place import Key, Place


class Event(enum.Enum):
    CONNECTED = "connected"
    BROKEN = "the connection broke"
    REFUSED = "the broker does not accept this key"
    NO_KEY = "the broker has keys and this side none, or the other way round"
    BROKEN_OFF = "the broker broke off the handshake, as one does that this key is not for"
    BROKEN_OFF_WITHOUT_KEY = "the broker broke off the handshake, as it does where the broker has keys and this side none"


_EVENTS = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: Event.CONNECTED,
    zmq.EVENT_DISCONNECTED: Event.BROKEN,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: Event.REFUSED,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Event.NO_KEY,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: Event.BROKEN_OFF,
}


def _configure(socket: zmq.Socket[bytes], hwm: int, key: Optional[Key]) -> None:
    socket.setsockopt(zmq.MAXMSGSIZE, BODY_BYTES_MAX + CURVE_BYTES)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, CONNECT_INTERVAL_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, CONNECT_INTERVAL_MAX_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, PROBE_INTERVAL_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, PROBE_TIMEOUT_MS)
    if key is not None:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = key.broker, key.public, key.secret


def receive(socket: zmq.Socket[bytes]) -> Optional[List[bytes]]:
    """A message that waits, or None."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


class Link:
    """The DEALER and its monitor."""

    def __init__(self, context: zmq.Context[Any], place: Place):
        self._has_key = place.key is not None
        self.socket = context.socket(zmq.DEALER)
        _configure(self.socket, LINK_HWM, place.key)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.monitor = self.socket.get_monitor_socket(sum(_EVENTS))
        self.socket.connect(place.requests)

    def send(self, parts: Sequence[bytes]) -> bool:
        """False when there is no connection or its queue is full."""
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK)
            return True
        except zmq.Again:
            return False

    def events(self) -> List[Event]:
        """What has happened to the connection since this was asked last."""
        seen = []
        while self.monitor.poll(0):
            event = _EVENTS[recv_monitor_message(self.monitor)["event"]]
            # Two answers to a side without a key are under way, and either may be the one that libzmq sees.
            is_without_key = event is Event.BROKEN_OFF and not self._has_key
            seen.append(Event.BROKEN_OFF_WITHOUT_KEY if is_without_key else event)
        return seen

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close()


def subscriber(context: zmq.Context[Any], place: Place, prefix: str) -> zmq.Socket[bytes]:
    """A SUB socket of its own for each subscription: one that shares a socket with another of the same prefix
    would not be sent the current values."""
    socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
    _configure(socket, SUBSCRIBER_HWM, place.key)
    socket.setsockopt(zmq.SUBSCRIBE, prefix.encode())
    socket.connect(place.publish)
    return socket

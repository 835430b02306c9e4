"""An agent's standing with the broker, on the I/O thread.

    off ──start──▶ greeting ──register──▶ registered ──leave──▶ left
                      ▲                       │
                      └── no connection, silence, or `not_registered`

G1  The gate is open while the agent is registered, so that nothing of it is sent as somebody else's.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Dict, Optional

from .connection import Connection
from .errors import EcsError
from .limits import AGENT_DEADLINE_S, BACKOFF_MAX_S, BACKOFF_MIN_S, LEAVE_PATIENCE_S

_log = logging.getLogger("ecs")
#: Refusals that asking again does not change.
_FINAL = frozenset(("bad_parameter", "forbidden", "unsupported_version", "bad_message", "conflict"))
#: A broker that is silent for so many of its own timeouts is connected to anew.
_SILENCE_TIMEOUTS = 2


class Registration:
    """``describe()`` makes what is said at each registration; after each, before anything that the broker asks next is
    heard, ``welcomed(reply)`` is called."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        describe: Callable[[], Dict[str, Any]],
        welcomed: Callable[[Dict[str, Any]], None],
    ):
        self._connection = connection
        self._name = name
        self._describe = describe
        self._welcomed = welcomed
        self.state = "starting"
        #: Why the broker did not take it, the last time; None while it has.
        self.refusal: Optional[EcsError] = None
        self.is_final = threading.Event()
        self.has_left = threading.Event()
        self._phase = "off"
        #: Rises with each attempt and loss: what belongs to an older one is void.
        self._epoch = 0
        self._pause = BACKOFF_MIN_S
        connection.on_connected.append(self._connected)
        connection.on_broken.append(self.lost)

    @property
    def is_registered(self) -> bool:
        return self._phase == "registered"

    def begin(self) -> None:
        self._connection.be_agent()
        self._phase = "greeting"
        broker = self._connection.place.requests
        self._connection.close_gate(f"{self._name} is not registered with the broker at {broker}")
        self._greet()

    def lost(self) -> None:
        """Begins again with registering."""
        if self._phase != "registered":
            return
        _log.warning("%s: %s; registering again", self._name, self._connection.problem)
        self._phase = "greeting"
        self._pause = BACKOFF_MIN_S
        self._connection.close_gate(f"{self._name} is not registered with the broker")
        self._greet()

    def set_state(self, state: str, told: Optional[Callable[[], None]] = None) -> None:
        """``told`` is called once the broker knows it, and all that was sent before it; not while it is away."""
        self.state = state
        if self._phase == "registered":
            self._beat(told)

    def leave(self) -> None:
        was_registered, self._phase = self._phase == "registered", "left"
        self._epoch += 1
        sent = was_registered and self._connection.ask_now(
            "agent.leave", {}, LEAVE_PATIENCE_S, lambda reply, error: self.has_left.set()
        )
        if not sent:
            self.has_left.set()

    def _connected(self) -> None:
        if self._phase == "greeting":
            self._pause = BACKOFF_MIN_S
            self._greet()

    def _greet(self) -> None:
        if self._phase != "greeting":
            return
        self._epoch += 1
        epoch = self._epoch
        fields = {**self._describe(), "state": self.state}
        sent = self._connection.ask_now(
            "agent.register", fields, AGENT_DEADLINE_S, lambda reply, error: self._answered(epoch, reply, error)
        )
        if not sent:
            self._greet_later(epoch)

    def _greet_later(self, epoch: int) -> None:
        again = lambda: self._greet() if epoch == self._epoch else None  # noqa: E731
        self._connection.call_at(time.monotonic() + self._pause, again)
        self._pause = min(2 * self._pause, BACKOFF_MAX_S)

    def _answered(self, epoch: int, reply: Any, error: Optional[EcsError]) -> None:
        if epoch != self._epoch or self._phase != "greeting":
            return
        if error is None:
            self._registered(epoch, reply)
            return
        if self.refusal is None or self.refusal.message != error.message:
            _log.warning("%s is not registered, trying again: %s", self._name, error)
        self.refusal = error
        self._connection.problem = f"{self._name} is not registered ({error.message})"
        if error.code in _FINAL:
            self.is_final.set()
        self._greet_later(epoch)

    def _registered(self, epoch: int, welcome: Dict[str, Any]) -> None:
        self._phase, self.refusal = "registered", None
        self._pause = BACKOFF_MIN_S
        _log.info("%s is registered", self._name)
        self._connection.open_gate()
        # First of all: whatever becomes of the rest, the agent lives.
        self._keep_beating(epoch, welcome["heartbeat_ms"] / 1000, welcome["timeout_ms"] / 1000)
        self._welcomed(welcome)

    def _keep_beating(self, epoch: int, interval_s: float, timeout_s: float) -> None:
        if epoch != self._epoch or self._phase != "registered":
            return
        if time.monotonic() - self._connection.heard > _SILENCE_TIMEOUTS * timeout_s:
            self._connection.reconnect("the broker is silent")
            return
        self._beat()
        again = lambda: self._keep_beating(epoch, interval_s, timeout_s)  # noqa: E731
        self._connection.call_at(time.monotonic() + interval_s, again)

    def _beat(self, told: Optional[Callable[[], None]] = None) -> None:
        def answered(reply: Any, error: Optional[EcsError]) -> None:
            if error is None and told is not None:
                told()
            if error is not None and error.code == "not_registered":
                self._connection.problem = "the broker does not know this agent (any more)"
                self.lost()

        self._connection.ask_now("agent.heartbeat", {"state": self.state}, AGENT_DEADLINE_S, answered)

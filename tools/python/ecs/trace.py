"""Which message led to which: what is sent while a message is handled carries that message's trace.

The current trace is a context variable: every handler thread has its own, and ``contextvars.copy_context`` hands it
on to threads that a handler starts itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import secrets
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Mapping, Optional


@dataclass(frozen=True)
class Trace:
    """Where a message belongs. Random numbers that are not 0; ``parent`` is 0 for none."""

    trace: int
    span: int
    parent: int = 0

    def wire(self) -> Dict[str, int]:
        return {"trace": self.trace, "span": self.span, "parent": self.parent}

    @property
    def id(self) -> int:
        """What ``client.trace`` takes."""
        return self.trace


_current: contextvars.ContextVar[Optional[Trace]] = contextvars.ContextVar("ecs_trace", default=None)


def _random_id() -> int:
    return secrets.randbits(63) + 1


def next_trace() -> Trace:
    """The place of a message that is sent now: in the current trace, else at the root of a new one."""
    current = _current.get()
    id = _random_id()
    return Trace(id, id) if current is None else Trace(current.trace, id, current.span)


def enter(wire: Optional[Mapping[str, Any]]) -> None:
    """What this thread sends from now on is because of the message with this trace."""
    _current.set(None if wire is None else Trace(wire["trace"], wire["span"], wire["parent"]))


@contextlib.contextmanager
def traced() -> Iterator[Trace]:
    """All that is asked inside belongs to one trace::

    with ecs.traced() as trace:
        client.set("x01/stage/x", 3)
        client.event("arm")
    print(client.trace(trace.id))
    """
    trace = next_trace()
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)

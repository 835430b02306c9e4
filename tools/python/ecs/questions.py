"""What the broker asks of an agent: events, calls, reads and writes, from the question to its answer.

    I/O thread ──take──▶ its lane, or any free thread ──handle──▶ answer ──▶ forgotten
                    └─cancel─▶ not begun: taken back, answered; under way: its context says so

# Rules
Q1  Every question is answered once, whatever its handler does: the broker counts a worker as busy until it hears of it.
Q2  Reads and writes of one item are done in their order, others beside each other.
Q3  What nobody waits for any more is not begun. *Why?* A device that hangs for a minute is not to be set afterwards to
    what was given up.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Mapping, NamedTuple

from . import envelope, trace
from .connection import Connection
from .errors import Busy, Cancelled, EcsError, EcsTimeout
from .handlers import Context, error_from
from .subsystem import Subsystem
from .workers import Workers

_log = logging.getLogger("ecs")


class _Question(NamedTuple):
    header: Dict[str, Any]
    context: Context
    #: Has it not done if it waits for the one before it; True if so.
    take_back: Callable[[], bool]


class Questions:
    """Its functions are for the I/O thread; handlers run on those of ``workers``."""

    def __init__(self, agent: str, connection: Connection, workers: Workers, subsystems: Mapping[str, Subsystem]):
        self._agent = agent
        self._connection = connection
        self._workers = workers
        self._subsystems = subsystems
        #: Those that have no answer yet, by the broker's id.
        self.open: Dict[int, _Question] = {}

    def take(self, header: Dict[str, Any], body: bytes) -> None:
        """An event, a call, a read or a write."""
        kind, id = header["kind"], header["id"]
        try:
            fields = envelope.decode(kind, body)
            subsystem = self._subsystems.get(fields["subsystem"])
            if subsystem is None:
                raise EcsError(f"{self._agent} does not host {fields['subsystem']}", code="not_handled")
        except EcsError as error:
            self._connection.answer(header, None, error)
            return
        subject = fields.get("event") or fields.get("call") or fields["item"]
        context = self._context(header, subject, fields)

        def handle() -> None:
            try:
                self._handle(header, subsystem, context, fields)
            finally:
                self._connection.post(lambda: self._forget(id, question), at_once=True)

        lane = (subsystem.name, subject) if kind in ("kv.read", "kv.write") else None  # rule Q2
        question = _Question(header, context, lambda: self._workers.take_back(handle, lane))
        self.open[id] = question
        if not self._workers.run(handle, lane):
            self._forget(id, question)
            self._connection.answer(header, None, Busy(f"{self._agent} has too much to do already"))

    def cancel(self, header: Dict[str, Any], id: int) -> None:
        """The caller wants no more of it."""
        if id in self.open:
            self._cancel(id)
            return
        # The question was lost on the way, or has its answer: the broker hears so (rule 6 of `exchange.md`).
        self._connection.answer({**header, "id": id}, None, Cancelled(f"{self._agent} does not have question {id}"))

    def cancel_until(self, last: int) -> None:
        """Whoever asked the questions with an id up to ``last`` has died."""
        for id in [id for id in self.open if id <= last]:
            self._cancel(id)

    def _cancel(self, id: int) -> None:
        question = self.open[id]
        question.context.cancel()
        if question.take_back():  # rule Q3; and what waits for a device that hangs takes no room
            self._forget(id, question)
            error = Cancelled(f"{question.context.name}: cancelled before it was begun")
            self._connection.answer(question.header, None, error)

    def _forget(self, id: int, question: _Question) -> None:
        if self.open.get(id) is question:
            del self.open[id]

    def _context(self, header: Dict[str, Any], subject: str, fields: Mapping[str, Any]) -> Context:
        def tell(value: Any) -> None:
            self._connection.notice("exchange.feedback", {"id": header["id"], "value": value})

        trace_id = (header["trace"] or {}).get("trace", 0)
        deadline_s = (header["deadline_ms"] or 0) / 1000
        return Context(subject, fields["subsystem"], fields["by"], trace_id, deadline_s, tell)

    def _handle(
        self, header: Dict[str, Any], subsystem: Subsystem, context: Context, fields: Mapping[str, Any]
    ) -> None:
        """On a handler's thread."""
        trace.enter(header["trace"])
        reply, error = None, None
        try:
            context.check_cancelled()  # rule Q3
            reply = {"value": _result(header["kind"], subsystem, context, fields)}
        except BaseException as raised:  # rule Q1
            if not isinstance(raised, EcsError):
                _log.exception("%s: the handler of %s raised", subsystem.name, context.name)
            error = error_from(raised, f"{subsystem.name} {context.name}")
        finally:
            trace.enter(None)
        self._connection.answer(header, reply, error)


def _result(kind: str, subsystem: Subsystem, context: Context, fields: Mapping[str, Any]) -> Any:
    if not subsystem.wait_live(context.seconds_left):
        raise EcsTimeout(f"{subsystem.name} has not begun yet")
    if kind == "kv.read":
        return subsystem.read_by_others(fields["item"])
    if kind == "kv.write":
        return subsystem.written_by_others(fields["item"], fields["value"])
    what = kind.split(".")[0]
    return subsystem.handler(what, fields[what]).run(context, fields["params"])

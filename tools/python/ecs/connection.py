"""One connection to the broker: the I/O thread, requests and their one end each.

    any thread ──post──▶ inbox ──▶ I/O thread ──▶ outbox ──(gate)──▶ DEALER ──▶ broker
                                       ▲                                          │
    futures, callbacks (workers) ◀─────┴──────────────────────────────────────────┘

# Rules
C1  Only the I/O thread touches sockets, pending requests and timers; others hand it functions.
C2  Every request ends once: with its answer, an error, EcsTimeout at its deadline, or Disconnected. Answers are
    matched by id, and an id is never used twice: a late answer is dropped.
C3  A request that only asks, or that has a key, is sent again after a broken connection. Another one ends as
    Disconnected: it may have been carried out.
C4  The gate is open while there is a connection; for an agent, while it is registered.
C5  No code of a user runs on the I/O thread, and nothing that it meets ends it.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import math
import socket as sockets
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import zmq

from . import envelope
from .errors import BadMessage, Disconnected, EcsError, EcsTimeout, error_of
from .future import Future
from .limits import (
    CALLBACK_THREADS_MAX,
    DEADLINE_MAX_S,
    LATE_GRACE_S,
    LINGER_MS,
    RECEIVE_BURST,
    WAITING_MAX,
)  # fmt: skip
from .link import Event, Link, receive, subscriber
from .place import Place
from .trace import Trace, next_trace
from .workers import Workers

_log = logging.getLogger("ecs")

#: Rule C3.
_SENT_AGAIN = frozenset(
    "status.get subsystem.list subsystem.get kv.get kv.list kv.watch kv.unwatch alarm.list trace.get job.get job.list "
    "job.submit job.cancel".split()
)
_POLL_MAX_S = 1.0


#: What a message says, or that as bytes already.
Fields = Union[Mapping[str, Any], bytes]


class _Pending:
    """A request that has not ended."""

    __slots__ = ("convert", "deadline", "feedback", "fields", "future", "id", "kind", "result", "sent", "trace")

    def __init__(self, id: int, kind: str, fields: bytes, future: Future, deadline: float, trace: Trace, convert: Any):
        self.id, self.kind, self.fields, self.future = id, kind, fields, future
        self.deadline, self.trace, self.convert = deadline, trace, convert
        self.sent = False
        self.feedback: Optional[Callable[[str, Any], None]] = None
        self.result: Optional[Callable[[Any], None]] = None


class _Outgoing(NamedTuple):
    """A message that is to leave: a request, whose bytes are made then, or parts."""

    pending: Optional[_Pending]
    parts: Sequence[bytes] = ()


class _Timer(NamedTuple):
    """Something to do at a time of the monotonic clock; the number keeps the order of equal times."""

    when: float
    number: int
    task: Callable[[], None]
    #: The request that it ends, if it is for one.
    request: Optional[_Pending]


class Connection:
    """See the module's header. ``on_notice`` gets what is no answer; it and the hooks run on the I/O thread."""

    def __init__(self, place: Place, name: str, timeout: float):
        self.place = place
        self.timeout = timeout
        self.callbacks = Workers(f"{name}-callback", CALLBACK_THREADS_MAX)
        self.on_connected: List[Callable[[], None]] = []
        self.on_broken: List[Callable[[], None]] = []
        #: What is called when the connection is closed, by whoever wants that.
        self.on_closed: Dict[object, Callable[[], None]] = {}
        self.on_notice: Callable[[Dict[str, Any], bytes], None] = lambda header, body: None
        self._problem = f"no connection to the broker at {place.requests}"
        #: Answers that nobody waited for any more, and messages that the broker had to drop.
        self.late_answers = 0
        #: When the broker was heard last.
        self.heard = time.monotonic()
        self.lost = 0
        self._lost_before = 0  # over connections before this one: the broker counts anew for each
        #: Why the last handshake failed; None since one went well. libzmq closes the connection then, and tells that
        #: too: it is not the reason.
        self._refusal: Optional[Event] = None
        self._is_agent = False
        self._gate_open = False
        self._ids = itertools.count(1)
        self._pending: Dict[int, _Pending] = {}
        self._inbox: Deque[Callable[[], None]] = deque()
        self._inbox_room = threading.Condition()
        self._outbox: Deque[_Outgoing] = deque()
        self._timers: List[_Timer] = []
        self._timer_numbers = itertools.count()
        self._subscribers: Dict[zmq.Socket[bytes], Callable[[List[bytes]], None]] = {}
        self._closing = False
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._context = zmq.Context()
        self._link = Link(self._context, place)  # used by the I/O thread alone from here on
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        atexit.register(self.close)

    # ---- For any thread ----

    def post(self, task: Callable[[], None], until: float = math.inf, at_once: bool = False) -> bool:
        """Has the I/O thread do something. Waits while too much waits already, not with ``at_once``: that is for what
        ends or forgets something. False if it waited for too long."""
        with self._inbox_room:
            if not at_once and threading.current_thread() is not self._thread:
                has_room = lambda: len(self._inbox) + len(self._outbox) < WAITING_MAX or self._closing  # noqa: E731
                patience = None if until == math.inf else max(0.0, until - time.monotonic())
                if not self._inbox_room.wait_for(has_room, patience):
                    return False
            if self._closing:
                raise Disconnected("this client is closed")
            self._inbox.append(task)
        self._wake()
        return True

    def request(
        self,
        kind: str,
        fields: Fields,
        subject: str = "",
        timeout: Optional[float] = None,
        convert: Optional[Callable[[Any], Any]] = None,
        feedback: Optional[Callable[[str, Any], None]] = None,
        result: Optional[Callable[[Any], None]] = None,
    ) -> Future:
        """Asks the broker. ``subject`` names what it is about in errors; ``convert`` makes the result of the reply's
        fields, and of ``trace_id``."""
        timeout = self.timeout if timeout is None else timeout
        if not 0 < timeout < math.inf:
            raise EcsError(f"timeout = {timeout}; seconds, more than 0", code="bad_parameter")
        deadline = time.monotonic() + min(timeout, DEADLINE_MAX_S)
        id, trace = next(self._ids), next_trace()
        body = fields if isinstance(fields, bytes) else envelope.encode(kind, fields)
        cancel = lambda: self.post(lambda: self._cancel(id), at_once=True)  # noqa: E731
        future = Future(f"{kind} {subject}".strip(), trace.trace, self.callbacks, cancel)
        pending = _Pending(id, kind, body, future, deadline, trace, convert)
        pending.feedback, pending.result = feedback, result
        if not self.post(lambda: self._begin(pending), deadline):
            much = f"{self.problem}, and {WAITING_MAX} messages wait for it: {future.subject} was not sent"
            future.set_exception(EcsTimeout(much, trace_id=trace.trace))
        return future

    def notice(self, kind: str, fields: Fields) -> None:
        """Tells the broker; dropped while the gate is closed."""
        parts = self._message(kind, 0, fields, next_trace())
        self.post(lambda: self._send_notice(parts))

    def answer(
        self,
        asked: Mapping[str, Any],
        fields: Optional[Mapping[str, Any]],
        error: Optional[EcsError],
    ) -> None:
        """Answers a request of the broker's."""
        trace = asked["trace"]
        if error is None:
            kind = f"{asked['kind']}.reply"
            try:
                body = envelope.encode(kind, fields)
            except BadMessage as unsendable:
                error = unsendable
        if error is not None:
            kind, body = "error", envelope.encode("error", error.failure())
        header = envelope.header(kind, asked["id"], trace=trace)
        parts = (envelope.encode("header", header), body)
        self.post(lambda: self._outbox.append(_Outgoing(None, parts)))

    def close(self) -> None:
        """Ends the connection; what is open ends as Disconnected."""
        atexit.unregister(self.close)
        with self._inbox_room:
            if self._closing:
                return
            self._closing = True
            self._inbox_room.notify_all()
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(LATE_GRACE_S + 2.0)
        self.callbacks.close()

    @property
    def problem(self) -> str:
        """Why the gate is closed, for a person."""
        if self._refusal is not None:
            return f"no connection to the broker: {self._refusal.value} ({self.place.requests})"
        return self._problem

    @problem.setter
    def problem(self, problem: str) -> None:
        self._problem = problem

    @property
    def is_closed(self) -> bool:
        return self._closing

    # ---- For the I/O thread ----

    def guarded(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Does it; an error is logged (rule C5)."""
        try:
            work(*arguments)
        except Exception:
            _log.exception("%s: the I/O thread goes on after an error", self._thread.name)

    def call_at(self, when: float, task: Callable[[], None]) -> None:
        heapq.heappush(self._timers, _Timer(when, next(self._timer_numbers), task, None))

    def _expire_at(self, when: float, pending: _Pending) -> None:
        timer = _Timer(when, next(self._timer_numbers), lambda: self._expire(pending), pending)
        heapq.heappush(self._timers, timer)

    def open_gate(self) -> None:
        self._gate_open = True

    def close_gate(self, problem: str) -> None:
        self._gate_open = False
        self.problem = problem

    @property
    def is_gate_open(self) -> bool:
        return self._gate_open

    def be_agent(self) -> None:
        """The gate is not opened by the connection alone (rule C4)."""
        self._is_agent = True

    def ask_now(
        self,
        kind: str,
        fields: Fields,
        timeout: float,
        done: Callable[[Any, Optional[EcsError]], None],
    ) -> bool:
        """A request past the gate. ``done`` runs on the I/O thread. False when it could not be sent."""
        id = next(self._ids)
        parts = self._message(kind, id, fields, next_trace(), int(timeout * 1000))
        self._flush()  # it does not overtake what was sent before
        if not self._link.send(parts):
            return False
        future = Future(kind, 0, self.callbacks, lambda: None)
        pending = _Pending(id, kind, b"", future, time.monotonic() + timeout, Trace(0, 0), None)
        pending.sent = True
        self._pending[id] = pending
        future.at_end(lambda ended: done(None, ended.exception()) if ended.exception() else done(ended.result(), None))
        self._expire_at(pending.deadline + LATE_GRACE_S, pending)
        return True

    def add_subscriber(self, prefix: str, on_message: Callable[[List[bytes]], None]) -> zmq.Socket[bytes]:
        socket = subscriber(self._context, self.place, prefix)
        self._subscribers[socket] = on_message
        return socket

    def remove_subscriber(self, socket: zmq.Socket[bytes]) -> None:
        if self._subscribers.pop(socket, None) is not None:
            socket.close(0)

    def send_now(self, kind: str, fields: Fields) -> None:
        """A notice from the I/O thread itself."""
        self._send_notice(self._message(kind, 0, fields, next_trace()))

    def reconnect(self, why: str) -> None:
        """Makes the connection anew: the broker has been silent for too long."""
        self._link.close()
        self._link = Link(self._context, self.place)
        self._broken(why)

    def _message(
        self, kind: str, id: int, fields: Fields, trace: Trace, deadline_ms: Optional[int] = None
    ) -> Tuple[bytes, bytes]:
        body = fields if isinstance(fields, bytes) else envelope.encode(kind, fields)
        header = envelope.header(kind, id, deadline_ms=deadline_ms, trace=trace.wire())
        return envelope.encode("header", header), body

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except (BlockingIOError, OSError):
            pass  # it is awake, or has ended

    def _begin(self, pending: _Pending) -> None:
        self._pending[pending.id] = pending
        self._outbox.append(_Outgoing(pending))
        self._expire_at(pending.deadline, pending)

    def _send_notice(self, parts: Sequence[bytes]) -> None:
        if self._gate_open:
            self._outbox.append(_Outgoing(None, parts))

    def _cancel(self, id: int) -> None:
        pending = self._pending.get(id)
        if pending is None:
            return
        if pending.sent:
            parts = self._message("exchange.cancel", 0, {"id": id}, pending.trace)
            self._outbox.append(_Outgoing(None, parts))
        else:
            self._end(pending, error=error_of({"code": "cancelled", "message": f"{pending.future.subject}: cancelled"}))

    def _expire(self, pending: _Pending) -> None:
        if self._pending.get(pending.id) is not pending:
            return
        if pending.sent and time.monotonic() < pending.deadline + LATE_GRACE_S:
            self._expire_at(pending.deadline + LATE_GRACE_S, pending)
            return
        subject = pending.future.subject
        if pending.sent:
            message = f"the broker at {self.place.requests} did not answer in time: {subject}"
        else:
            message = f"{self.problem}: {subject} was not sent"
        self._end(pending, error=EcsTimeout(message, trace_id=pending.trace.trace))

    def _end(self, pending: _Pending, reply: Any = None, error: Optional[BaseException] = None) -> None:
        self._pending.pop(pending.id, None)
        if not pending.sent:
            self._leave_outbox(pending)
        if error is None and pending.convert is not None:
            try:
                reply = pending.convert({**reply, "trace_id": pending.trace.trace})
            except Exception as wrong:
                error = wrong
        if error is None:
            pending.future.set_result(reply)
        else:
            pending.future.set_exception(error)

    def _leave_outbox(self, pending: _Pending) -> None:
        """What has ended unsent makes room, and its bytes are kept no longer. It is mostly the first."""
        try:
            self._outbox.remove(_Outgoing(pending))
        except ValueError:
            pass  # its turn came at the very end of its time

    def _run(self) -> None:
        while not self._closing:
            self.guarded(self._step)
        self._finish()

    def _step(self) -> None:
        self._wait()
        self.guarded(self._receive)
        for event in self._link.events():
            self._note(event)
        self._take_inbox()
        self._run_timers()
        self._flush()
        with self._inbox_room:
            self._inbox_room.notify_all()

    def _wait(self) -> None:
        poller = zmq.Poller()
        can_send = self._outbox and self._gate_open
        poller.register(self._link.socket, zmq.POLLIN | (zmq.POLLOUT if can_send else 0))
        poller.register(self._link.monitor, zmq.POLLIN)
        poller.register(self._wake_out, zmq.POLLIN)
        for socket in self._subscribers:
            poller.register(socket, zmq.POLLIN)
        patience = self._timers[0].when - time.monotonic() if self._timers else _POLL_MAX_S
        poller.poll(math.ceil(1000 * min(max(patience, 0.0), _POLL_MAX_S)))
        try:
            while len(self._wake_out.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _receive(self) -> None:
        for _ in range(RECEIVE_BURST):
            parts = receive(self._link.socket)
            if parts is None:
                break
            self.guarded(self._received, parts)
        for socket, on_message in list(self._subscribers.items()):
            for _ in range(RECEIVE_BURST):
                parts = receive(socket)
                if parts is None:
                    break
                self.guarded(on_message, parts)

    def _received(self, parts: List[bytes]) -> None:
        if len(parts) != 2:
            _log.warning("a message of %d parts; dropped", len(parts))
            return
        header = envelope.decode("header", parts[0])
        self.heard = time.monotonic()
        self.lost = max(self.lost, self._lost_before + header["lost"])
        kind, id = header["kind"], header["id"]
        if kind == "error" or kind.endswith(".reply"):
            self._answered(header, parts[1])
        elif kind in ("exchange.feedback", "exchange.result") and id == 0:
            self._progressed(kind, parts[1])
        else:
            self.on_notice(header, parts[1])

    def _answered(self, header: Dict[str, Any], body: bytes) -> None:
        pending = self._pending.get(header["id"])
        if pending is None:
            if header["id"] == 0:
                self._notice_refused(body)
            else:
                self.late_answers += 1  # rule C2
            return
        try:
            if header["kind"] == "error":
                self._end(pending, error=error_of(envelope.decode("error", body), pending.trace.trace))
            else:
                self._end(pending, envelope.decode(f"{pending.kind}.reply", body))
        except EcsError as unreadable:
            self._end(pending, error=unreadable)

    def _notice_refused(self, body: bytes) -> None:
        error = error_of(envelope.decode("error", body))
        _log.error("the broker refused a message: %s", error)
        if error.code == "not_registered":
            self._broken("the broker does not know this agent (any more)", is_connected=True)

    def _progressed(self, kind: str, body: bytes) -> None:
        fields = envelope.decode(kind, body)
        pending = self._pending.get(fields["id"])
        if pending is None:
            return
        if kind == "exchange.result" and pending.result is not None:
            result = pending.result
            self.callbacks.run(lambda: result(fields), lane=pending)
        elif kind == "exchange.feedback" and pending.feedback is not None:
            feedback = pending.feedback
            self.callbacks.run(lambda: feedback(fields["target"], fields["value"]), lane=pending)

    def _note(self, event: Event) -> None:
        if event is Event.CONNECTED:
            self._refusal = None
            self._lost_before = self.lost
            if not self._is_agent:
                self._gate_open = True
            for hook in self.on_connected:
                self.guarded(hook)
        else:
            if event is not Event.BROKEN:
                self._refusal = event
            self._broken(f"{event.value} ({self.place.requests})")

    def _broken(self, why: str, is_connected: bool = False) -> None:
        """What was sent is not answered any more (rule C3)."""
        if not is_connected:
            self.close_gate(f"no connection to the broker: {why}")
            for pending in [pending for pending in self._pending.values() if pending.sent]:
                if pending.kind in _SENT_AGAIN:
                    pending.sent = False
                    self._outbox.append(_Outgoing(pending))
                else:
                    message = f"{why} before {pending.future.subject} was answered; it may have been carried out"
                    self._end(pending, error=Disconnected(message, trace_id=pending.trace.trace))
        for hook in self.on_broken:
            self.guarded(hook)

    def _take_inbox(self) -> None:
        """All of it: what was asked has its time running (rule C2)."""
        while self._inbox:
            self.guarded(self._inbox.popleft())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].when <= now:
            self.guarded(heapq.heappop(self._timers).task)
        # Timers of requests that have ended long before their deadline must not pile up.
        if len(self._timers) > 4 * len(self._pending) + 1024:
            self._timers = [timer for timer in self._timers if not self._is_stale(timer)]
            heapq.heapify(self._timers)

    def _is_stale(self, timer: _Timer) -> bool:
        return timer.request is not None and self._pending.get(timer.request.id) is not timer.request

    def _flush(self) -> None:
        while self._outbox and self._gate_open:
            pending, parts = self._outbox[0]
            if pending is not None:
                rest = pending.deadline - time.monotonic()
                if self._pending.get(pending.id) is not pending or rest <= 0:
                    self._outbox.popleft()  # it has ended, or ends now
                    continue
                deadline_ms = max(1, round(rest * 1000))
                parts = self._message(pending.kind, pending.id, pending.fields, pending.trace, deadline_ms)
            if not self._link.send(parts):
                return  # the poll says when there is room
            self._outbox.popleft()
            if pending is not None:
                pending.sent = True

    def _finish(self) -> None:
        self._take_inbox()  # nothing comes after it: whoever posts is told so
        self.guarded(self._flush)
        self._outbox.clear()
        for hook in list(self.on_closed.values()):
            self.guarded(hook)
        for pending in list(self._pending.values()):
            self._end(pending, error=Disconnected(f"closed before {pending.future.subject} was answered"))
        for socket in list(self._subscribers):
            self.remove_subscriber(socket)
        self.guarded(self._link.close)
        self._wake_in.close()
        self._wake_out.close()
        self._context.destroy(LINGER_MS)

"""A process that hosts subsystems, answers for them, and does jobs.

    I/O thread   registration, heartbeats, what the broker asks ──▶ handler threads ──▶ answers
                                                                    one for each event, call, job;
                                                                    reads and writes of one item in their order

An agent is a client too: what it asks, the broker knows as its own.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from secrets import randbits
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from . import envelope, place
from .client import Client
from .connection import Fields
from .errors import BadMessage, Busy, Cancelled, Disconnected, EcsError, EcsTimeout, NotFound
from .future import Future
from .handlers import Handler
from .job import RunningJob, Service, shortened
from .limits import (
    AGENT_DEADLINE_S,
    HANDLER_THREADS_MAX,
    LEAVE_PATIENCE_S,
    REPEAT_INTERVAL_S,
    TIMEOUT_DEFAULT_S,
)  # fmt: skip
from .questions import Questions
from .registration import Registration
from .subsystem import Item, Subsystem, check_description, check_part
from .values import to_wire
from .workers import Workers

_log = logging.getLogger("ecs")
F = TypeVar("F", bound=Callable[..., Any])
_ASKS = frozenset(("event.run", "call.run", "kv.read", "kv.write"))
#: Answers to a job's report, or to a kept value, that mean: later (``schemas/spec/job.md``, rule 7; ``kv.md``, rule 4).
_LATER = frozenset(("not_registered", "store_failed", "busy", "forbidden", "timeout", "disconnected"))
VERSION = "0.1.0"


class Agent(Client):
    """``agent = ecs.Agent("x01/vacuum", "beamline.toml")``; describe what it hosts, then :meth:`start` or
    :meth:`run`, or use it in a ``with``.

    It registers again by itself, with all that it has described and its last values, whenever the broker or the
    connection has gone away.
    """

    def __init__(
        self,
        name: str,
        where: Union[str, os.PathLike[str], None] = None,
        *,
        publish: Optional[str] = None,
        key: Union[str, os.PathLike[str], None] = None,
        kind: str = "python",
        version: str = VERSION,
        timeout: float = TIMEOUT_DEFAULT_S,
    ):
        self.name = name
        self._about = {
            "name": name, "kind": kind, "host": socket.gethostname(), "pid": os.getpid(), "version": version,
            "instance": randbits(64),
        }  # fmt: skip
        check_description("agent.register", {**self._about, "state": "starting"}, f"agent {name!r}")
        self._lock = threading.Lock()
        self._subsystems: Dict[str, Subsystem] = {}
        self._services: Dict[str, Service] = {}
        self._handlers = Workers(f"{name}-handler", HANDLER_THREADS_MAX)
        self._started = threading.Event()
        self._stopping = threading.Event()
        # Used by the I/O thread alone.
        self._jobs: Dict[int, RunningJob] = {}
        #: Each subsystem that was described, and the version of its description: another one may have its name later.
        self._described: Dict[str, Tuple[Subsystem, int]] = {}
        #: Number of the newest value of each item with ``persist`` that the broker does not have on its disk yet.
        self._unkept: Dict[Tuple[str, str], int] = {}
        self._last_kept = 0
        self._wanted_state = "ready"
        super().__init__(place.find(where, publish, key), timeout, name)
        self._questions = Questions(name, self._connection, self._handlers, self._subsystems)
        self._registration = Registration(self._connection, name, self._introduce, self._welcomed)

    # ---- Describing ----

    def subsystem(self, name: str, help: str = "", *, uuid: Optional[str] = None, temporary: bool = False) -> Subsystem:
        """A subsystem that this agent hosts, by its full name; the agent's own name is allowed. A ``temporary`` one
        is forgotten when the agent goes."""
        subsystem = Subsystem(self, name, help, uuid, temporary)
        with self._lock:
            if name in self._subsystems:
                raise EcsError(f"subsystem {name!r} is there already", code="conflict")
            self._subsystems[name] = subsystem
        self.description_changed(subsystem)
        return subsystem

    def service(
        self,
        name: str,
        *,
        jobs_at_once: int = 1,
        follows: Optional[str] = None,
        on_kill: Optional[Callable[[RunningJob], None]] = None,
        help: Optional[str] = None,
    ) -> Callable[[F], F]:
        """Decorates what does jobs; before :meth:`start`. The function's parameters are the job's, by name; one that
        is called ``job`` is the :class:`~ecs.RunningJob`.

        What it returns is the result. ``raise ecs.Refuse(…)`` before ``job.accept()`` rejects the job; another
        exception fails it; ``ecs.Cancelled`` ends it as cancelled. ``on_kill(job)`` is called on a thread of its own
        when the job is to end, beside ``job.cancelled``.
        """
        check_part("service", name)

        def decorate(function: F) -> F:
            if self._registration.state != "starting" or self._started.is_set():
                raise EcsError(f"service {name!r}: services are named before start()", code="conflict")
            service = Service(Handler(name, function, help), jobs_at_once, follows, on_kill)
            check_description("offer", service.wire(), f"service {name!r}")
            before = self._services.get(name)
            service.handler.check_takes_the_place_of(before and before.handler, f"the service {name!r}")
            self._services[name] = service
            return function

        return decorate

    def remove_subsystem(self, subsystem: Subsystem) -> None:
        with self._lock:
            if self._subsystems.get(subsystem.name) is not subsystem:
                raise NotFound(f"{subsystem.name} is not hosted here", code="no_such_subsystem")
            del self._subsystems[subsystem.name]
        if self._started.is_set():
            self._ask("subsystem.remove", {"name": subsystem.name}, subsystem.name, None, lambda reply: None)

    # ---- Life ----

    def start(self, timeout: float = 10.0, ready: bool = True) -> None:
        """Registers, gives kept values back, publishes the values that there are, and returns then.

        With ``ready=False`` it stays `starting` until :meth:`ready`. Raises what the broker refuses it with: a name
        that somebody else holds for the whole ``timeout``, a name that is none; :class:`~ecs.EcsTimeout` if there is
        no broker. It is closed then.
        """
        self._wanted_state = "ready" if ready else "starting"
        self._connection.post(self._registration.begin)
        until = time.monotonic() + timeout
        while not self._started.wait(0.02):
            registration = self._registration
            if self._connection.is_closed:
                raise Disconnected(f"{self.name}: closed before it was registered")
            is_late = time.monotonic() >= until
            if registration.is_final.is_set() or is_late:
                refusal = registration.refusal or EcsTimeout(self._why_not_started(timeout))
                self.close()
                raise refusal

    def _why_not_started(self, timeout: float) -> str:
        slow = [its.name for its in list(self._subsystems.values()) if not its.is_live]
        if self._registration.is_registered and slow:
            return f"{self.name} is registered, but on_restore of {', '.join(slow)} took longer than {timeout} s"
        return f"{self.name}: {self._connection.problem}"

    def ready(self, is_ready: bool = True) -> None:
        """Says whether it can do its work."""
        self._wanted_state = "ready" if is_ready else "starting"
        self._connection.post(lambda: self._registration.set_state(self._wanted_state))

    def run(self) -> None:
        """Starts, and returns after SIGINT, SIGTERM or :meth:`close`, having taken its leave."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self._stopping.set())
        with self:
            while not self._stopping.wait(3600):
                pass

    def __enter__(self) -> Agent:
        if not self._started.is_set():
            self.start()
        return self

    def close(self, grace: float = 5.0) -> None:
        """Takes its leave: running jobs are told to end, handlers have ``grace`` seconds, then the connection ends."""
        if self._connection.is_closed:
            return
        self._stopping.set()
        self._connection.post(self._kill_all, at_once=True)
        until = time.monotonic() + (grace if self._started.is_set() else 0.0)
        self._handlers.wait_idle(max(0.0, until - time.monotonic()))
        while self._jobs and time.monotonic() < until:
            time.sleep(0.01)  # their last reports are answered
        self._connection.post(self._registration.leave, at_once=True)
        self._registration.has_left.wait(LEAVE_PATIENCE_S)
        super().close()
        self._handlers.close()

    # ---- Telling ----

    def telemetry(self, values: Mapping[str, Any]) -> None:
        """The agent's figures now, published under ``<name>/telemetry``. Rates end in their unit: ``images_per_s``."""
        self.tell("telemetry", {"values": {name: to_wire(value, name) for name, value in values.items()}})

    def publish(self, item: str, value: Any, timeout: Optional[float] = None) -> int:
        """Publishes an item, whether described here or not, and returns its revision; for what has no
        :class:`~ecs.Subsystem`."""
        subsystem, _, name = item.rpartition("/")
        fields = {"subsystem": subsystem, "item": name, "value": to_wire(value, item)}
        revision: int = self.publish_later(item, fields, timeout).result()
        return revision

    def publish_later(self, item: str, publication: Fields, timeout: Optional[float]) -> Future:
        revision = lambda reply: reply["revision"]  # noqa: E731
        return self._connection.request("kv.publish", publication, item, timeout, revision)

    def tell(self, kind: str, fields: Fields) -> None:
        """A notice; left out while there is no broker, since the last values are told when it comes."""
        self._connection.notice(kind, fields)

    def tell_kept(self, subsystem: str, item: str, publication: Fields) -> None:
        """As :meth:`tell`, of an item with ``persist``: told again until the broker has it on its disk, or a newer one
        takes its place."""
        self._connection.post(lambda: self._keep(subsystem, item, publication))

    def tell_alarm(self, kind: str, fields: Mapping[str, Any]) -> None:
        if self._started.is_set():
            self._connection.post(lambda: self._tell_alarm(kind, fields))

    def description_changed(self, subsystem: Subsystem) -> None:
        if self._started.is_set():
            self._connection.post(lambda: self._describe(subsystem))

    # ---- For jobs, from any thread ----

    def later(self, seconds: float, task: Callable[[], None]) -> None:
        self._connection.post(lambda: self._connection.call_at(time.monotonic() + seconds, task))

    def tell_now(self, kind: str, fields: Fields) -> None:
        self._connection.send_now(kind, fields)

    def report(self, job: RunningJob, report: Dict[str, Any]) -> None:
        def add() -> None:
            job.reports.append(report)
            self._send_report(job)

        self._connection.post(add)

    # ---- On the I/O thread: registration ----

    def _introduce(self) -> Dict[str, Any]:
        with self._lock:
            subsystems = list(self._subsystems.values())
        described = []
        for subsystem in subsystems:
            fields, version = subsystem.describe()
            self._described[subsystem.name] = (subsystem, version)
            described.append(fields)
        services = [its.wire() for its in self._services.values()]
        return {**self._about, "services": services, "jobs": sorted(self._jobs), "subsystems": described}

    def _welcomed(self, welcome: Dict[str, Any]) -> None:
        self._questions.cancel_until(welcome["started_ns"])  # rule 4 of registry.md
        fresh = []
        for described in welcome["subsystems"]:
            subsystem = self._subsystems.get(described["name"])
            if subsystem is None:
                continue
            if not subsystem.is_live:
                fresh.append((subsystem, subsystem.restore(described["restored"])))
                continue
            for item in subsystem.published():
                self._connection.guarded(self._tell_again, subsystem, item)
        for subsystem in list(self._subsystems.values()):
            if self._described.get(subsystem.name) != (subsystem, subsystem.version):
                self._connection.guarded(self._describe, subsystem)  # changed while it was registering
        for job in list(self._jobs.values()):
            self._connection.guarded(self._send_report, job)
        self._handlers.run(lambda: self._go_live(fresh))

    def _tell_again(self, subsystem: Subsystem, item: Item) -> None:
        fields = subsystem.publication(item.name, item.value)
        if item.flags["persist"]:
            self._keep(subsystem.name, item.name, fields)
        else:
            self.tell_now("kv.publish", fields)

    def _go_live(self, fresh: Sequence[Any]) -> None:
        """On a handler's thread: what runs here is the user's."""
        for subsystem, restored in fresh:
            try:
                subsystem.go_live(restored)
            except Exception:
                _log.exception("%s: on_restore raised", subsystem.name)
                subsystem.go_live([])
        if not self._started.is_set():
            self._connection.post(lambda: self._registration.set_state(self._wanted_state, self._started.set))

    def _describe(self, subsystem: Subsystem) -> None:
        if not self._registration.is_registered or self._subsystems.get(subsystem.name) is not subsystem:
            return
        fields, version = subsystem.describe()
        if self._described.get(subsystem.name) == (subsystem, version):
            return
        self._described[subsystem.name] = (subsystem, version)

        def answered(reply: Any, error: Optional[EcsError]) -> None:
            if error is not None:
                _log.error("%s is not described: %s", subsystem.name, error)
            elif not subsystem.is_live:
                restored = subsystem.restore(reply["restored"])
                self._handlers.run(lambda: self._go_live([(subsystem, restored)]))

        self._connection.ask_now("subsystem.describe", {"description": fields}, AGENT_DEADLINE_S, answered)

    def _keep(self, subsystem: str, item: str, publication: Fields) -> None:
        self._last_kept += 1
        self._unkept[subsystem, item] = self._last_kept
        self._send_kept((subsystem, item), publication, self._last_kept)

    def _send_kept(self, path: Tuple[str, str], publication: Fields, number: int) -> None:
        if self._unkept.get(path) != number or not self._registration.is_registered:
            return  # there is a newer one; or the last value is told when it registers

        def again() -> None:
            self._connection.call_at(
                time.monotonic() + REPEAT_INTERVAL_S, lambda: self._send_kept(path, publication, number)
            )

        def answered(reply: Any, error: Optional[EcsError]) -> None:
            if error is not None and error.code in _LATER:
                if error.code == "not_registered":
                    self._registration.lost()
                again()
                return
            if self._unkept.get(path) == number:
                del self._unkept[path]
            if error is not None:
                _log.error("%s/%s is not published: %s", *path, error)

        if not self._connection.ask_now("kv.publish", publication, AGENT_DEADLINE_S, answered):
            again()

    def _tell_alarm(self, kind: str, fields: Mapping[str, Any]) -> None:
        def answered(reply: Any, error: Optional[EcsError]) -> None:
            if error is not None:
                _log.error("%s of %s %s: %s", kind, fields["subsystem"], fields["code"], error)

        if self._registration.is_registered:  # else it is part of what is described when it registers
            self._connection.ask_now(kind, fields, AGENT_DEADLINE_S, answered)

    # ---- On the I/O thread: what the broker asks ----

    def _on_notice(self, header: Dict[str, Any], body: bytes) -> None:
        kind = header["kind"]
        if kind in _ASKS:
            self._questions.take(header, body)
        elif kind == "exchange.cancel":
            self._questions.cancel(header, envelope.decode(kind, body)["id"])
        elif kind == "job.run":
            self._run_job(envelope.decode(kind, body))
        elif kind == "job.kill":
            self._kill_job(**envelope.decode(kind, body))
        else:
            super()._on_notice(header, body)

    # ---- On the I/O thread: jobs ----

    def _run_job(self, order: Mapping[str, Any]) -> None:
        id = order["id"]
        if id in self._jobs:
            self._send_report(self._jobs[id])
            return
        service = self._services.get(order["service"])
        job = self._jobs[id] = RunningJob(self, id, order["attempt"], order["service"], order["params"])
        if service is None:
            job.reject(NotFound(f"{self.name} does not offer {order['service']}", code="no_such_service"))
        elif self._stopping.is_set() or not self._handlers.run(lambda: job.run(service.handler)):
            job.reject(Busy(f"{self.name} is stopping, or has too much to do already"))

    def _kill_job(self, id: int, attempt: int = 0) -> None:
        job = self._jobs.get(id)
        if job is None:  # it is not known here: so it has ended
            job = self._jobs[id] = RunningJob(self, id, attempt, "", None)
            job.end_unknown(Cancelled(f"{self.name} does not have job {id}"))
            return
        if job.cancelled or job.has_ended:
            return
        job.cancel()
        service = self._services.get(job.service)
        if service is not None and service.on_kill is not None:
            on_kill = service.on_kill
            self._handlers.run(lambda: on_kill(job))

    def _kill_all(self) -> None:
        for id in list(self._jobs):
            self._kill_job(id)

    def _send_report(self, job: RunningJob) -> None:
        if job.is_reporting or not job.reports or not self._registration.is_registered:
            return
        report = job.reports[0]
        answered = lambda reply, error: self._reported(job, report, error)  # noqa: E731
        try:
            job.is_reporting = self._connection.ask_now("job.report", report, AGENT_DEADLINE_S, answered)
        except BadMessage as error:  # its result cannot be sent
            _log.error("%s: job %d: %s", self.name, job.id, error)
            job.reports[0] = shortened(report, error)
            self._send_report(job)
            return
        if not job.is_reporting:
            self._report_later(job)

    def _report_later(self, job: RunningJob) -> None:
        self._connection.call_at(time.monotonic() + REPEAT_INTERVAL_S, lambda: self._send_report(job))

    def _reported(self, job: RunningJob, report: Dict[str, Any], error: Optional[EcsError]) -> None:
        job.is_reporting = False
        if error is not None and error.code in _LATER:
            if error.code == "not_registered":
                self._registration.lost()
            self._report_later(job)
            return
        job.reports.popleft()
        if error is not None:
            _log.warning("%s: report of job %d refused: %s", self.name, job.id, error)
            is_too_much = error.code in ("bad_parameter", "bad_message")
            if is_too_much and job.has_ended and not job.reports and (report["result"] is not None or report["reason"]):
                job.reports.append(shortened(report, error))
        if job.has_ended and not job.reports:
            self._jobs.pop(job.id, None)
        self._send_report(job)

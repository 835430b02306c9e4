"""What a script, a notebook or an interface asks of the broker."""

from __future__ import annotations

import math
import os
import time
import uuid
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from . import future as futures
from . import place as places
from .connection import Connection
from .errors import Disconnected, EcsError, EcsTimeout, NotHandled
from .feeds import Subscription, Watch, Watches
from .future import Future
from .limits import TIMEOUT_DEFAULT_S
from .records import (
    Alarm,
    EventResults,
    Job,
    Listed,
    ListedItem,
    Message,
    Outcome,
    Progress,
    Reading,
    Spans,
    Status,
    SubsystemStatus,
    TargetResult,
    Update,
    job_of,
    listed_item_of,
    outcome_of,
    reading_of,
    record,
    spans_of,
    status_of,
    target_result_of,
)  # fmt: skip
from .remote import Remote
from .values import from_wire, to_wire

C = TypeVar("C", bound="Client")
T = TypeVar("T")
#: Called with the name of whoever says how far it is, and what it says.
Feedback = Callable[[str, Any], None]
#: A job's record is looked at this often while it is waited for, beside what is published of it.
_JOB_LOOK_S = 1.0
#: The last look may take so long: a broker that is there answers far sooner.
_JOB_ASK_MIN_S = 0.5


class Client:
    """A connection to the broker; made by :func:`ecs.connect`.

    It may be used from many threads at once. Every request ends: with its answer, with an :class:`~ecs.EcsError`, or
    with an :class:`~ecs.EcsTimeout` after ``timeout`` seconds that names who did not answer. It connects again for
    ever; watches and subscriptions go on.
    """

    def __init__(self, place: places.Place, timeout: float = TIMEOUT_DEFAULT_S, name: str = "ecs"):
        self._connection = Connection(place, name, timeout)
        self._watches = Watches(self._connection)
        self._connection.on_notice = self._on_notice
        self._connection.start()

    def close(self) -> None:
        """Ends the connection; open requests end as :class:`~ecs.Disconnected`."""
        self._connection.close()

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    @property
    def lost(self) -> int:
        """Messages to this connection that the broker dropped because it did not read; 0 is good."""
        return self._connection.lost

    # ---- Who is there ----

    def status(self, timeout: Optional[float] = None) -> Status:
        """The broker, the agents and how they are."""
        return self._ask("status.get", {}, "", timeout, status_of)

    def ls(self, prefix: str = "", timeout: Optional[float] = None) -> List[Listed]:
        """The subsystems whose names begin with ``prefix``."""
        return self._ask(
            "subsystem.list", {"prefix": prefix}, prefix, timeout, _list_of("subsystems", partial(record, Listed))
        )

    def show(self, subsystem: str, timeout: Optional[float] = None) -> SubsystemStatus:
        """All of one subsystem, by its name or UUID."""
        return self._ask("subsystem.get", {"name": subsystem}, subsystem, timeout, partial(record, SubsystemStatus))

    def items(self, prefix: str = "", timeout: Optional[float] = None) -> List[ListedItem]:
        """The items whose ``<subsystem>/<item>`` begins with ``prefix``."""
        return self._ask("kv.list", {"prefix": prefix}, prefix, timeout, _list_of("items", listed_item_of))

    def alarms(self, timeout: Optional[float] = None) -> List[Alarm]:
        """What is raised now: the gravest first, then the oldest."""
        return self._ask("alarm.list", {}, "", timeout, _list_of("alarms", partial(record, Alarm)))

    def trace(self, id: int, timeout: Optional[float] = None) -> Spans:
        """All messages of a trace, or of the trace that a message is of, as far as the broker remembers them."""
        return self._ask("trace.get", {"id": id}, f"{id:016x}", timeout, spans_of)

    # ---- Values ----

    def get(self, item: str, timeout: Optional[float] = None) -> Any:
        """The value of ``<subsystem>/<item>``. One that is missing is an error, never None."""
        return self.read(item, timeout).value

    def read(self, item: str, timeout: Optional[float] = None) -> Reading:
        """The value of ``<subsystem>/<item>`` with its revision and time."""
        subsystem, name = split_path(item)
        return self._ask("kv.get", {"subsystem": subsystem, "item": name}, item, timeout, reading_of)

    def set(self, item: str, value: Any, if_revision: Optional[int] = None, timeout: Optional[float] = None) -> Reading:
        """Asks the owner for another value; returns the one that it has taken.

        With ``if_revision`` only if the item is still at that revision; else :class:`~ecs.Changed`.
        """
        subsystem, name = split_path(item)
        fields: Dict[str, Any] = {"subsystem": subsystem, "item": name, "value": to_wire(value, item)}
        if if_revision is not None:
            fields["if_revision"] = if_revision
        return self._ask("kv.set", fields, item, timeout, reading_of)

    def remote(self, subsystem: str) -> Remote:
        """A subsystem's items as plain variables."""
        return Remote(self, subsystem)

    def watch(
        self,
        items: Union[str, Iterable[str]],
        max_hz: Optional[float] = None,
        callback: Optional[Callable[[Update], None]] = None,
        timeout: Optional[float] = None,
    ) -> Watch:
        """Is told of items (``<subsystem>/<item>`` each) as they change, the present values first; they need not be
        there yet.

        With ``max_hz`` at most so often per item, the newest; two watches of one item have the faster one's rate.
        """
        watch = Watch(self._watches, [items] if isinstance(items, str) else list(items), max_hz, callback)
        for item in watch.items:
            split_path(item)
        self._watches.add(watch, timeout)
        return watch

    def subscribe(self, prefix: str, callback: Optional[Callable[[Message], None]] = None) -> Subscription:
        """Is told of all published messages whose topic begins with ``prefix``, the last of each topic first."""
        return Subscription(self._connection, prefix, callback)

    # ---- Calls and events ----

    def call(
        self,
        name: str,
        params: Optional[Mapping[str, Any]] = None,
        /,
        *,
        timeout: Optional[float] = None,
        feedback: Optional[Feedback] = None,
        **more: Any,
    ) -> Any:
        """Has one worker do something, and returns its result. Parameters by name, or as a mapping."""
        return self.call_later(name, params, timeout=timeout, feedback=feedback, **more).result()

    def call_later(
        self,
        name: str,
        params: Optional[Mapping[str, Any]] = None,
        /,
        *,
        timeout: Optional[float] = None,
        feedback: Optional[Feedback] = None,
        **more: Any,
    ) -> Future:
        """As :meth:`call`, and does not wait."""
        fields = {"call": name, "params": _params(name, params, more)}
        convert = lambda reply: from_wire(reply["value"])  # noqa: E731
        return self._connection.request("call.do", fields, name, timeout, convert, _plain(feedback))

    def collect(
        self, calls: Iterable[Future], timeout: Optional[float] = None, return_errors: bool = False
    ) -> List[Any]:
        """See :func:`ecs.collect`."""
        return futures.collect(calls, timeout, return_errors)

    def event(
        self,
        name: str,
        targets: Union[str, Sequence[str]] = (),
        params: Optional[Mapping[str, Any]] = None,
        *,
        feedback: Optional[Feedback] = None,
        on_result: Optional[Callable[[TargetResult], None]] = None,
        timeout: Optional[float] = None,
    ) -> EventResults:
        """Tells subsystems of an event, and returns how it ended for each; without targets all who handle it.

        A target that refuses, fails, is gone or does not answer in time is a result, not an exception.
        """
        asked = self.event_later(name, targets, params, feedback=feedback, on_result=on_result, timeout=timeout)
        results: EventResults = asked.result()
        return results

    def event_later(
        self,
        name: str,
        targets: Union[str, Sequence[str]] = (),
        params: Optional[Mapping[str, Any]] = None,
        *,
        feedback: Optional[Feedback] = None,
        on_result: Optional[Callable[[TargetResult], None]] = None,
        timeout: Optional[float] = None,
    ) -> Future:
        """As :meth:`event`, and does not wait. ``on_result`` is called for each target as it ends."""
        targets = [targets] if isinstance(targets, str) else list(targets)
        fields = {"event": name, "targets": targets, "params": _params(name, params, {})}
        told = None if on_result is None else (lambda wire: on_result(target_result_of(wire)))

        def convert(reply: Mapping[str, Any]) -> EventResults:
            results = tuple(target_result_of(result) for result in reply["results"])
            return EventResults(name, results, reply["trace_id"])

        return self._connection.request("event.call", fields, name, timeout, convert, _plain(feedback), told)

    def sync(self, topic: str, timeout: Optional[float] = None, **params: Any) -> EventResults:
        """A barrier: the event ``topic`` to all who handle it; returns when each has answered.

        Raises :class:`~ecs.NotHandled` if nobody does.
        """
        results = self.event(topic, (), params, timeout=timeout)
        if not results:
            raise NotHandled(f"nobody here handles the event {topic!r}", trace_id=results.trace_id)
        return results

    def veto_round(
        self,
        event: str,
        targets: Union[str, Sequence[str]] = (),
        params: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = None,
    ) -> EventResults:
        """Asks whether anybody objects. Raises :class:`~ecs.Vetoed` with every objection's sentence if somebody
        refuses, fails, is gone or does not answer, and if nobody was asked at all."""
        return self.event(event, targets, params, timeout=timeout).require_ok()

    # ---- Jobs ----

    def submit(
        self,
        service: str,
        params: Any = None,
        *,
        key: Optional[str] = None,
        timeout: Optional[float] = None,
        **options: Any,
    ) -> Job:
        """Has an agent do something that takes long. The same ``key`` again is the same job.

        ``options`` are further fields of `job.submit` (``schemas/spec/job.md``).
        """
        fields = {"service": service, "params": to_wire(params, service), "key": key or str(uuid.uuid4()), **options}
        return self._ask("job.submit", fields, service, timeout, job_of)

    def job(self, id: int, timeout: Optional[float] = None) -> Job:
        return self._job("get", id, timeout)

    def jobs(self, limit: int = 100, timeout: Optional[float] = None, **filters: Any) -> List[Job]:
        """The newest jobs, newest first. ``filters`` are further fields of `job.list` (``schemas/spec/job.md``)."""
        return self._ask("job.list", {"limit": limit, **filters}, "", timeout, _list_of("jobs", job_of))

    def cancel(self, id: int, timeout: Optional[float] = None) -> Job:
        """Asks for a job's end; one that an agent has ends soon after."""
        return self._job("cancel", id, timeout)

    def hold(self, id: int, timeout: Optional[float] = None) -> Job:
        """No agent is to get this queued job until it is released."""
        return self._job("hold", id, timeout)

    def release(self, id: int, timeout: Optional[float] = None) -> Job:
        return self._job("release", id, timeout)

    def move(
        self, id: int, *, priority: Optional[int] = None, before: Optional[int] = None, timeout: Optional[float] = None
    ) -> Job:
        """Another place in the queue: among the jobs of a priority, or directly before another job."""
        place_ = {"priority": priority} if before is None else {"before": before}
        return self._job("move", id, timeout, **place_)

    def outcome(self, id: int, timeout: Optional[float] = None) -> Outcome:
        """What became of a job and of all that follows it."""
        return self._ask("job.outcome", {"id": id}, str(id), timeout, outcome_of)

    def wait_job(
        self, id: int, timeout: Optional[float] = None, progress: Optional[Callable[[Progress], None]] = None
    ) -> Job:
        """Waits until a job has ended, at most ``timeout`` seconds; for ever without one, also while the broker is
        away: the job goes on without it. ``progress`` is called on this thread. A job that failed is returned too: see
        :meth:`ecs.Job.require_done`."""
        until = time.monotonic() + timeout if timeout is not None else math.inf
        beamline = self._in_time(self.status, until).broker["beamline"]
        with self.subscribe(f"{beamline}/jobs/{id}") as news:
            told: Optional[Progress] = None
            while True:
                job = self._in_time(lambda wait: self.job(id, wait), until)
                if job.progress is not None and job.progress != told and progress is not None:
                    told = job.progress
                    progress(told)
                if job.has_ended:
                    return job
                left = until - time.monotonic()
                if left <= 0:
                    who = job.agent or f"any agent for {job.service}"
                    raise EcsTimeout(f"job {id} is {job.state} after {timeout} s; it is for {who}")
                try:
                    news.next(min(_JOB_LOOK_S, left))
                except EcsTimeout:
                    pass  # looked at all the same: what is published may be missed

    def _in_time(self, ask: Callable[[float], T], until: float) -> T:
        """Asks until there is an answer; raises that there is none when the time is over."""
        while True:
            try:
                return ask(max(_JOB_ASK_MIN_S, min(self._connection.timeout, until - time.monotonic())))
            except (EcsTimeout, Disconnected):
                if self._connection.is_closed or time.monotonic() >= until:
                    raise

    # ---- The inner part ----

    def _ask(
        self,
        kind: str,
        fields: Mapping[str, Any],
        subject: str,
        timeout: Optional[float],
        convert: Callable[[Any], T],
    ) -> T:
        result: T = self._connection.request(kind, fields, subject, timeout, convert).result()
        return result

    def _job(self, what: str, id: int, timeout: Optional[float], **more: Any) -> Job:
        return self._ask(f"job.{what}", {"id": id, **more}, str(id), timeout, job_of)

    def _on_notice(self, header: Dict[str, Any], body: bytes) -> None:
        if header["kind"] == "kv.update":
            self._watches.take(body)


def split_path(item: str) -> Tuple[str, str]:
    """``<subsystem>/<item>`` in its two parts."""
    subsystem, slash, name = item.rpartition("/")
    if not (subsystem and slash and name):
        raise EcsError(f"item {item!r}: give <subsystem>/<item>, for example x01/pump/pressure", code="bad_parameter")
    return subsystem, name


def _params(name: str, params: Optional[Mapping[str, Any]], more: Mapping[str, Any]) -> Dict[str, Any]:
    together = {**(params or {}), **more}
    return {key: to_wire(value, f"{name}: parameter {key}") for key, value in together.items()}


def _plain(feedback: Optional[Feedback]) -> Optional[Feedback]:
    """Feedback in Python's form."""
    return None if feedback is None else (lambda target, value: feedback(target, from_wire(value)))


def _list_of(field: str, convert: Callable[[Any], T]) -> Callable[[Mapping[str, Any]], List[T]]:
    return lambda reply: [convert(entry) for entry in reply[field]]


def connect(
    where: Union[str, os.PathLike[str], None] = None,
    *,
    publish: Optional[str] = None,
    key: Union[str, os.PathLike[str], None] = None,
    timeout: float = TIMEOUT_DEFAULT_S,
) -> Client:
    """A client of the broker at an endpoint (``tcp://HOST:PORT``) or of a beamline's file.

    Without ``where``: ``ECS_BROKER``, ``ECS_CONFIG``, ``./beamline.toml``, else ``tcp://127.0.0.1:7750``. ``publish``
    is the endpoint of topics where it is not one port above; ``key`` a key file. Does not wait: a broker that is not
    there yet is connected to when it comes.
    """
    return Client(places.find(where, publish, key), timeout)

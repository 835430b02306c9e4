"""What the broker tells, as plain objects. Times are nanoseconds since 1970-01-01 UTC, by the broker's clock."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Type, TypeVar

from .errors import EcsError, NotFound, Vetoed, error_of
from .values import from_wire

R = TypeVar("R")


def record(kind: Type[R], wire: Mapping[str, Any]) -> R:
    """A record from a message's fields; those it has no place for are left out."""
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in wire.items() if name in names})


@dataclass(frozen=True)
class Reading:
    """A value, and how new it is."""

    value: Any
    #: Rises by one with each published value; 0 for an item that is not published.
    revision: int
    time_ns: int


@dataclass(frozen=True)
class Update(Reading):
    """A watched item's new value."""

    #: ``<subsystem>/<item>``.
    item: str
    #: Values between this one and the one before that this watch was not told.
    missed: int


@dataclass(frozen=True)
class Message:
    """A published message."""

    topic: str
    #: Who it is from, by the broker's word.
    source: str
    seq: int
    time_ns: int
    payload: Any
    #: Messages of this topic between this one and the one before.
    missed: int


@dataclass(frozen=True)
class Listed:
    """A subsystem in a list."""

    name: str
    uuid: str
    agent: str
    state: str
    temporary: bool
    help: str
    items: int
    events: int
    calls: int
    alarms: int
    since_ns: int
    seen_ns: int


@dataclass(frozen=True)
class SubsystemStatus:
    """All of one subsystem; ``description`` as in ``schemas/spec/registry.md``."""

    description: Dict[str, Any]
    agent: str
    state: str
    since_ns: int

    @property
    def items(self) -> Dict[str, Dict[str, Any]]:
        return {item["name"]: item for item in self.description["items"]}


@dataclass(frozen=True)
class ListedItem:
    """An item, with its last value where that is short; ``bytes`` says how long it is."""

    subsystem: str
    name: str
    type: str
    unit: Optional[str]
    min: Any
    max: Any
    choices: List[str]
    help: str
    readable: bool
    writable: bool
    published: bool
    persist: bool
    reading: Optional[Reading]
    bytes: int


@dataclass(frozen=True)
class TargetResult:
    """How an event ended for one target: ``ok``, ``refused`` (its veto), ``failed``, ``not_handled``, ``gone``,
    ``timeout`` or ``cancelled``."""

    target: str
    end: str
    value: Any = None
    #: Why, of all but ``ok``; an exception that can be raised.
    error: Optional[EcsError] = None

    def __str__(self) -> str:
        return f"{self.target}: {self.error.message}" if self.error is not None else f"{self.target}: {self.end}"


@dataclass(frozen=True)
class EventResults:
    """Every target's end."""

    event: str
    results: Tuple[TargetResult, ...]
    trace_id: int = 0

    @property
    def ok(self) -> bool:
        """True when somebody was asked and all said ok."""
        return bool(self.results) and all(result.end == "ok" for result in self.results)

    @property
    def objections(self) -> List[TargetResult]:
        return [result for result in self.results if result.end != "ok"]

    def require_ok(self) -> EventResults:
        """Itself; raises :class:`~ecs.Vetoed` with every objection's sentence."""
        if self.ok:
            return self
        reasons = "; ".join(map(str, self.objections)) or f"nobody here handles the event {self.event!r}"
        raise Vetoed(reasons, self, trace_id=self.trace_id)

    def __getitem__(self, target: str) -> TargetResult:
        for result in self.results:
            if result.target == target:
                return result
        raise NotFound(f"{target} was not asked", hint="asked were " + ", ".join(r.target for r in self.results))

    def __iter__(self) -> Iterator[TargetResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


@dataclass(frozen=True)
class Alarm:
    subsystem: str
    code: str
    #: ``info``, ``warn`` or ``alarm``.
    severity: str
    text: str
    since_ns: int


@dataclass(frozen=True)
class Progress:
    done: int
    total: int
    unit: str = ""
    bytes: int = 0


@dataclass(frozen=True)
class Job:
    """All that the broker knows of a job."""

    id: int
    key: str
    service: str
    params: Any
    #: ``submitted``, ``accepted``, ``running``, or an end: ``rejected``, ``done``, ``failed``, ``cancelled``, ``lost``.
    state: str
    cancel_requested: bool
    agent: Optional[str]
    #: Why it was rejected, failed, cancelled or lost.
    error: Optional[EcsError]
    progress: Optional[Progress]
    result: Any
    #: Every state it was in, with its time.
    history: Tuple[Tuple[str, int], ...]

    @property
    def has_ended(self) -> bool:
        return self.state in ("rejected", "done", "failed", "cancelled", "lost")

    def require_done(self) -> Job:
        """Itself; raises the error that it ended with."""
        if self.state == "done":
            return self
        raise self.error or EcsError(f"job {self.id} ({self.service}) is {self.state}")


@dataclass(frozen=True)
class Outcome:
    """What became of a job and of all that follows it."""

    #: All of them have ended; nothing more follows.
    ended: bool
    #: Any of them has ended other than ``done``.
    failed: bool
    jobs: Tuple[Job, ...]


@dataclass(frozen=True)
class Span:
    """One message and what became of it."""

    span: int
    parent: int
    kind: str
    subject: str
    sender: str
    receiver: str
    begin_ns: int
    #: 0 while it is open.
    end_ns: int
    #: ``ok``, or the code of the error.
    outcome: str


@dataclass(frozen=True)
class Spans:
    """All that is remembered of a trace. Printed, it is a tree."""

    trace: int
    spans: Tuple[Span, ...]

    @property
    def roots(self) -> List[Span]:
        known = {span.span for span in self.spans}
        return [span for span in self.spans if span.parent not in known]

    def children(self, of: Span) -> List[Span]:
        return [span for span in self.spans if span.parent == of.span]

    def __str__(self) -> str:
        return "\n".join(line for root in self.roots for line in self._lines(root, 0))

    def _lines(self, span: Span, depth: int) -> Iterator[str]:
        took_ms = (span.end_ns - span.begin_ns) / 1e6
        end = f"{span.outcome} after {took_ms:.1f} ms" if span.end_ns else "open"
        subject = f" {span.subject}" if span.subject else ""
        yield f"{'  ' * depth}{span.kind}{subject}  {span.sender} -> {span.receiver}  {end}"
        for child in self.children(span):
            yield from self._lines(child, depth + 1)


@dataclass(frozen=True)
class AgentStatus:
    name: str
    kind: str
    state: str
    host: str
    pid: int
    version: str
    since_ns: int
    seen_ns: int
    services: List[str]
    jobs: List[int]
    telemetry: Dict[str, Any]


@dataclass(frozen=True)
class Status:
    """Who is there; ``broker`` and ``clients`` as in ``schemas/spec/registry.md``."""

    broker: Dict[str, Any]
    agents: Dict[str, AgentStatus]
    ready: bool
    clients: List[Dict[str, Any]] = field(default_factory=list)


def reading_of(wire: Mapping[str, Any]) -> Reading:
    return Reading(from_wire(wire["value"]), wire["revision"], wire["time_ns"])


def target_result_of(wire: Mapping[str, Any]) -> TargetResult:
    error = None if wire["reason"] is None else error_of(wire["reason"])
    return TargetResult(wire["target"], wire["end"], from_wire(wire["value"]), error)


def listed_item_of(wire: Mapping[str, Any]) -> ListedItem:
    reading = None if wire["reading"] is None else reading_of(wire["reading"])
    return record(ListedItem, {**wire, "reading": reading})


def job_of(wire: Mapping[str, Any]) -> Job:
    return record(
        Job,
        {
            **wire,
            "params": from_wire(wire["params"]),
            "error": None if wire["reason"] is None else error_of(wire["reason"]),
            "progress": None if wire["progress"] is None else record(Progress, wire["progress"]),
            "result": from_wire(wire["result"]),
            "history": tuple((step["state"], step["time_ns"]) for step in wire["history"]),
        },
    )


def outcome_of(wire: Mapping[str, Any]) -> Outcome:
    return Outcome(wire["ended"], wire["failed"], tuple(job_of(job) for job in wire["jobs"]))


def spans_of(wire: Mapping[str, Any]) -> Spans:
    spans = [record(Span, {**span, "sender": span["from"], "receiver": span["to"]}) for span in wire["spans"]]
    return Spans(wire["trace"], tuple(spans))


def status_of(wire: Mapping[str, Any]) -> Status:
    def agent(its: Mapping[str, Any]) -> AgentStatus:
        services = [offer if isinstance(offer, str) else offer["name"] for offer in its["services"]]
        return record(AgentStatus, {**its, "services": services, "telemetry": from_wire(its["telemetry"])})

    agents = {its["name"]: agent(its) for its in wire["agents"]}
    return Status(wire["broker"], agents, wire["ready"], wire["clients"])

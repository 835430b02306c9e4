"""What an agent hosts: items as plain attributes, events, calls, alarms.

    pump.item("pressure", ecs.f64(unit="mbar"))     described to the broker
    pump.pressure = 3.2                             checked, kept, published
    pump.pressure                                   the last value; NotSet before the first

A value that is wrong raises here, in the thread that sets it, before anything is sent.
"""

from __future__ import annotations

import difflib
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from . import envelope
from .connection import Fields
from .errors import BadMessage, BadParameter, Conflict, EcsError, NotFound, NotSet, ReadOnly, as_attribute
from .handlers import Handler
from .limits import ALARM_TEXT_BYTES_MAX, PART_BYTES_MAX
from .values import ValueType, from_wire

if TYPE_CHECKING:
    from .agent import Agent

F = TypeVar("F", bound=Callable[..., Any])
_UNSET = object()
_SEVERITIES = ("info", "warn", "alarm")


class Item:
    """An item of this agent's, and its value in the wire's form."""

    def __init__(self, name: str, kind: ValueType, flags: Dict[str, Any], on_set: Any, on_get: Any, on_restore: Any):
        self.name, self.kind, self.flags = name, kind, flags
        self.on_set, self.on_get, self.on_restore = on_set, on_get, on_restore
        self.value: Any = _UNSET
        #: How often it was set, so that it is seen whether a handler has set it itself.
        self.changes = 0

    @property
    def is_set(self) -> bool:
        return self.value is not _UNSET

    def wire(self) -> Dict[str, Any]:
        return {"name": self.name, **self.kind.wire(), **self.flags}


class Subsystem:
    """Made by ``Agent.subsystem``. It may be used from any thread."""

    name: str
    _items: Dict[str, Item]
    _events: Dict[str, Handler]
    _calls: Dict[str, Handler]
    _alarms: Dict[str, Dict[str, Any]]
    _version: int
    _live: threading.Event

    def __init__(self, agent: Agent, name: str, help: str, uuid: Optional[str], temporary: bool):
        mine = object.__setattr__  # an attribute that is no item of this class's own
        mine(self, "name", name)
        mine(self, "_agent", agent)
        mine(self, "_about", {"help": help, "temporary": temporary, **({} if uuid is None else {"uuid": uuid})})
        check_description("description", {"name": name, **self._about}, f"subsystem {name!r}")
        #: Held for a few instructions, also by the I/O thread.
        mine(self, "_lock", threading.RLock())
        #: Held while a value or alarm is noted and sent, so that both happen in one order. Never by the I/O thread,
        #: since sending may wait for it.
        mine(self, "_order", threading.RLock())
        #: Set once kept values were given back: nothing is published or answered before.
        mine(self, "_live", threading.Event())
        mine(self, "_items", {})
        mine(self, "_events", {})
        mine(self, "_calls", {})
        mine(self, "_alarms", {})
        #: Rises with each change of the description.
        mine(self, "_version", 0)

    # ---- Describing ----

    def item(
        self,
        name: str,
        kind: ValueType,
        *,
        help: str = "",
        initial: Any = _UNSET,
        writable: Optional[bool] = None,
        readable: bool = True,
        published: Optional[bool] = None,
        persist: bool = False,
        on_set: Optional[Callable[[Any], Any]] = None,
        on_get: Optional[Callable[[], Any]] = None,
        on_restore: Optional[Callable[[Any], None]] = None,
    ) -> None:
        """Adds an item.

        ``on_set(value)`` is called when somebody sets it (``writable`` unless that is said otherwise): what it
        returns is the item's value then, or the value that was asked for where it returns None; ``raise
        ecs.Refuse(…)`` refuses. Without it the value is taken as it is. ``on_get()`` makes the value each time that
        somebody reads it; such an item is not published. ``persist``: the last value comes back after a restart,
        and ``on_restore(value)`` is called with it before anything is published; ``initial`` is for when there is
        none.
        """
        check_part("item", name)
        if hasattr(type(self), name):
            taken = "a subsystem has a function of this name"
            raise EcsError(f"item {name!r} of {self.name}: {taken}", code="bad_parameter")
        flags = {
            "help": help,
            "readable": readable,
            "writable": on_set is not None if writable is None else writable,
            "published": on_get is None and readable if published is None else published,
            "persist": persist,
        }
        item = Item(name, kind, flags, on_set, on_get, on_restore)
        check_description("item", item.wire(), f"item {name!r} of {self.name}")
        if initial is not _UNSET:
            item.value, _ = self._taken(item, initial)
        with self._lock:
            if name in self._items:
                raise Conflict(f"{self.name} has an item {name!r} already")
            self._items[name] = item
        self._changed()

    def event(self, name: str, *, help: Optional[str] = None) -> Callable[[F], F]:
        """Decorates the handler of an event. Its parameters are those of the function, by their hints; one that is
        called ``ctx`` is the :class:`~ecs.Context`."""

        def decorate(function: F) -> F:
            self._handle(self._events, "event", Handler(name, function, help))
            return function

        return decorate

    def call(self, name: str, *, at_once: int = 1, help: Optional[str] = None) -> Callable[[F], F]:
        """Decorates the handler of a call, of which this agent does ``at_once`` at the same time."""

        def decorate(function: F) -> F:
            self._handle(self._calls, "call", Handler(name, function, help, at_once))
            return function

        return decorate

    def _handle(self, handlers: Dict[str, Handler], what: str, handler: Handler) -> None:
        check_part(what, handler.name)
        check_description("handled", handler.wire(), f"{what} {handler.name!r} of {self.name}")
        with self._lock:
            handler.check_takes_the_place_of(handlers.get(handler.name), f"the {what} {handler.name!r} of {self.name}")
            handlers[handler.name] = handler
        self._changed()

    def describe(self) -> Tuple[Dict[str, Any], int]:
        """The description as it goes over the wire, and its version."""
        with self._lock:
            fields = {
                "name": self.name,
                **self._about,
                "items": [item.wire() for item in self._items.values()],
                "events": [handler.wire() for handler in self._events.values()],
                "calls": [handler.wire() for handler in self._calls.values()],
                "alarms": list(self._alarms.values()),
            }
            return fields, self._version

    def remove(self) -> None:
        """The subsystem is no more."""
        self._agent.remove_subsystem(self)

    def _changed(self) -> None:
        with self._lock:
            object.__setattr__(self, "_version", self._version + 1)
        self._agent.description_changed(self)

    # ---- Values ----

    def __getitem__(self, name: str) -> Any:
        item = self._find(name)
        if not item.is_set:
            raise NotSet(f"{self.name} {name} has no value yet")
        return from_wire(item.value)

    def __setitem__(self, name: str, value: Any) -> None:
        item = self._find(name)
        taken, publication = self._taken(item, value)
        with self._order:
            self._keep(item, taken)
            if item.flags["published"] and self._live.is_set():
                self._publish(item, publication)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except (NotFound, NotSet) as error:
            raise as_attribute(error) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __dir__(self) -> List[str]:
        return sorted({*super().__dir__(), *self._items})

    def publish(self, name: str, value: Any, timeout: Optional[float] = None) -> int:
        """As ``pump.name = value``, and waits until the broker has it; for an item with ``persist`` it is on its
        disk then. Returns the revision."""
        item = self._find(name)
        taken, publication = self._taken(item, value)
        with self._order:
            self._keep(item, taken)
            future = self._agent.publish_later(f"{self.name}/{name}", publication, timeout)
        revision: int = future.result()
        return revision

    def publication(self, name: str, value: Any) -> Dict[str, Any]:
        """What is said of a value."""
        return {"subsystem": self.name, "item": name, "value": value}

    def _taken(self, item: Item, value: Any) -> Tuple[Any, bytes]:
        """A value in the wire's form, and its publication: one that cannot be sent is not kept either, since it is told
        again whenever the agent registers."""
        taken = item.kind.taken(f"{self.name} {item.name}", value)
        try:
            return taken, envelope.encode("kv.publish", self.publication(item.name, taken))
        except BadMessage as error:
            raise BadMessage(f"{self.name} {item.name} {error.message}") from None

    def _keep(self, item: Item, taken: Any) -> None:
        with self._lock:
            item.value = taken
            item.changes += 1

    def _find(self, name: str) -> Item:
        with self._lock:
            item = self._items.get(name)
            known: Sequence[str] = list(self._items)
        if item is None:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"the nearest is {near[0]}" if near else f"it has {', '.join(known) or 'none'}"
            raise NotFound(f"{self.name} has no item {name!r}", hint=hint)
        return item

    # ---- For the agent: what others ask ----

    def read_by_others(self, name: str) -> Any:
        item = self._find(name)
        if item.on_get is not None:
            return item.kind.taken(f"{self.name} {name}", item.on_get())
        if not item.is_set:
            raise NotSet(f"{self.name} {name} has no value yet")
        return item.value

    def written_by_others(self, name: str, value: Any) -> Any:
        """Somebody sets an item; returns the value that it has then."""
        item = self._find(name)
        if not item.flags["writable"]:
            raise ReadOnly(f"{self.name} {name} can be read, not set")
        value = from_wire(item.kind.taken(f"{self.name} {name}", value))
        before = item.changes
        given = None if item.on_set is None else item.on_set(value)
        if given is None and item.changes != before:
            return item.value  # the handler has set it itself
        self[name] = value if given is None else given
        return item.value

    def handler(self, what: str, name: str) -> Handler:
        with self._lock:
            handler = (self._events if what == "event" else self._calls).get(name)
        if handler is None:
            raise EcsError(f"{self.name} does not handle the {what} {name!r}", code="not_handled")
        return handler

    def restore(self, restored: Sequence[Mapping[str, Any]]) -> List[Item]:
        """Takes in what the broker has kept; returns the items that it was for."""
        items = []
        with self._lock:
            for kept in restored:
                item = self._items.get(kept["item"])
                if item is not None and item.flags["persist"]:
                    item.value = kept["value"]
                    items.append(item)
        return items

    @property
    def version(self) -> int:
        return self._version

    @property
    def is_live(self) -> bool:
        return self._live.is_set()

    def wait_live(self, timeout: float) -> bool:
        return self._live.wait(timeout)

    def go_live(self, restored: Sequence[Item]) -> None:
        """Gives kept values back to whoever wants them; from now on values are published. On a handler's thread."""
        for item in restored:
            if item.on_restore is not None:
                item.on_restore(from_wire(item.value))
        with self._order:
            self._live.set()
            for item in self.published():
                self._publish(item, self.publication(item.name, item.value))

    def published(self) -> List[Item]:
        """The published items that have a value."""
        with self._lock:
            return [item for item in self._items.values() if item.is_set and item.flags["published"]]

    def _publish(self, item: Item, publication: Fields) -> None:
        if item.flags["persist"]:
            self._agent.tell_kept(self.name, item.name, publication)
        else:
            self._agent.tell("kv.publish", publication)

    # ---- Alarms ----

    def alarm(self, code: str, severity: str, text: str) -> None:
        """Raises an alarm (``info``, ``warn`` or ``alarm``), or gives one that is raised another text."""
        check_part("alarm", code)
        if severity not in _SEVERITIES:
            allowed = ", ".join(_SEVERITIES)
            raise EcsError(f"alarm {code}: severity {severity!r}; one of {allowed}", code="bad_parameter")
        if len(text.encode()) > ALARM_TEXT_BYTES_MAX:
            raise EcsError(f"alarm {code}: the text has at most {ALARM_TEXT_BYTES_MAX} bytes", code="bad_parameter")
        alarm = {"code": code, "severity": severity, "text": text}
        with self._order:
            with self._lock:
                self._alarms[code] = alarm
                object.__setattr__(self, "_version", self._version + 1)
            self._agent.tell_alarm("alarm.raise", {"subsystem": self.name, **alarm})

    def clear(self, code: str) -> None:
        """The alarm is over. One that is not raised is no error."""
        with self._order:
            with self._lock:
                self._alarms.pop(code, None)
                object.__setattr__(self, "_version", self._version + 1)
            self._agent.tell_alarm("alarm.clear", {"subsystem": self.name, "code": code})

    def __repr__(self) -> str:
        return f"<subsystem {self.name}>"


def check_description(kind: str, fields: Mapping[str, Any], what: str) -> None:
    """A part that cannot be described is refused where it is made: an agent that has one would never be registered."""
    try:
        envelope.encode(kind, fields)
    except BadMessage as error:
        raise BadParameter(f"{what}: {error.message}") from None


def check_part(what: str, name: str) -> None:
    """Items, events, calls and alarms have names of letters, digits, `-`, `_` and `.`."""
    is_ok = isinstance(name, str) and all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
    if not (is_ok and 0 < len(name) <= PART_BYTES_MAX):
        reason = f"a name has 1 to {PART_BYTES_MAX} letters, digits, '-', '_' and '.'"
        raise EcsError(f"{what} {name!r}: {reason}", code="bad_parameter")

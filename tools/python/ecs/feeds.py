"""Watches and subscriptions: what comes without being asked for each time.

Either with a callback, which is called on a worker thread, one at a time and in order; or read with ``next`` and
``for``. What is not read in time pushes out the oldest, which the next one's ``missed`` counts.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any, Callable, Deque, Dict, Generic, Iterator, List, Optional, Set, Tuple, TypeVar

from . import envelope
from .connection import Connection
from .errors import BadMessage, Disconnected, EcsTimeout
from .future import Future
from .limits import REPEAT_INTERVAL_S, TELL_BURST, TOPICS_MAX, UNREAD_MAX, WATCH_BATCH
from .records import Message, Update
from .values import from_wire

_log = logging.getLogger("ecs")
E = TypeVar("E", Update, Message)


class Feed(Generic[E]):
    """The common part: entries that wait to be read."""

    def __init__(self, what: str, connection: Connection, callback: Optional[Callable[[E], None]]):
        self._what = what
        self._connection = connection
        self._workers = connection.callbacks
        self._callback: Optional[Callable[[E], None]] = callback
        self._unread: Deque[E] = deque()
        #: Of each item or topic: entries that were pushed out since the last one that was read.
        self._pushed_out: Dict[str, int] = {}
        self._changed = threading.Condition()
        self._closed = False
        #: A worker calls the callback with all that is unread. One at a time, so that they stay in order.
        self._is_telling = False
        connection.on_closed[self] = self._end

    def next(self, timeout: Optional[float] = None) -> E:
        """The next entry. Raises EcsTimeout if none comes in time, Disconnected when this or the client was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._closed, timeout)
            if self._unread:
                return self._pop()
        if self._closed:
            raise Disconnected(f"{self._what}: closed")
        raise EcsTimeout(f"{self._what}: nothing came within {timeout} s")

    def __iter__(self) -> Iterator[E]:
        """Entries until this or the client is closed."""
        while True:
            try:
                yield self.next()
            except Disconnected:
                return

    def close(self) -> None:
        self._connection.on_closed.pop(self, None)
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _put(self, entry: E) -> None:
        with self._changed:
            if self._closed:
                return
            if len(self._unread) >= UNREAD_MAX:
                oldest = self._unread.popleft()
                name = _name(oldest)
                self._pushed_out[name] = self._pushed_out.get(name, 0) + oldest.missed + 1
            self._unread.append(entry)
            self._changed.notify()
            if self._callback is None or self._is_telling:
                return
            self._is_telling = True
        self._workers.run_in_any_case(self._tell)

    def _pop(self) -> E:
        entry = self._unread.popleft()
        return replace(entry, missed=entry.missed + self._pushed_out.pop(_name(entry), 0))

    def _tell(self) -> None:
        for _ in range(TELL_BURST):
            with self._changed:
                if self._closed or not self._unread or self._callback is None:
                    self._is_telling = False
                    return
                entry, callback = self._pop(), self._callback
            try:
                callback(entry)
            except BaseException:
                _log.exception("%s: a callback raised", self._what)
        self._workers.run_in_any_case(self._tell)  # behind the others


def _name(entry: Any) -> str:
    return entry.item if isinstance(entry, Update) else entry.topic


class Watch(Feed[Update]):
    """Items that are told as they change; made by ``Client.watch``."""

    def __init__(
        self, watches: Watches, items: List[str], max_hz: Optional[float], callback: Optional[Callable[[Update], None]]
    ):
        what = f"watch of {', '.join(items[:3])}{', …' if len(items) > 3 else ''}"
        super().__init__(what, watches.connection, callback)
        self._watches = watches
        self.items = items
        self.max_hz = max_hz
        self._last: Dict[str, Tuple[int, int]] = {}

    def take(self, update: Update) -> None:
        """An update from the broker. What is known already, since another watch of the item or a new connection
        brought it again, is left out; what a broken connection lost is counted."""
        last = self._last.get(update.item)
        now = (update.revision, update.time_ns)
        if last == now:
            return
        self._last[update.item] = now
        lost = 0 if last is None else max(0, update.revision - last[0] - 1)
        self._put(replace(update, missed=max(update.missed if last is not None else 0, lost)))

    def close(self) -> None:
        super().close()
        self._watches.remove(self)


class Watches:
    """All watches of one client. The broker knows one for each item; the fastest one's ``max_hz`` is asked for.

    W1  After a reconnect all are asked for again, and again every second until the broker has agreed: nobody else would
        notice a watch that is none.
    W2  Whether an item is not watched any more is decided on the I/O thread, with the lock held while that is said: a
        watch that begins meanwhile is asked for behind it.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self._lock = threading.Lock()
        self._by_item: Dict[str, List[Watch]] = {}
        #: What was told last of each item: a further watch of it is given this, since the broker knows one only.
        self._newest: Dict[str, Update] = {}
        #: Items that the broker has not agreed to tell after a reconnect (rule W1). Used by the I/O thread alone.
        self._unsure: Set[str] = set()
        connection.on_connected.append(self._send_all)

    def add(self, watch: Watch, timeout: Optional[float]) -> None:
        with self._lock:
            for item in watch.items:
                self._by_item.setdefault(item, []).append(watch)
                if item in self._newest:
                    watch.take(self._newest[item])
            groups = self._by_rate(watch.items)
        try:
            for max_hz, items in groups.items():
                self._ask(max_hz, items, timeout).result()
        except BaseException:
            watch.close()
            raise

    def remove(self, watch: Watch) -> None:
        with self._lock:
            for item in watch.items:
                others = self._by_item.get(item, [])
                if watch in others:
                    others.remove(watch)
        try:
            self.connection.post(lambda: self._forget(watch.items), at_once=True)
        except Disconnected:
            pass  # the broker forgets it with the connection

    def _forget(self, items: List[str]) -> None:
        """Rule W2. On the I/O thread."""
        with self._lock:
            over = [item for item in items if self._by_item.get(item) == []]
            for item in over:
                del self._by_item[item]
                self._newest.pop(item, None)
            if over and not self.connection.is_closed:
                self.connection.request("kv.unwatch", {"items": over})  # nobody waits for the answer

    def take(self, body: bytes) -> None:
        fields = envelope.decode("kv.update", body)
        item = f"{fields['subsystem']}/{fields['item']}"
        value = from_wire(fields["value"])
        update = Update(value, fields["revision"], fields["time_ns"], item, fields["missed"])
        with self._lock:
            if item in self._by_item:
                self._newest[item] = update
            for watch in self._by_item.get(item, ()):
                watch.take(update)

    def _ask(self, max_hz: Optional[float], items: List[str], timeout: Optional[float]) -> Any:
        fields: Dict[str, Any] = {"items": items}
        if max_hz is not None:
            fields["max_hz"] = max_hz
        return self.connection.request("kv.watch", fields, ", ".join(items[:3]), timeout)

    def _by_rate(self, items: List[str]) -> Dict[Optional[float], List[str]]:
        groups: Dict[Optional[float], List[str]] = {}
        for item in items:
            rates = [watch.max_hz for watch in self._by_item.get(item, ())]
            if not rates:
                continue  # it is not watched any more
            fastest = None if None in rates else max(rate for rate in rates if rate is not None)
            groups.setdefault(fastest, []).append(item)
        return groups

    def _send_all(self) -> None:
        """A new connection: the broker knows none of them. Runs on the I/O thread."""
        with self._lock:
            items = list(self._by_item)
        self._send(items)

    def _send(self, items: List[str]) -> None:
        with self._lock:
            groups = self._by_rate(items)
        for max_hz, group in groups.items():
            for begin in range(0, len(group), WATCH_BATCH):
                batch = group[begin : begin + WATCH_BATCH]
                self._ask(max_hz, batch, None).at_end(functools.partial(self._answered, batch))

    def _answered(self, items: List[str], answer: Future) -> None:
        """Rule W1. On the I/O thread."""
        error = answer.exception()
        if error is None or self.connection.is_closed:
            return
        _log.warning("watching %s again: %s", ", ".join(items[:3]), error)
        if not self._unsure:
            self.connection.call_at(time.monotonic() + REPEAT_INTERVAL_S, self._repeat)
        self._unsure.update(items)

    def _repeat(self) -> None:
        items, self._unsure = sorted(self._unsure), set()
        self._send(items)


class Subscription(Feed[Message]):
    """Published messages of all topics with one prefix; made by ``Client.subscribe``. The last message of each topic
    comes at once."""

    def __init__(self, connection: Connection, prefix: str, callback: Optional[Callable[[Message], None]]):
        super().__init__(f"subscription to {prefix!r}", connection, callback)
        self._prefix = prefix
        self._socket: Any = None
        self._last: Dict[str, Tuple[int, int]] = {}
        connection.post(self._open)

    def close(self) -> None:
        super().close()
        if not self._connection.is_closed:
            try:
                self._connection.post(self._close_socket, at_once=True)
            except Disconnected:
                pass  # it was closed with the connection

    def _open(self) -> None:
        self._socket = self._connection.add_subscriber(self._prefix, self._received)

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._connection.remove_subscriber(self._socket)

    def _received(self, parts: List[bytes]) -> None:
        if len(parts) != 3:
            raise BadMessage(f"a published message has 3 parts, this one {len(parts)}")
        header = envelope.decode("publish.header", parts[1])
        topic, now = parts[0].decode(), (header["seq"], header["time_ns"])
        last = self._last.get(topic)
        if last == now:
            return  # the last value once more, for somebody who subscribed later
        if len(self._last) >= TOPICS_MAX:
            self._last.clear()
        self._last[topic] = now
        missed = 0 if last is None else max(0, header["seq"] - last[0] - 1)
        payload = from_wire(envelope.decode("value", parts[2]))
        self._put(Message(topic, header["source"], header["seq"], header["time_ns"], payload, missed))

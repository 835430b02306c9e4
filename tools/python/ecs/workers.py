"""Threads for what must not run on the I/O thread: handlers and callbacks.

    run(task)             any free thread
    run(task, lane)       after the tasks of the same lane, in their order

Threads are started when there is work, up to a limit, and end when they are idle. They are daemons: one that never
returns does not keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, Hashable, Optional

from .limits import TASKS_MAX, THREAD_IDLE_S

_log = logging.getLogger("ecs")
Task = Callable[[], None]


class Workers:
    def __init__(self, name: str, threads_max: int):
        self._name = name
        self._threads_max = threads_max
        self._changed = threading.Condition()
        self._ready: Deque[Task] = deque()
        #: Tasks that wait for the one before them in their lane; a lane is here while one of its tasks is under way.
        self._lanes: Dict[Hashable, Deque[Task]] = {}
        self._threads = 0
        self._idle = 0
        self._open = 0
        self._closed = False

    def run(self, task: Task, lane: Optional[Hashable] = None) -> bool:
        """Has a task done; False if too many wait already, or after :meth:`close`."""
        with self._changed:
            if self._closed or self._open >= TASKS_MAX:
                return False
            self._open += 1
            if lane is None:
                self._put(task)
            elif lane in self._lanes:
                self._lanes[lane].append(task)
            else:
                self._lanes[lane] = deque()
                self._put(lambda: self._run_lane(lane, task))
            return True

    def take_back(self, task: Task, lane: Hashable) -> bool:
        """Has a task of a lane not done after all; False if it is under way, or about to be, or was done."""
        with self._changed:
            waiting = self._lanes.get(lane, ())
            if task not in waiting:
                return False
            self._lanes[lane].remove(task)
            self._open -= 1
            self._changed.notify_all()
            return True

    def _put(self, task: Task) -> None:
        self._ready.append(task)
        if self._idle >= len(self._ready):
            self._changed.notify()
        elif self._threads < self._threads_max:
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        else:
            self._changed.notify()

    def _run_lane(self, lane: Hashable, task: Task) -> None:
        try:
            task()
        except BaseException:
            _log.exception("%s: a task raised", self._name)
        with self._changed:
            waiting = self._lanes[lane]
            if waiting:
                following = waiting.popleft()
                self._put(lambda: self._run_lane(lane, following))
            else:
                del self._lanes[lane]

    def _work(self) -> None:
        while True:
            task = self._next()
            if task is None:
                return
            try:
                task()
            except BaseException:  # whatever a callback does, the next one runs
                _log.exception("%s: a callback raised", self._name)
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _next(self) -> Optional[Task]:
        with self._changed:
            until = time.monotonic() + THREAD_IDLE_S
            self._idle += 1
            try:
                while not self._ready:
                    if self._closed or not self._changed.wait(until - time.monotonic()) and not self._ready:
                        self._threads -= 1
                        return None
                return self._ready.popleft()
            finally:
                self._idle -= 1

    def wait_idle(self, timeout: float) -> bool:
        """Waits until nothing is under way; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout)

    def close(self) -> None:
        """Takes no more tasks, forgets those that wait, and lets threads end after their present one."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            for waiting in self._lanes.values():
                waiting.clear()
            self._changed.notify_all()

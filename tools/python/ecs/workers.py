"""Threads for what must not run on the I/O thread: handlers and callbacks.

    run(task)             any free thread
    run(task, lane)       after the tasks of the same lane, in their order
    run_in_any_case(task) also beyond the limit of tasks, and after the end: for what somebody waits for, and of which
                          there is one for each thing that somebody has opened

Threads are started when there is work, up to a limit, and end when they are idle. They are daemons: one that never
returns does not keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, Hashable, NamedTuple, Optional

from .limits import TASKS_MAX, THREAD_IDLE_S

_log = logging.getLogger("ecs")
Task = Callable[[], None]


class _Ready(NamedTuple):
    task: Task
    #: Also after the end.
    in_any_case: bool


class Workers:
    def __init__(self, name: str, threads_max: int):
        self._name = name
        self._threads_max = threads_max
        self._lock = threading.Lock()
        #: There is a task, or no more will come. Waited for by threads without work alone.
        self._has_task = threading.Condition(self._lock)
        #: Nothing is under way.
        self._is_idle = threading.Condition(self._lock)
        self._ready: Deque[_Ready] = deque()
        #: Tasks that wait for the one before them in their lane; a lane is here while one of its tasks is under way.
        self._lanes: Dict[Hashable, Deque[Task]] = {}
        self._threads = 0
        self._idle = 0
        self._open = 0
        self._closed = False

    def run(self, task: Task, lane: Optional[Hashable] = None) -> bool:
        """Has a task done; False if too many wait already, or after :meth:`close`."""
        with self._lock:
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

    def run_in_any_case(self, task: Task) -> None:
        with self._lock:
            self._open += 1
            self._put(task, in_any_case=True)

    def take_back(self, task: Task, lane: Hashable) -> bool:
        """Has a task of a lane not done after all; False if it is under way, or about to be, or was done."""
        with self._lock:
            waiting = self._lanes.get(lane, ())
            if task not in waiting:
                return False
            self._lanes[lane].remove(task)
            self._less_open(1)
            return True

    def _less_open(self, number: int) -> None:
        self._open -= number
        if self._open == 0:
            self._is_idle.notify_all()

    def _put(self, task: Task, in_any_case: bool = False) -> None:
        self._ready.append(_Ready(task, in_any_case))
        if self._idle >= len(self._ready):
            self._has_task.notify()
        elif self._threads < self._threads_max:
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        else:
            self._has_task.notify()

    def _run_lane(self, lane: Hashable, task: Task) -> None:
        try:
            task()
        except BaseException:
            _log.exception("%s: a task raised", self._name)
        with self._lock:
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
            with self._lock:
                self._less_open(1)

    def _next(self) -> Optional[Task]:
        with self._lock:
            until = time.monotonic() + THREAD_IDLE_S
            self._idle += 1
            try:
                while not self._ready:
                    if self._closed or not self._has_task.wait(until - time.monotonic()) and not self._ready:
                        self._threads -= 1
                        return None
                return self._ready.popleft().task
            finally:
                self._idle -= 1

    def wait_idle(self, timeout: float) -> bool:
        """Waits until nothing is under way; False if that takes longer."""
        with self._lock:
            return self._is_idle.wait_for(lambda: self._open == 0, timeout)

    def close(self) -> None:
        """Takes no more tasks, forgets those that wait, and lets threads end after their present one. What is to be
        done in any case is."""
        with self._lock:
            self._closed = True
            kept = deque(ready for ready in self._ready if ready.in_any_case)
            forgotten = len(self._ready) - len(kept)
            self._ready = kept
            for waiting in self._lanes.values():
                forgotten += len(waiting)
                waiting.clear()
            self._less_open(forgotten)
            self._has_task.notify_all()

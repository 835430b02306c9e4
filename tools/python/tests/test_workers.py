"""Threads for handlers and callbacks."""

import threading
import time

import ecs.workers
from ecs.workers import Workers


def test_tasks_of_one_lane_run_in_order_and_others_beside_them():
    workers, order, gate = Workers("t", 8), [], threading.Event()
    workers.run(lambda: (gate.wait(5), order.append(0)), lane="a")
    for number in range(1, 50):
        workers.run(lambda number=number: order.append(number), lane="a")
    beside = threading.Event()
    workers.run(beside.set)
    assert beside.wait(5) and order == []
    gate.set()
    assert workers.wait_idle(5) and order == list(range(50))


def test_task_that_raises_stops_neither_its_lane_nor_its_thread(caplog):
    workers, done = Workers("t", 1), []
    for lane in (None, "a"):
        workers.run(lambda: 1 / 0, lane)
        workers.run(lambda lane=lane: done.append(lane), lane)
    assert workers.wait_idle(5) and done == [None, "a"]
    assert caplog.text.count("ZeroDivisionError") == 2


def test_tasks_beyond_the_threads_wait_and_beyond_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(ecs.workers, "TASKS_MAX", 5)
    workers, gate, done = Workers("t", 2), threading.Event(), []
    taken = [workers.run(lambda: (gate.wait(5), done.append(1))) for _ in range(8)]
    assert taken == [True] * 5 + [False] * 3
    gate.set()
    assert workers.wait_idle(5) and len(done) == 5


def test_threads_without_work_end(monkeypatch):
    monkeypatch.setattr(ecs.workers, "THREAD_IDLE_S", 0.05)
    workers = Workers("idle-test", 4)
    for _ in range(4):
        workers.run(lambda: time.sleep(0.01))

    def count():
        return sum(thread.name.startswith("idle-test") for thread in threading.enumerate())

    assert count() > 0
    until = time.monotonic() + 5
    while count() and time.monotonic() < until:
        time.sleep(0.01)
    assert count() == 0
    assert workers.run(lambda: None) and workers.wait_idle(5)

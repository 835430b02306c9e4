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


def test_what_is_to_be_done_in_any_case_is_beyond_the_limit_and_after_the_end(monkeypatch):
    monkeypatch.setattr(ecs.workers, "TASKS_MAX", 2)
    workers, gate, done = Workers("t", 1), threading.Event(), []
    assert workers.run(lambda: gate.wait(5)) and workers.run(lambda: done.append("forgotten"))
    assert workers.run(lambda: done.append("forgotten too"), "lane") is False
    workers.run_in_any_case(lambda: done.append(1))
    workers.close()
    assert not workers.run(lambda: done.append("late"))
    workers.run_in_any_case(lambda: done.append(2))
    gate.set()
    assert workers.wait_idle(5) and done == [1, 2]


def test_who_waits_for_idleness_takes_no_task_from_a_thread():
    """One task wakes one who waits: were that not always a thread, the task would lie until the next one comes."""
    workers = Workers("t", 2)
    for _ in range(200):
        begun, gate = threading.Event(), threading.Event()
        workers.run(lambda begun=begun, gate=gate: (begun.set(), gate.wait(5)))
        assert begun.wait(5)
        waiter = threading.Thread(target=workers.wait_idle, args=(5,))
        waiter.start()
        other = threading.Event()
        workers.run(other.set)
        assert other.wait(2)
        gate.set()
        waiter.join()


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

"""An agent in Python for the test of kills: what tests/end_to_end/kills/agent_process.rs is in Rust.

    kills_agent.py NAME BEAMLINE.TOML
"""

import signal
import sys
import threading
import time

import ecs

name, config = sys.argv[1:]
stopped = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stopped.set())


def work(ctx, n, ms):
    ctx.feedback("begun")
    if ctx.wait_cancelled(ms / 1000):
        raise ecs.Cancelled("as asked")
    return n


def make():
    agent = ecs.Agent(name, config, kind="python")
    box = agent.subsystem(f"{name}-box")
    box.item("setpoint", ecs.i64(), writable=True, persist=True)
    box.item("count", ecs.i64())
    box.item("asked", ecs.i64(), on_get=lambda: 7)

    @box.event("tick")
    def tick(ctx, n: int, ms: int = 0):
        return work(ctx, n, ms)

    @box.event("veto")
    def veto(ctx, n: int = 0, ms: int = 0):
        raise ecs.Refuse("never")

    @box.call("work", at_once=4)
    def call(ctx, n: int, ms: int = 0):
        return work(ctx, n, ms)

    @agent.service("count", jobs_at_once=2)
    def count(job, n: int, ms: int, end: str):
        if job.wait_cancelled(1e6 if end == "killed" else ms / 1000):
            raise ecs.Cancelled("as asked")
        if end == "failed":
            raise ecs.EcsError("as asked")
        return job.params

    return agent, box


agent, box = make()
while not stopped.is_set():
    try:
        agent.start()
        break
    except (ecs.EcsTimeout, ecs.NameTaken):  # no broker for a long time: try anew, as a supervisor would
        agent, box = make()
counted = 0
while not stopped.wait(0.05):
    counted += 1
    box.count = counted
agent.close()

"""Whole stories: a veto before a scan, a data service under stress, a barrier of components."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from conftest import TIMEOUT_S, wait_for

import ecs

#: How much later than a deadline or a heartbeat's time an end may come on a busy machine.
SLACK_S = 1.0


# ---- A: may the scan begin? ----

STAGE = """
agent = ecs.Agent("x01/{name}", CONFIG)
its = agent.subsystem("x01/{name}")

@its.event("can_begin")
def can_begin(ctx):
    if {is_stuck}:
        ctx.feedback("thinking")
        time.sleep(60)

agent.run()
"""


@pytest.fixture
def scan(beamline):
    """A stage whose door may be open, a laser, and a scan that begins when nobody objects."""
    agent = beamline.agent("x01/hall")
    stage, laser = agent.subsystem("x01/stage"), agent.subsystem("x01/laser")
    stage.item("door", ecs.enum("open", "closed"), writable=True, initial="open")
    begun = []

    @stage.event("can_begin")
    def stage_can_begin():
        if stage.door == "open":
            raise ecs.Refuse("Door open", hint="close the hutch")

    laser.event("can_begin")(lambda: "warm")
    laser.event("begin")(lambda: begun.append(time.time()))
    agent.start()
    return begun


def test_veto_names_the_one_who_objects_and_nothing_begins(client, scan):
    results = client.event("can_begin")
    assert [(result.target, result.end) for result in results] == [("x01/laser", "ok"), ("x01/stage", "refused")]
    assert not results.ok and str(results["x01/stage"]) == "x01/stage: Door open"
    assert results["x01/laser"].value == "warm" and results["x01/stage"].error.hint == "close the hutch"

    def begin():
        client.veto_round("can_begin")
        client.event("begin").require_ok()

    with pytest.raises(ecs.Vetoed, match="x01/stage: Door open") as raised:
        begin()
    assert [result.target for result in raised.value.results.objections] == ["x01/stage"] and scan == []
    client.set("x01/stage/door", "closed")
    begin()
    assert len(scan) == 1
    with pytest.raises(ecs.Vetoed, match="nobody here handles the event 'can_start'"):
        client.veto_round("can_start")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_target_that_dies_in_the_middle_of_an_event_is_gone_within_the_heartbeat_time(beamline, client, scan, number):
    client.set("x01/stage/door", "closed")
    process = beamline.process(STAGE.format(name="mirror", is_stuck=True))
    wait_for("the third", lambda: len([its for its in client.ls() if its.events and its.state == "ready"]) == 3)
    thinking, told = threading.Event(), []
    future = client.event_later(
        "can_begin", timeout=30, feedback=lambda target, value: thinking.set(), on_result=told.append
    )
    assert thinking.wait(5)
    process.send_signal(number)
    begin = time.monotonic()
    results = future.result()
    assert time.monotonic() - begin < TIMEOUT_S + SLACK_S
    ends = {result.target: result.end for result in results}
    assert ends == {"x01/laser": "ok", "x01/stage": "ok", "x01/mirror": "gone"}
    assert "x01/mirror" in results["x01/mirror"].error.message and isinstance(results["x01/mirror"].error, ecs.Gone)
    wait_for("the early ends", lambda: {result.target for result in told} >= {"x01/laser", "x01/stage"})
    assert client.event("can_begin", "x01/mirror", timeout=5)["x01/mirror"].end == "gone"


def test_target_that_does_not_answer_is_named_at_the_deadline(beamline, client, scan):
    beamline.process(STAGE.format(name="mirror", is_stuck=True))
    wait_for("the third", lambda: len([its for its in client.ls() if its.events and its.state == "ready"]) == 3)
    begin = time.monotonic()
    results = client.event("can_begin", timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 0.3 + SLACK_S
    assert results["x01/mirror"].end == "timeout" and "x01/mirror did not answer" in results["x01/mirror"].error.message
    assert results["x01/laser"].end == "ok"


# ---- E: a data service under stress ----

DATA_SERVICE = """
agent = ecs.Agent("x01/data", CONFIG)
data, kept = agent.subsystem("x01/data-store"), {}

@data.call("data.save", at_once=4)
def save(id: str, value: dict):
    if id in kept:
        raise ecs.Conflict(f"{id} already exists", hint="choose another id")
    kept[id] = value

@data.call("data.get", at_once=4)
def get(id: str) -> dict:
    if id not in kept:
        raise ecs.NotFound(f"no data set {id!r}", hint=f"there are {sorted(kept)}")
    return kept[id]

@data.call("data.held")
def held(until: str):
    while not os.path.exists(until):
        time.sleep(0.01)

@data.call("data.slow", at_once=200)
def slow(seconds: float, tag: int = 0) -> int:
    time.sleep(seconds)
    return tag

agent.run()
"""


@pytest.fixture
def data(beamline, client):
    """The service, a process of its own."""
    process = beamline.process(DATA_SERVICE)
    wait_for("the data service", lambda: [its for its in client.ls("x01/data-store") if its.state == "ready"])
    return process


def test_data_service_saves_gets_and_refuses_with_a_typed_error(client, data):
    assert client.call("data.save", id="dark-7", value={"counts": [1, 2]}) is None
    assert client.call("data.get", id="dark-7") == {"counts": [1, 2]}
    with pytest.raises(ecs.Conflict, match="dark-7 already exists") as raised:
        client.call("data.save", id="dark-7", value={})
    assert (raised.value.code, raised.value.hint) == ("conflict", "choose another id")
    with pytest.raises(ecs.NotFound, match="no data set 'dark-8'") as raised:
        client.call("data.get", id="dark-8")
    assert raised.value.hint == "there are ['dark-7']" and raised.value.trace_id != 0


def test_call_that_is_too_slow_fails_at_its_deadline_and_later_ones_get_their_own_answers(beamline, client, data):
    agent = beamline.agent("x01/other")
    other = agent.subsystem("x01/other")
    other.call("ping")(lambda: "pong")
    agent.start()
    until = beamline.folder / "until"
    with pytest.raises(ecs.EcsTimeout, match="x01/data-store did not answer in time"):
        client.call("data.held", until=str(until), timeout=0.1)
    assert client.call("ping") == "pong", "the service is still busy with the slow one"
    with pytest.raises(ecs.EcsTimeout, match="no worker of the call data.held has become free"):
        client.call("data.held", until=str(until), timeout=0.1)
    for tag in range(100):
        assert client.call("data.slow", seconds=0.001, tag=tag) == tag
    futures = [client.call_later("data.slow", seconds=0.001, tag=tag) for tag in range(100)]
    assert client.collect(futures, 20) == list(range(100))
    until.touch()  # the late answer comes meanwhile
    assert client.call("data.held", until=str(until), timeout=20) is None
    assert client.call("data.slow", seconds=0.001, tag=7) == 7


def test_worker_that_is_killed_in_a_call_fails_its_caller_fast(beamline, client, data):
    future = client.call_later("data.slow", seconds=30, timeout=30)
    other = beamline.agent("x01/other")
    other.subsystem("x01/other").call("ping")(lambda: "pong")
    other.start()
    wait_for("the call", lambda: [span for span in client.trace(future.trace_id).spans if span.kind == "call.run"])
    data.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(ecs.Gone, match="x01/data-store"):
        future.result()
    assert time.monotonic() - begin < TIMEOUT_S + SLACK_S
    assert client.call("ping") == "pong"
    with pytest.raises(ecs.NotHandled, match="nobody here answers the call"):
        client.call("data.get", id="x")


def test_wrong_parameter_names_call_and_parameter_and_the_service_goes_on(client, data):
    with pytest.raises(ecs.WrongType, match="data.get: parameter id is an integer, not string"):
        client.call("data.get", id=3)
    with pytest.raises(ecs.NotHandled, match="nobody here answers") as raised:
        client.call("data.gett", id="3")
    assert "data.get" in raised.value.hint
    assert client.call("data.slow", seconds=0, tag=1) == 1


def test_result_of_a_future_stays_and_callbacks_of_an_ended_one_still_run(client, data):
    future, called = client.call_later("data.slow", seconds=0, tag=5), []
    assert future.result() == future.result(0) == 5 and future.done()
    future.add_done_callback(lambda done: called.append(done.result()))
    wait_for("the callback", lambda: called == [5])
    assert not future.cancel()
    broken = client.call_later("data.get", id="none")
    for _ in range(2):
        with pytest.raises(ecs.NotFound):
            broken.result()


def test_collect_gives_all_in_order_or_names_what_is_missing(client, data):
    good, bad = client.call_later("data.slow", seconds=0, tag=1), client.call_later("data.get", id="none")
    slow = client.call_later("data.slow", seconds=1, tag=2)
    with pytest.raises(ecs.EcsTimeout, match="no answer within 0.1 s: call.do data.slow"):
        ecs.collect([good, slow], 0.1)
    with pytest.raises(ecs.NotFound):
        ecs.collect([good, bad, slow], 10)
    first, second, third = ecs.collect([good, bad, slow], 10, return_errors=True)
    assert (first, third) == (1, 2) and isinstance(second, ecs.NotFound)


# ---- F: a barrier, and a hundred trials ----


def preparing(name, may_end, done):
    def prepare(broken: str = "") -> str:
        may_end.wait(20)
        done.append(name)
        if broken == name:
            raise RuntimeError("The arm is stuck")
        return "ready"

    return prepare


@pytest.fixture
def components(beamline):
    """The agents of three components that prepare, each as long as its gate is shut; the gates; who has done it."""
    gates = {name: threading.Event() for name in ("laser", "camera", "stage")}
    hosts, done = [], []
    for name, gate in gates.items():
        agent = beamline.agent(f"x01/{name}-agent")
        component = agent.subsystem(f"x01/{name}")
        component.item("target", ecs.i64(), writable=True, initial=0)

        component.event("prepare")(preparing(name, gate, done))
        agent.start()
        hosts.append(agent)
    return hosts, gates, done


def test_barrier_returns_when_the_slowest_is_ready_and_names_the_one_that_breaks(client, components):
    _, gates, done = components
    barrier = threading.Thread(target=lambda: done.append(client.sync("prepare", timeout=20)))
    barrier.start()
    for number, name in enumerate(gates):
        wait_for("those before", lambda number=number: len(done) == number)
        assert barrier.is_alive()
        gates[name].set()
    barrier.join(20)
    results = done.pop()
    assert done == ["laser", "camera", "stage"]
    assert results.ok and [result.value for result in results] == ["ready"] * 3
    results = client.sync("prepare", timeout=20, broken="camera")
    assert [result.target for result in results.objections] == ["x01/camera"]
    assert results["x01/camera"].end == "failed" and "The arm is stuck" in results["x01/camera"].error.message
    with pytest.raises(ecs.NotHandled, match="nobody here handles the event 'prepared'"):
        client.sync("prepared")


def test_hundred_trials_each_have_their_own_tree_of_messages(beamline, client, components):
    """The trial sets each component; the stage's handler asks the laser in turn: a child of its own message."""
    hosts, _, _ = components
    stage = hosts[2].subsystem("x01/arm")

    @stage.call("aim")
    def aim(at: int) -> int:
        return hosts[2].set("x01/laser/target", at).value

    wait_for("its description", lambda: [its for its in client.ls("x01/arm") if its.calls])
    trials = []
    for number in range(100):
        with ecs.traced() as trace:
            client.set("x01/camera/target", number)
            assert client.call("aim", at=number) == number
        trials.append(trace.id)
    assert len(set(trials)) == 100
    for id in trials:
        spans = client.trace(id)
        kinds = {span.kind: span for span in spans.spans if span.receiver != "x01/camera"}
        assert sorted(span.kind for span in spans.spans) == sorted(
            ["kv.set", "kv.write", "call.do", "call.run", "kv.set", "kv.write"]
        )
        assert sorted(root.kind for root in spans.roots) == ["call.do", "kv.set"]
        run = kinds["call.run"]
        (asked,) = spans.children(run)
        assert (asked.kind, asked.sender) == ("kv.set", "x01/stage-agent")
        (done,) = spans.children(asked)
        assert (done.kind, done.receiver) == ("kv.write", "x01/laser")
        assert all(span.outcome == "ok" for span in spans.spans)
    assert str(client.trace(trials[0])).count("\n") == 5


def test_single_request_has_a_trace_that_its_result_or_error_names(client, components):
    components[1]["laser"].set()
    results = client.event("prepare", "x01/laser")
    (root,) = client.trace(results.trace_id).roots
    assert root.kind == "event.call"
    with pytest.raises(ecs.OutOfRange) as raised:
        client.set("x01/laser/target", 2**63)
    assert client.trace(raised.value.trace_id).spans[0].outcome == "out_of_range"
    with pytest.raises(ecs.EcsError, match="no trace or message"):
        client.trace(1)

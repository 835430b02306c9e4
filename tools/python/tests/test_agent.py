"""Agents against a real broker: items, handlers, alarms, and coming and going."""

from __future__ import annotations

import pathlib
import signal
import threading
import time
from typing import Annotated, Literal, Optional

import pytest
from conftest import TIMEOUT_S, is_ready, value_or_none, wait_for

import ecs


def test_attribute_publishes_reads_and_refuses_what_is_wrong_before_it_is_sent(agent, client):
    pump = agent.subsystem("x01/pump")
    pump.item("pressure", ecs.f64(unit="mbar", min=0, max=10))
    agent.start()
    with pytest.raises(ecs.NotSet, match="x01/pump pressure has no value yet"):
        pump.pressure
    assert getattr(pump, "pressure", None) is None
    pump.pressure = 3
    assert pump.pressure == 3.0 and isinstance(pump.pressure, float)
    with pytest.raises(ecs.OutOfRange, match="x01/pump pressure is 11; allowed is 0 to 10 mbar"):
        pump.pressure = 11
    with pytest.raises(ecs.WrongType, match="x01/pump pressure is text, not f64"):
        pump.pressure = "3"
    with pytest.raises(ecs.NotFound, match="no item 'presure' .the nearest is pressure"):
        pump.presure = 3
    assert not hasattr(pump, "presure") and getattr(pump, "presure", None) is None and hasattr(pump, "pressure")
    assert pump.publish("pressure", 4) == 2 and client.get("x01/pump/pressure") == 4.0


@pytest.mark.parametrize("odd", [2**70, "half \ud800", bytes(65 << 20)], ids=["integer", "surrogate", "size"])
def test_value_that_cannot_be_sent_is_refused_where_it_is_set_and_the_agent_lives_on(beamline, agent, client, odd):
    box = agent.subsystem("x01/box")
    box.item("any", ecs.anything(), initial=1)
    box.item("kept", ecs.anything(), persist=True, writable=True)
    with pytest.raises(ecs.BadMessage, match="x01/box bad"):
        box.item("bad", ecs.anything(), initial=odd)
    agent.start()
    for name in ("any", "kept"):
        with pytest.raises(ecs.BadMessage, match=f"x01/box {name}"):
            box[name] = odd
        with pytest.raises(ecs.BadMessage, match=f"x01/box {name}"):
            box.publish(name, odd)
    box.kept = 2
    assert box.any == 1
    beamline.stop(signal.SIGKILL)
    beamline.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    assert wait_for("the value", lambda: value_or_none(client, "x01/box/kept")) == 2
    time.sleep(1.5 * TIMEOUT_S)  # a broker that hears no heartbeat calls it gone by now
    assert is_ready(client, "x01/vacuum")


def test_kept_value_that_the_disk_did_not_take_is_told_again_until_it_has(beamline, agent, client):
    pump = agent.subsystem("x01/pump")
    pump.item("speed", ecs.i64(), writable=True, persist=True)
    agent.start()
    pump.speed = 1
    wait_for("the first value", lambda: client.items("x01/pump/speed")[0].reading is not None)
    beamline.disk_fails(True)
    with pytest.raises(ecs.EcsError) as refused:
        client.set("x01/pump/speed", 2)
    assert refused.value.code == "store_failed" and client.get("x01/pump/speed") == 1
    beamline.disk_fails(False)
    wait_for("the value", lambda: client.get("x01/pump/speed") == 2)
    assert client.read("x01/pump/speed").revision == 2


def test_wrongly_typed_publication_is_an_error_that_names_item_and_sender_and_nobody_suffers(agent, client):
    """Past the checks of this side: as a client in another language might send it."""
    pump = agent.subsystem("x01/pump")
    pump.item("pressure", ecs.f64(max=10), initial=1)
    agent.start()
    with client.watch("x01/pump/pressure") as watch:
        assert watch.next(5).value == 1.0
        with pytest.raises(ecs.WrongType, match="x01/pump pressure is text, not f64"):
            agent.publish("x01/pump/pressure", "high")
        with pytest.raises(ecs.OutOfRange, match="x01/pump pressure is 11; allowed is 10 or less"):
            agent.publish("x01/pump/pressure", 11)
        pump.pressure = 2
        assert watch.next(5).value == 2.0


def test_publishing_under_another_ones_name_is_refused(beamline, agent, client):
    agent.subsystem("x01/pump").item("pressure", ecs.f64(), initial=1)
    agent.start()
    other = beamline.agent("x01/other")
    other.start()
    with pytest.raises(ecs.Conflict, match="x01/pump is x01/vacuum's, and you are x01/other"):
        other.publish("x01/pump/pressure", 2)
    with pytest.raises(ecs.NotRegistered):
        client._connection.request("kv.publish", {"subsystem": "x01/pump", "item": "pressure", "value": 2}).result()
    assert client.get("x01/pump/pressure") == 1.0


def test_name_that_another_process_holds_is_refused_and_names_the_holder(beamline, agent):
    agent.start()
    with pytest.raises(ecs.NameTaken, match="x01/vacuum is held by process"):
        beamline.agent("x01/vacuum").start(timeout=0.5)
    with pytest.raises(ecs.EcsError, match="not a name of this beamline") as raised:
        beamline.agent("x02/vacuum").start(timeout=20)
    assert raised.value.code == "bad_parameter"


@pytest.mark.parametrize(
    "describe, told",
    [
        (lambda agent, box: box.item("x", ecs.f64(), help=None), "item 'x' of x01/box: .*help is NoneType, not text"),
        (lambda agent, box: box.item("x", ecs.f64(min="0")), "item 'x' of x01/box: .*min is str, not a number"),
        (lambda agent, box: box.item("x", ecs.enum(1, 2)), "item 'x' of x01/box: .*choices.* is int, not text"),
        (lambda agent, box: box.item(7, ecs.f64()), "item 7: a name has 1 to 64 letters"),
        (lambda agent, box: box.call("x", at_once=-1)(lambda: 1), "call 'x' of x01/box: .*at_once is int"),
        (lambda agent, box: box.event("x", help="half \ud800")(lambda: 1), "event 'x' of x01/box: cannot be sent"),
        (lambda agent, box: agent.service("x", jobs_at_once="2")(lambda job: 1), "service 'x': .*jobs_at_once is str"),
        (lambda agent, box: agent.subsystem("x01/other", uuid=7), "subsystem 'x01/other': .*uuid is int, not text"),
    ],
    ids=["help", "bound", "choice", "name", "at_once", "surrogate", "service", "uuid"],
)
def test_what_cannot_be_described_is_refused_where_it_is_made(agent, client, describe, told):
    box = agent.subsystem("x01/box")
    with pytest.raises(ecs.EcsError, match=told) as refused:
        describe(agent, box)
    assert refused.value.code == "bad_parameter"
    agent.start(timeout=3)
    assert client.show("x01/box").state == "ready"


def test_start_that_waits_for_on_restore_says_so(beamline, agent, client):
    pump = agent.subsystem("x01/pump")
    pump.item("x", ecs.i64(), persist=True, initial=1)
    agent.start()
    assert pump.publish("x", 2)
    agent.close()
    gate = threading.Event()
    other = beamline.agent("x01/vacuum")
    other.subsystem("x01/pump").item("x", ecs.i64(), persist=True, on_restore=lambda value: gate.wait(20))
    with pytest.raises(ecs.EcsTimeout, match="is registered, but on_restore of x01/pump took longer than 0.5 s"):
        other.start(timeout=0.5)
    gate.set()


def test_start_without_a_broker_times_out_and_says_so(stopped_beamline):
    with pytest.raises(ecs.EcsTimeout, match="x01/vacuum"):
        stopped_beamline.agent("x01/vacuum").start(timeout=0.3)


def test_on_set_may_take_change_or_refuse_and_the_caller_sees_which(agent, client):
    stage = agent.subsystem("x01/stage")
    moves = []

    def move(value):
        if value > 90:
            raise ecs.Refuse("Door open", hint="close the door")
        moves.append(value)
        return round(value)

    stage.item("x", ecs.f64(unit="mm"), on_set=move)
    stage.item("own", ecs.f64(), on_set=lambda value: setattr(stage, "own", value * 2))
    stage.item("broken", ecs.f64(), on_set=lambda value: 1 / 0)
    agent.start()
    reading = client.set("x01/stage/x", 3.4)
    assert (reading.value, reading.revision, client.get("x01/stage/x"), stage.x) == (3.0, 1, 3.0, 3.0)
    with pytest.raises(ecs.Refuse, match="Door open") as raised:
        client.set("x01/stage/x", 91)
    assert raised.value.hint == "close the door" and client.get("x01/stage/x") == 3.0
    assert client.set("x01/stage/own", 4).value == 8.0 and client.read("x01/stage/own").revision == 1
    with pytest.raises(ecs.EcsError, match="x01/stage broken failed: ZeroDivisionError"):
        client.set("x01/stage/broken", 1)
    assert moves == [3.4] and client.set("x01/stage/x", 4).value == 4.0


def test_sets_of_one_item_are_done_in_their_order_and_a_slow_one_does_not_stop_others(agent, client):
    stage, gate, order = agent.subsystem("x01/stage"), threading.Event(), []

    def slow(value):
        gate.wait(5)
        order.append(value)

    stage.item("slow", ecs.i64(), on_set=slow)
    stage.item("fast", ecs.i64(), writable=True)
    agent.start()
    fields = [{"subsystem": "x01/stage", "item": "slow", "value": value} for value in range(10)]
    futures = [client._connection.request("kv.set", one) for one in fields]
    assert client.set("x01/stage/fast", 1).value == 1
    gate.set()
    assert [reply["value"] for reply in ecs.collect(futures, 5)] == list(range(10)) == order


def test_set_that_was_given_up_before_its_turn_is_never_done(beamline, agent, client):
    stage, gate, begun, moves = agent.subsystem("x01/stage"), threading.Event(), threading.Event(), []

    def move(value):
        begun.set()
        gate.wait(20)
        moves.append(value)

    stage.item("x", ecs.i64(), on_set=move)
    agent.start()

    def ask(value, timeout):
        fields = {"subsystem": "x01/stage", "item": "x", "value": value}
        return client._connection.request("kv.set", fields, timeout=timeout)

    first = ask(1, 20)
    assert begun.wait(5)
    for value in range(2, 5):
        with pytest.raises(ecs.EcsTimeout):
            ask(value, 0.1).result()
    wait_for("only the first question", lambda: len(agent._questions.open) == 1)
    assert agent._handlers._open == 1
    wanted = ask(5, 20)
    gate.set()
    assert (first.result()["value"], wanted.result()["value"], moves) == (1, 5, [1, 5])
    # Nor what a broker has asked that died meanwhile.
    gate.clear()
    begun.clear()
    ask(6, 20)
    assert begun.wait(5)
    ask(7, 20)
    wait_for("both questions", lambda: len(agent._questions.open) == 2)
    beamline.stop(signal.SIGKILL)
    beamline.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    gate.set()
    assert client.set("x01/stage/x", 8).value == 8 and moves == [1, 5, 6, 8]


def test_event_that_was_given_up_before_a_thread_was_free_is_never_done(agent, client, monkeypatch):
    monkeypatch.setattr(agent._handlers, "_threads_max", 1)
    box, gate, begun, done = agent.subsystem("x01/box"), threading.Event(), threading.Event(), []

    @box.event("wait")
    def wait():
        begun.set()
        gate.wait(20)

    box.event("move")(lambda: done.append(1))
    agent.start()
    waiting = client.event_later("wait", timeout=20)
    assert begun.wait(5)
    assert client.event("move", timeout=0.1)["x01/box"].end == "timeout"
    wait_for("the cancel", lambda: any(its.context.cancelled for its in agent._questions.open.values()))
    gate.set()
    assert waiting.result()["x01/box"].end == "ok"
    wait_for("no question", lambda: not agent._questions.open)
    assert done == []


def test_on_get_is_asked_each_time_and_what_it_raises_reaches_the_reader(agent, client):
    counter, stage = iter([1, 2, "three"]), agent.subsystem("x01/stage")
    stage.item("count", ecs.i64(), on_get=lambda: next(counter))
    agent.start()
    assert [client.get("x01/stage/count"), client.get("x01/stage/count")] == [1, 2]
    with pytest.raises(ecs.WrongType, match="x01/stage count is text, not i64"):
        client.get("x01/stage/count")
    with pytest.raises(ecs.EcsError, match="StopIteration"):
        client.get("x01/stage/count")


def test_kept_values_are_given_back_before_the_first_publication(beamline, client):
    def host(restored):
        agent = beamline.agent("x01/vacuum")
        pump = agent.subsystem("x01/pump")
        pump.item("setpoint", ecs.f64(), writable=True, persist=True, initial=1.0, on_restore=restored.append)
        agent.start()
        return agent, pump

    first, restored = host([])[0], []
    assert client.get("x01/pump/setpoint") == 1.0
    assert client.set("x01/pump/setpoint", 5).revision == 2
    first.close()
    beamline.stop(signal.SIGKILL)
    beamline.start()
    with client.watch("x01/pump/setpoint") as watch:
        agent, pump = host(restored)
        assert restored == [5.0] and pump.setpoint == 5.0
        revisions = [watch.next(5)]
        pump.setpoint = 6
        while revisions[-1].value != 6.0:
            revisions.append(watch.next(5))
    assert {update.value for update in revisions} == {5.0, 6.0}, "the initial value was never told"
    assert revisions[-1].revision > 2


def test_parameters_follow_from_the_hints_and_are_checked_before_the_handler_runs(agent, client):
    camera, seen = agent.subsystem("x01/camera"), []

    @camera.call("expose")
    def expose(
        seconds: Annotated[float, ecs.f64(unit="s", min=0, max=10)],
        frames: int = 1,
        mode: Literal["single", "burst"] = "single",
        note: Optional[str] = None,
    ) -> dict:
        """Takes frames.

        More of it."""
        seen.append(seconds)
        return {"seconds": seconds, "frames": frames, "mode": mode, "note": note}

    agent.start()
    call = client.show("x01/camera").description["calls"][0]
    params = {param["name"]: param for param in call["params"]}
    assert (call["help"], call["result"]["type"]) == ("Takes frames.", "map")
    assert (params["seconds"]["unit"], params["seconds"]["optional"], params["mode"]["choices"]) == (
        "s", False, ["single", "burst"],
    )  # fmt: skip
    assert params["note"]["type"] == "string" and params["note"]["optional"]
    assert client.call("expose", seconds=1) == {"seconds": 1.0, "frames": 1, "mode": "single", "note": None}
    for wrong, error, text in [
        ({}, ecs.BadParameter, "expose: parameter seconds is missing"),
        ({"seconds": "1"}, ecs.WrongType, "expose: parameter seconds is text, not f64"),
        ({"seconds": 11}, ecs.OutOfRange, "expose: parameter seconds is 11; allowed is 0 to 10 s"),
        ({"seconds": 1, "frame": 2}, ecs.BadParameter, 'no parameter "frame"'),
        ({"seconds": 1, "mode": "x"}, ecs.OutOfRange, "allowed is single, burst"),
    ]:
        with pytest.raises(error, match=text):
            client.call("expose", wrong)
    assert seen == [1.0]


def test_handler_without_parameters_refuses_any_and_one_with_kwargs_takes_all(agent, client):
    box = agent.subsystem("x01/box")
    box.call("none")(lambda: 1)
    box.call("all")(lambda **given: given)
    agent.start()
    assert client.call("none") == 1
    with pytest.raises(ecs.BadParameter, match="none has no parameter 'x'"):
        client.call("none", x=1)
    assert client.call("all", {"timeout": 3}, b=b"\0") == {"timeout": 3, "b": b"\0"}


def test_handler_that_raises_is_told_to_its_caller_and_does_not_stop_the_agent(agent, client, caplog):
    box = agent.subsystem("x01/box")

    @box.call("divide")
    def divide(by: float) -> float:
        return 1 / by

    @box.call("odd")
    def odd():
        return object()

    @box.call("exit")
    def leave():
        raise SystemExit(3)

    agent.start()
    with pytest.raises(ecs.EcsError, match="x01/box divide failed: ZeroDivisionError") as raised:
        client.call("divide", by=0)
    assert raised.value.code == "other" and "ZeroDivisionError" in caplog.text
    with pytest.raises(ecs.WrongType, match="odd: result is object"):
        client.call("odd")
    with pytest.raises(ecs.EcsError, match="SystemExit"):
        client.call("exit")
    assert client.call("divide", by=2) == 0.5


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "raised, told",
    [
        (ecs.Refuse(OSError(13, "Shutter stuck")), "Shutter stuck"),
        (ecs.Refuse(7, hint=pathlib.Path("/dev/door")), "7 ./dev/door."),
        (ecs.Refuse("no file \udcff", hint="x\ud800"), r"no file .udcff .x.ud800."),
        (ecs.Refuse("Door open " * 7_000_000), "Door open Door open"),  # more than a message may have
        (ecs.EcsError("odd", code=3), "odd"),
        (Unspeakable(), "Unspeakable, which cannot be shown"),
    ],
    ids=["exception", "number", "surrogate", "long", "code", "unspeakable"],
)
def test_whatever_a_handler_raises_its_caller_hears_of_it_and_the_worker_is_free_again(agent, client, raised, told):
    box = agent.subsystem("x01/box")

    @box.call("work")
    def work(fail: bool):
        if fail:
            raise raised

    agent.start()
    for _ in range(2):  # with `at_once` of 1, the second time shows that the first was answered
        with pytest.raises(ecs.EcsError, match=told):
            client.call("work", fail=True, timeout=3)
    assert client.call("work", fail=False) is None
    wait_for("no question", lambda: not agent._questions.open)


def test_feedback_comes_in_order_before_the_result_and_cancelling_reaches_the_handler(agent, client):
    box, heard, ended = agent.subsystem("x01/box"), [], threading.Event()

    @box.call("count")
    def count(ctx, to: int):
        for step in range(to):
            ctx.feedback({"step": step})
        return to

    @box.event("wait")
    def wait(ctx):
        ctx.feedback("waiting")
        ctx.wait_cancelled(20)
        ended.set()
        ctx.check_cancelled()

    agent.start()
    assert client.call("count", to=50, feedback=lambda target, value: heard.append((target, value["step"]))) == 50
    wait_for("all feedback", lambda: len(heard) == 50)
    assert heard == [("x01/box", step) for step in range(50)]
    begun = threading.Event()
    future = client.event_later("wait", ["x01/box"], feedback=lambda *_: begun.set(), timeout=30)
    assert begun.wait(5) and future.cancel()
    assert future.result(5)["x01/box"].end == "cancelled" and ended.wait(5)


def test_call_is_given_to_as_many_at_once_as_the_agent_takes(agent, client):
    box, lock, now, most = agent.subsystem("x01/box"), threading.Lock(), [0], [0]

    @box.call("work", at_once=4)
    def work():
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    agent.start()
    ecs.collect([client.call_later("work") for _ in range(20)], 10)
    assert most[0] == 4


def test_agent_asks_as_itself_also_from_its_handlers(beamline, agent, client):
    box = agent.subsystem("x01/box")

    @box.call("who")
    def who(ctx) -> str:
        return ctx.by

    agent.start()
    other = beamline.agent("x01/other")
    relay = other.subsystem("x01/relay")
    relay.call("relay")(lambda: other.call("who"))
    other.start()
    assert (client.call("who"), other.call("who"), client.call("relay")) == ("anonymous", "x01/other", "x01/other")


def test_alarm_is_listed_until_it_is_cleared_and_survives_the_broker(beamline, agent, client):
    pump = agent.subsystem("x01/pump")
    agent.start()
    pump.alarm("HOT", "alarm", "93 degrees")
    pump.alarm("WARM", "warn", "40 degrees")
    wait_for("both", lambda: len(client.alarms()) == 2)
    pump.alarm("HOT", "alarm", "95 degrees")
    wait_for("the new text", lambda: client.alarms()[0].text == "95 degrees")
    assert [(its.subsystem, its.code, its.severity) for its in client.alarms()] == [
        ("x01/pump", "HOT", "alarm"), ("x01/pump", "WARM", "warn"),
    ]  # fmt: skip
    beamline.stop(signal.SIGKILL)
    pump.clear("WARM")
    beamline.start()
    wait_for("the other again", lambda: [its.code for its in client.alarms()] == ["HOT"])
    pump.clear("HOT")
    wait_for("none", lambda: client.alarms() == [])
    for wrong in (("", "warn", "x"), ("A", "fatal", "x"), ("A", "warn", "x" * 1025)):
        with pytest.raises(ecs.EcsError) as raised:
            pump.alarm(*wrong)
        assert raised.value.code == "bad_parameter"


def test_after_the_broker_comes_back_all_is_there_again(beamline, agent, client):
    pump = agent.subsystem("x01/pump")
    pump.item("pressure", ecs.f64(), initial=1)
    pump.call("measure")(lambda: 7)
    agent.service("expose")(lambda job: None)
    agent.start()
    pump.pressure = 2
    beamline.stop(signal.SIGKILL)
    pump.pressure = 3
    beamline.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    assert wait_for("the value", lambda: value_or_none(client, "x01/pump/pressure")) == 3.0
    assert client.call("measure") == 7 and client.status().agents["x01/vacuum"].services == ["expose"]


@pytest.mark.parametrize("is_away", [True, False], ids=["answered while it is away", "answered to the next one"])
def test_answer_to_a_broker_that_is_no_more_does_not_reach_the_next_ones_caller(beamline, agent, client, is_away):
    """Ids of questions go on over a new start of the broker: its first question has not the id of the old first one."""
    box, gates = agent.subsystem("x01/box"), [threading.Event(), threading.Event()]

    @box.call("wait", at_once=2)
    def wait(number: int) -> int:
        gates[number].wait(20)
        return number

    agent.start()
    old = client.call_later("wait", number=0, timeout=20)
    wait_for("the first question", lambda: agent._questions.open)
    ids = list(agent._questions.open)
    beamline.stop(signal.SIGKILL)
    if is_away:
        wait_for("the loss", lambda: not agent._connection.is_gate_open)
        gates[0].set()
        wait_for("the answer", lambda: agent._connection._outbox)
    beamline.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    new = client.call_later("wait", number=1, timeout=20)
    wait_for("the second question, with an id of its own", lambda: set(agent._questions.open) - set(ids))
    gates[0].set()
    wait_for("the old answer", lambda: len(agent._questions.open) == 1 and not agent._connection._outbox)
    assert agent.ls() and not new.done()  # what the agent sent before that has been heard
    gates[1].set()
    assert new.result() == 1
    with pytest.raises(ecs.Disconnected):
        old.result()


def test_alarm_that_is_raised_while_the_agent_registers_is_not_lost(beamline, agent, client):
    pump, introduce, raised = agent.subsystem("x01/pump"), agent._introduce, []

    def introduce_and_change():
        fields = introduce()
        raised.append(f"LATE{len(raised)}")
        pump.alarm(raised[-1], "warn", "after what is told was gathered")
        return fields

    agent.start()
    agent._registration._describe = introduce_and_change
    beamline.stop(signal.SIGKILL)
    beamline.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    wait_for("every alarm", lambda: {alarm.code for alarm in client.alarms()} == set(raised))


def test_description_may_grow_and_shrink_while_the_agent_runs(agent, client):
    agent.start()
    late = agent.subsystem("x01/late", temporary=True)
    late.item("count", ecs.i64(), initial=1)
    wait_for("the value", lambda: value_or_none(client, "x01/late/count") == 1)
    late.item("more", ecs.i64(), initial=2)
    late.call("late")(lambda: 3)
    wait_for("the call", lambda: client.show("x01/late").description["calls"])
    late.more = 4
    wait_for("its value", lambda: value_or_none(client, "x01/late/more") == 4)
    assert client.call("late") == 3
    late.remove()
    assert client.ls("x01/late") == []


def test_subsystem_that_is_removed_and_made_again_is_described_again(agent, client):
    """The I/O thread is busy meanwhile, so that it sees each new one with all of its items."""
    agent.start()
    box = None
    for name in ("one", "two", "three"):
        if box is not None:
            box.remove()
            with pytest.raises(ecs.NotFound, match="x01/box is not hosted here"):
                box.remove()
        held, gate = threading.Event(), threading.Event()
        agent._connection.post(lambda held=held, gate=gate: (held.set(), gate.wait(10)))
        assert held.wait(5)
        box = agent.subsystem("x01/box", temporary=True)
        box.item(name, ecs.i64(), initial=7)
        gate.set()
        wait_for("its value", lambda name=name: value_or_none(client, f"x01/box/{name}") == 7)
        assert client.show("x01/box").items.keys() == {name}


def test_leave_is_clean_and_a_silent_agent_is_gone_within_its_time(beamline, agent, client):
    agent.subsystem("x01/pump").item("x", ecs.i64(), initial=1)
    agent.start()
    begin = time.monotonic()
    agent.close()
    assert client.show("x01/pump").state == "gone" and time.monotonic() - begin < TIMEOUT_S
    process = beamline.process("ecs.Agent('x01/other', CONFIG).run()")
    wait_for("the other", lambda: client.status().agents.get("x01/other"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0 and client.status().agents["x01/other"].state == "gone"


def test_agent_that_was_stopped_and_goes_on_registers_again(beamline, client):
    process = beamline.process("""
        agent = ecs.Agent("x01/other", CONFIG)
        agent.subsystem("x01/pump").item("x", ecs.i64(), initial=5)
        agent.run()
    """)
    wait_for("the agent", lambda: value_or_none(client, "x01/pump/x"))
    process.send_signal(signal.SIGSTOP)
    wait_for("its end", lambda: client.show("x01/pump").state == "gone")
    process.send_signal(signal.SIGCONT)
    wait_for("its return", lambda: client.show("x01/pump").state == "ready")
def test_telemetry_is_in_the_status_and_on_its_topic(agent, client):
    agent.start()
    with client.subscribe("x01/vacuum/telemetry") as topics:
        agent.telemetry({"images_per_s": 3.5})
        assert topics.next(5).payload == {"images_per_s": 3.5}
    assert client.status().agents["x01/vacuum"].telemetry == {"images_per_s": 3.5}


def test_second_function_or_item_of_a_name_is_refused_and_the_same_one_written_anew_is_not(agent, client):
    box = agent.subsystem("x01/box")
    box.item("level", ecs.i64(), initial=1)
    with pytest.raises(ecs.Conflict, match="x01/box has an item 'level' already"):
        box.item("level", ecs.f64())

    for decorate in (box.call("measure"), box.event("vent"), agent.service("scan")):

        @decorate
        def first():
            return "first"

        with pytest.raises(ecs.Conflict, match=r"is done by the function test_second.*first already"):

            @decorate
            def second():
                return "second"

    # As when a cell of a notebook runs again.
    @box.call("measure")
    def first():  # noqa: F811
        return "anew"

    agent.start()
    wait_for("the agent", lambda: is_ready(client, "x01/vacuum"))
    assert client.call("measure") == "anew" and box.level == 1

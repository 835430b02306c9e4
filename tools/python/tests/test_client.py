"""A client against a real broker: values, watches, topics, and its own connection."""

import asyncio
import os
import signal
import threading
import time

import pytest
from conftest import wait_for

import ecs
from ecs import envelope
from ecs.link import Event


@pytest.fixture
def pump(beamline):
    """x01/pump with some items, hosted in this process."""
    agent = beamline.agent("x01/vacuum")
    pump = agent.subsystem("x01/pump", help="The turbo pump")
    pump.item("pressure", ecs.f64(unit="mbar", min=0, max=10))
    pump.item("setpoint", ecs.f64(min=-5), writable=True, initial=1.0)
    pump.item("mode", ecs.enum("auto", "manual"), writable=True)
    pump.item("blob", ecs.anything(), writable=True)
    agent.start()
    return pump


def test_get_after_publish_is_the_value_and_what_is_missing_is_a_typed_error(client, pump):
    pump.pressure = 3
    assert client.get("x01/pump/setpoint") == 1.0
    reading = wait_for("the value", lambda: read_or_none(client, "x01/pump/pressure"))
    assert (reading.value, reading.revision) == (3.0, 1) and abs(reading.time_ns / 1e9 - time.time()) < 60
    with pytest.raises(ecs.NotSet, match="x01/pump mode has no value yet"):
        client.get("x01/pump/mode")
    with pytest.raises(ecs.NotFound, match='no item "presure"') as raised:
        client.get("x01/pump/presure")
    assert raised.value.code == "no_such_item" and "pressure" in raised.value.hint
    with pytest.raises(ecs.NotFound) as raised:
        client.get("x01/pmp/pressure")
    assert raised.value.code == "no_such_subsystem"
    with pytest.raises(ecs.EcsError, match="give <subsystem>/<item>"):
        client.get("pressure")


def read_or_none(client, item):
    try:
        return client.read(item)
    except ecs.NotSet:
        return None


def test_item_is_found_by_the_uuid_of_its_subsystem(client, pump):
    uuid = client.show("x01/pump").description["uuid"]
    assert client.get(f"{uuid}/setpoint") == 1.0
    assert client.show(uuid).description["name"] == "x01/pump"


def test_lists_have_what_is_there(client, pump):
    assert [its.name for its in client.ls("x01/p")] == ["x01/pump"]
    assert client.ls("x01/p")[0].items == 4
    items = {its.name: its for its in client.items("x01/pump")}
    assert items["pressure"].unit == "mbar" and items["setpoint"].reading.value == 1.0 and items["mode"].reading is None
    status = client.status()
    assert status.agents["x01/vacuum"].state == "ready" and status.agents["x01/vacuum"].pid == os.getpid()


def test_set_is_checked_by_the_broker_and_returns_what_was_taken(client, pump):
    assert client.set("x01/pump/setpoint", -5).value == -5.0
    with pytest.raises(ecs.OutOfRange, match="x01/pump setpoint is -6; allowed is -5 or more"):
        client.set("x01/pump/setpoint", -6)
    with pytest.raises(ecs.WrongType, match="x01/pump setpoint is text, not f64"):
        client.set("x01/pump/setpoint", "3")
    with pytest.raises(ecs.ReadOnly):
        client.set("x01/pump/pressure", 3)
    with pytest.raises(ecs.OutOfRange, match="allowed is auto, manual"):
        client.set("x01/pump/mode", "off")
    assert client.get("x01/pump/setpoint") == -5.0 and pump.setpoint == -5.0


def test_set_at_a_revision_that_has_changed_is_refused(client, pump):
    first = client.set("x01/pump/setpoint", 2)
    second = client.set("x01/pump/setpoint", 3, if_revision=first.revision)
    assert second.revision == first.revision + 1
    with pytest.raises(ecs.Changed):
        client.set("x01/pump/setpoint", 4, if_revision=first.revision)
    assert client.get("x01/pump/setpoint") == 3.0


def test_remote_items_are_plain_variables(beamline, client, pump):
    remote = client.remote("x01/pump")
    remote.setpoint = 3
    assert remote.setpoint == 3.0 and remote["setpoint"] == 3.0 and pump.setpoint == 3.0
    assert dir(remote) == ["blob", "mode", "pressure", "setpoint"]
    with pytest.raises(ecs.NotFound, match="presure") as missing:
        remote.presure
    assert isinstance(missing.value, AttributeError) and missing.value.code == "no_such_item" and missing.value.hint
    assert (hasattr(remote, "presure"), hasattr(remote, "setpoint")) == (False, True)
    assert getattr(remote, "mode", "not set") == "not set"
    with pytest.raises(ecs.NotFound):
        client.remote("x01/pmp").pressure
    client.close()
    with pytest.raises(AttributeError):
        remote._repr_html_  # not asked of the broker: that would be Disconnected
    client = beamline.client()
    remote = client.remote("x01/pump")
    with pytest.raises(ecs.ReadOnly):
        remote.pressure = 1


def test_watch_before_the_item_is_there_sees_it_come_and_a_late_one_the_present_value(beamline, client):
    with client.watch("x01/late/count") as early:
        agent = beamline.agent("x01/later")
        late = agent.subsystem("x01/late")
        late.item("count", ecs.i64(), initial=7)
        agent.start()
        update = early.next(5)
        assert (update.item, update.value, update.revision, update.missed) == ("x01/late/count", 7, 1, 0)
        with client.watch("x01/late/count") as second, beamline.client().watch(["x01/late/count"]) as other:
            assert second.next(5).value == 7 and other.next(5).value == 7
            late.count = 8
            assert [watch.next(5).value for watch in (early, second, other)] == [8, 8, 8]


def test_every_value_is_told_or_counted_as_missed(client, pump):
    with client.watch("x01/pump/setpoint", max_hz=20) as watch:
        assert watch.next(5).revision == 1
        for number in range(200):
            pump.setpoint = number
        seen, last = 1, 1
        while last < 201:
            update = watch.next(5)
            assert update.revision == last + update.missed + 1
            last, seen = update.revision, seen + update.missed + 1
        assert seen == 201 and update.value == 199.0, "the newest comes in the end"


def test_slow_callback_loses_the_oldest_updates_and_is_told_how_many(client, pump, monkeypatch):
    monkeypatch.setattr("ecs.feeds.UNREAD_MAX", 10)
    gate, seen = threading.Event(), []
    client.watch("x01/pump/pressure", callback=lambda update: (gate.wait(10), seen.append(update)))
    for number in range(100):
        pump.publish("pressure", number / 100)
    time.sleep(0.1)  # let the last ones arrive at the watch, whose callback waits
    gate.set()
    wait_for("the last update", lambda: seen and seen[-1].revision == 100)
    assert sum(update.missed + 1 for update in seen) == 100 and len(seen) <= 12


def test_slow_callbacks_hold_up_neither_other_watches_nor_futures(client, pump, monkeypatch):
    """As when a callback of 100 ms is called at 1 kHz for a while."""
    monkeypatch.setattr("ecs.workers.TASKS_MAX", 20)
    gate, seen, ended = threading.Event(), [], threading.Event()
    client.watch("x01/pump/pressure", callback=lambda update: gate.wait(20))
    client.watch("x01/pump/setpoint", callback=lambda update: seen.append(update.value))
    for number in range(50):
        pump.publish("pressure", number / 10)
    pump.publish("setpoint", 7)
    wait_for("the other watch", lambda: seen and seen[-1] == 7.0)

    @pump.event("count")
    def count(ctx):
        for number in range(50):
            ctx.feedback(number)

    wait_for("the event", lambda: client.show("x01/pump").description["events"])
    asked = client.event_later("count", ["x01/pump"], feedback=lambda *_: gate.wait(20))  # fills all that there is
    asked.result()
    asked.add_done_callback(lambda future: ended.set())
    assert ended.wait(5)
    gate.set()


def test_callback_that_raises_is_logged_and_stops_nothing(client, pump, caplog):
    seen = []

    def callback(update):
        seen.append(update.value)
        raise RuntimeError("a bug of the user's")

    client.watch("x01/pump/setpoint", callback=callback)
    wait_for("the first", lambda: seen)
    pump.setpoint = 9
    wait_for("the second", lambda: len(seen) == 2)
    assert client.get("x01/pump/setpoint") == 9.0 and "a bug of the user's" in caplog.text


def test_subscription_has_the_last_value_first_and_then_every_one_or_its_count(client, pump):
    pump.publish("pressure", 1.5)
    with client.subscribe("x01/pump/kv/") as topics:
        first = {}
        while len(first) < 2:
            message = topics.next(5)
            first[message.topic] = message.payload
        assert first == {"x01/pump/kv/pressure": 1.5, "x01/pump/kv/setpoint": 1.0}
        # The same prefix once more in the same client has the last values too.
        with client.subscribe("x01/pump/kv/pressure") as second:
            assert second.next(5).payload == 1.5
        for number in range(20):
            pump.pressure = number / 10
        seen = [topics.next(5)]
        while seen[-1].payload != 1.9:
            seen.append(topics.next(5))
        assert sum(message.missed + 1 for message in seen) == 20, "what came in one batch is told once, and counted"
        assert all(message.source == "x01/pump" for message in seen)


def test_value_of_64_mib_passes_both_ways_and_a_larger_one_is_refused(client, pump):
    data = bytes(range(256)) * (256 * 1024)
    assert len(data) == 64 * 1024 * 1024
    assert client.set("x01/pump/blob", data, timeout=60).value == data
    assert client.get("x01/pump/blob", timeout=60) == data
    with pytest.raises(ecs.BadMessage, match="at most"):
        client.set("x01/pump/blob", data + bytes(70_000))
    assert client.get("x01/pump/setpoint") == 1.0


def test_payloads_with_every_byte_pass_as_text_bytes_and_names(client, pump):
    """700 odd bytes in a payload: zeros, quotes, separators and what is no UTF-8."""
    odd = bytes(range(256)) + b"\r\n\0:;,'\"\\/{}[]" * 30 + b"\xff\xfe\x80"
    assert len(odd) > 650
    value = {
        "bytes": odd,
        "text": odd.decode("latin-1"),
        "": [None, -(2**63), 2**64 - 1, 0.1, "\U0001f600"],
        "a/b\0": {},
    }
    assert client.set("x01/pump/blob", value).value == value
    assert client.get("x01/pump/blob") == value


def test_array_comes_back_as_numpy(client, pump):
    numpy = pytest.importorskip("numpy")
    image = numpy.arange(12, dtype="u2").reshape(3, 4)
    client.set("x01/pump/blob", image)
    assert (client.get("x01/pump/blob") == image).all()


def test_two_hundred_clients_at_once_are_all_served(beamline, pump):
    answers, barrier = [], threading.Barrier(200)

    def ask():
        barrier.wait()
        with ecs.connect(beamline.config, timeout=30) as client:
            answers.append(client.get("x01/pump/setpoint"))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [1.0] * 200


def test_one_client_in_many_threads_gives_each_its_own_answer(client, pump):
    wrong = []

    def ask(number):
        for step in range(50):
            value = client.set("x01/pump/blob", [number, step]).value
            if value != [number, step]:
                wrong.append((number, step, value))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_without_a_broker_a_request_times_out_and_names_the_endpoint(stopped_beamline):
    client = stopped_beamline.client()
    begin = time.monotonic()
    text = "no connection to the broker at ipc://.*/req: kv.get x01/pump/x was not sent"
    with pytest.raises(ecs.EcsTimeout, match=text):
        client.get("x01/pump/x", timeout=0.3)
    assert 0.25 < time.monotonic() - begin < 2
    assert isinstance(ecs.EcsTimeout("x"), TimeoutError)


def test_broker_that_does_not_answer_is_named_after_the_deadline(beamline, client):
    client.status()
    beamline.broker.send_signal(signal.SIGSTOP)
    with pytest.raises(ecs.EcsTimeout, match="the broker at ipc://.* did not answer in time: status.get"):
        client.status(timeout=0.2)
    beamline.broker.send_signal(signal.SIGCONT)
    # The late answer is dropped: the next ones are their own.
    for _ in range(20):
        assert client.ls("x01/none") == []


def test_a_request_that_timed_out_unsent_is_never_carried_out(stopped_beamline):
    client = stopped_beamline.client()
    with pytest.raises(ecs.EcsTimeout):
        client.submit("write", {"images": 1}, timeout=0.1)
    stopped_beamline.start()
    agent = stopped_beamline.agent("x01/late")
    agent.service("write")(lambda job: None)
    agent.start()
    assert client.jobs() == []


def test_watches_and_requests_go_on_after_the_broker_was_killed(beamline, client, pump):
    watch, topics = client.watch("x01/pump/setpoint"), client.subscribe("x01/pump/kv/setpoint")
    assert watch.next(5).value == 1.0 and topics.next(5).payload == 1.0
    beamline.stop(signal.SIGKILL)
    with pytest.raises(ecs.EcsTimeout):
        client.get("x01/pump/setpoint", timeout=0.2)
    beamline.start()
    wait_for("the agent's return", lambda: client.status(timeout=5).agents.get("x01/vacuum"))
    pump.setpoint = 5
    values = []
    while 5.0 not in values:
        values.append(watch.next(10).value)
    while topics.next(10).payload != 5.0:
        pass
    assert client.get("x01/pump/setpoint") == 5.0


def test_request_that_only_asks_survives_a_broken_connection_and_an_action_ends_as_disconnected(beamline, client):
    agent = beamline.agent("x01/slow")
    slow = agent.subsystem("x01/slow")
    begun = threading.Event()

    @slow.call("wait")
    def wait(ctx):
        begun.set()
        ctx.wait_cancelled(20)

    agent.start()
    call = client.call_later("wait", timeout=20)
    assert begun.wait(5)
    beamline.broker.send_signal(signal.SIGSTOP)
    asked = client._connection.request("status.get", {}, timeout=20)
    time.sleep(0.1)
    beamline.stop(signal.SIGKILL)
    with pytest.raises(ecs.Disconnected, match="call.do wait was answered; it may have been carried out"):
        call.result()
    beamline.start()
    assert asked.result()["broker"]["beamline"] == "x01"


def test_watch_that_the_broker_does_not_take_after_a_restart_is_asked_for_again(beamline, client, pump, monkeypatch):
    monkeypatch.setattr("ecs.feeds.REPEAT_INTERVAL_S", 0.1)
    asked, request = [], client._connection.request

    def refused_twice(kind, fields, *more):
        if kind != "kv.watch":
            return request(kind, fields, *more)
        asked.append(fields["items"])
        # An item that is none is refused, as a broker may that has no room just then.
        return request(kind, {"items": ["x01"]} if len(asked) <= 2 else fields, *more)

    watch, other = client.watch("x01/pump/setpoint"), client.watch("x01/pump/mode")
    assert watch.next(5).value == 1.0
    monkeypatch.setattr(client._connection, "request", refused_twice)
    beamline.stop(signal.SIGKILL)
    other.close()
    beamline.start()
    wait_for("the third time", lambda: len(asked) == 3)
    assert asked == [["x01/pump/setpoint"]] * 3
    pump.setpoint = 5
    while watch.next(5).value != 5.0:
        pass


def test_watch_that_begins_while_another_one_ends_is_told(client, pump, monkeypatch):
    """The broker is told of the end late: when the other one has begun, were it not to wait for that."""
    request, ending, begun = client._connection.request, threading.Event(), threading.Event()

    def late(kind, *more):
        if kind == "kv.unwatch":
            ending.set()
            begun.wait(0.5)
        return request(kind, *more)

    first = client.watch("x01/pump/setpoint")
    assert first.next(5).value == 1.0
    monkeypatch.setattr(client._connection, "request", late)
    end = threading.Thread(target=first.close)
    end.start()
    assert ending.wait(5)
    with client.watch("x01/pump/setpoint") as watch:
        begun.set()
        end.join()
        pump.setpoint = 7
        while watch.next(5).value != 7.0:
            pass


def test_closing_a_watch_and_then_its_client_logs_nothing(beamline, pump, caplog):
    for _ in range(5):
        with beamline.client() as client, client.watch("x01/pump/setpoint"):
            client.get("x01/pump/setpoint")
    assert caplog.text == ""


def test_lost_messages_are_summed_over_connections(client, pump):
    connection = client._connection
    count = lambda lost: connection.guarded(  # noqa: E731
        connection._received, [envelope.encode("header", {**envelope.header("x", 0), "lost": lost}), b"\x80"]
    )
    for lost in (0, 3, 10):
        count(lost)
    connection._note(Event.CONNECTED)
    for lost in (0, 2, 3):
        count(lost)
    assert connection.lost == 13


def test_watches_and_subscriptions_end_with_their_client(beamline, pump):
    client, ended, ready = beamline.client(), [], threading.Barrier(4)

    def read(feed):
        feed.next(5)
        ready.wait(5)
        ended.append(list(feed))

    feeds = [client.watch("x01/pump/setpoint"), client.subscribe("x01/pump/kv/setpoint")]
    threads = [threading.Thread(target=read, args=(feed,)) for feed in feeds]
    closed = client.watch("x01/pump/setpoint")
    threads.append(threading.Thread(target=read, args=(closed,)))
    for thread in threads:
        thread.start()
    ready.wait(5)
    closed.close()
    client.close()
    for thread in threads:
        thread.join(5)
    assert ended == [[]] * 3
    with pytest.raises(ecs.Disconnected):
        feeds[0].next()
    assert closed not in client._connection.on_closed


def test_close_ends_open_requests_and_later_ones(beamline):
    client = beamline.client()
    beamline.broker.send_signal(signal.SIGSTOP)
    future = client.call_later("nothing", timeout=30)
    time.sleep(0.05)
    client.close()
    with pytest.raises(ecs.Disconnected):
        future.result(5)
    with pytest.raises(ecs.Disconnected, match="this client is closed"):
        client.status()


def test_requests_time_out_however_many_have_before_and_leave_nothing_behind(stopped_beamline, monkeypatch):
    monkeypatch.setattr("ecs.connection.WAITING_MAX", 20)
    client = stopped_beamline.client()
    for _ in range(3):
        early = [client.call_later("nothing", {"n": n}, timeout=0.2) for n in range(15)]
        for future in early:
            with pytest.raises(ecs.EcsTimeout):
                future.result(5)
    assert not client._connection._outbox
    # As many as may wait, for long: another one ends in its own time all the same, and there is room when they go.
    late = [client.call_later("nothing", timeout=30) for _ in range(20)]
    with pytest.raises(ecs.EcsTimeout, match="20 messages wait for it: kv.get x01/pump/x was not sent"):
        client.get("x01/pump/x", timeout=0.2)
    [future.cancel() for future in late[:5]]
    with pytest.raises(ecs.EcsTimeout, match="no connection to the broker at ipc://.*/req: kv.get"):
        client.get("x01/pump/x", timeout=0.5)
    client.close()
    for future in late[5:]:
        with pytest.raises(ecs.Disconnected):
            future.result(5)


def test_close_ends_what_the_io_thread_has_not_even_seen(stopped_beamline):
    client = stopped_beamline.client()
    connection, held, gate = client._connection, threading.Event(), threading.Event()
    hold = lambda: (held.set(), gate.wait(10))  # noqa: E731
    connection.post(lambda: connection.call_at(0, hold))  # timers come after what was posted, and the end after them
    assert held.wait(5)
    future = client.call_later("nothing", timeout=30)
    closing = threading.Thread(target=client.close)
    closing.start()
    wait_for("the end", lambda: connection.is_closed)
    gate.set()
    with pytest.raises(ecs.Disconnected, match="closed before call.do nothing was answered"):
        future.result(5)
    closing.join()


def test_await_that_is_open_at_close_ends(stopped_beamline, monkeypatch):
    """Also when all threads for callbacks are busy then."""
    monkeypatch.setattr("ecs.connection.CALLBACK_THREADS_MAX", 1)
    client, gate = stopped_beamline.client(), threading.Event()
    client._connection.callbacks.run(lambda: gate.wait(10))

    async def ask():
        asked = asyncio.wrap_future(client.call_later("nothing", timeout=30))
        asyncio.get_running_loop().run_in_executor(None, lambda: (client.close(), gate.set()))
        return await asyncio.wait_for(asked, 5)

    with pytest.raises(ecs.Disconnected):
        asyncio.run(ask())


def test_timeout_that_is_none_is_refused(client):
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ecs.EcsError, match="timeout"):
            client.status(timeout=wrong)


def test_future_works_with_asyncio(client, pump):
    async def ask():
        return await asyncio.wrap_future(client.event_later("no_such_event", ["x01/pump"]))

    assert asyncio.run(ask())["x01/pump"].end == "not_handled"


def test_wrong_file_endpoint_and_key_are_named(tmp_path):
    with pytest.raises(ecs.EcsError, match="cannot read the beamline file .*none.toml"):
        ecs.connect(tmp_path / "none.toml")
    with pytest.raises(ecs.EcsError, match="give tcp://HOST:PORT"):
        ecs.connect("ipc:///tmp/x")
    (tmp_path / "bad.key").write_text('name = "anna"\nsecret_key = "hush"\n')
    with pytest.raises(ecs.EcsError, match="bad.key") as raised:
        ecs.connect("tcp://127.0.0.1:1", key=tmp_path / "bad.key")
    assert "hush" not in str(raised.value)

"""What an agent does with the questions of a broker. The broker here is a bare ROUTER: the test is the peer."""

from __future__ import annotations

import threading
import time

import msgpack
import pytest
import zmq

import ecs


class BareBroker:
    def __init__(self, folder):
        self.where = f"ipc://{folder}/req"
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(self.where)

    def close(self):
        self._context.destroy(linger=0)

    def agent(self, name):
        return ecs.Agent(name, self.where, publish=self.where.replace("/req", "/pub"))

    def say(self, identity, header, body):
        self._router.send_multipart([identity, msgpack.packb({"v": 1, **header}), msgpack.packb(body)])

    def next_of(self, kind):
        """The next message of this kind. Heartbeats are answered, if they are not what is waited for."""
        until = time.monotonic() + 10
        while time.monotonic() < until and self._router.poll(5_000):
            identity, header, body = self._router.recv_multipart()
            header = msgpack.unpackb(header)
            if header["kind"] == kind:
                return identity, header, msgpack.unpackb(body)
            if header["kind"] == "agent.heartbeat":
                self.beat(identity, header)
        raise AssertionError(f"no {kind}")

    def beat(self, identity, header):
        self.say(identity, {"kind": "agent.heartbeat.reply", "id": header["id"]}, {})

    def welcome(self, identity, header, registered, started_ns=1):
        described = [{"name": its["name"], "uuid": "", "restored": []} for its in registered["subsystems"]]
        body = {"beamline": "x01", "heartbeat_ms": 50, "timeout_ms": 3000, "started_ns": started_ns}
        body["subsystems"] = described
        self.say(identity, {"kind": "agent.register.reply", "id": header["id"]}, body)

    def beat_until_ended(self, thread):
        while thread.is_alive():
            identity, header, _ = self.next_of("agent.heartbeat")
            self.beat(identity, header)
            thread.join(0.1)


@pytest.fixture
def bare_broker(tmp_path):
    broker = BareBroker(tmp_path)
    yield broker
    broker.close()


def begin(agent):
    starting = threading.Thread(target=agent.start, kwargs={"ready": False})
    starting.start()
    return starting


def test_a_question_that_was_lost_on_the_way_and_is_cancelled_is_answered(bare_broker):
    agent = bare_broker.agent("x01/vacuum")
    starting = begin(agent)
    identity, header, registered = bare_broker.next_of("agent.register")
    bare_broker.welcome(identity, header, registered)
    bare_broker.say(identity, {"kind": "exchange.cancel", "id": 0}, {"id": 7})
    _, header, failure = bare_broker.next_of("error")
    assert (header["id"], failure["code"]) == (7, "cancelled")
    bare_broker.beat_until_ended(starting)
    agent.close(0)


def test_what_a_broker_asks_before_its_welcome_is_done_and_what_the_one_before_it_asked_is_given_up(bare_broker):
    """An agent that asks twice to be registered, since the first answer is late, may be asked before the second one."""
    before, new = 1_000, 2_000
    agent = bare_broker.agent("x01/stage")

    @agent.subsystem("x01/stage-box").call("is_given_up", at_once=2)
    def is_given_up(ctx, seconds: float):
        return ctx.wait_cancelled(seconds)

    def ask(identity, id, seconds):
        params = {"seconds": seconds}
        body = {"subsystem": "x01/stage-box", "call": "is_given_up", "params": params, "by": "me"}
        bare_broker.say(identity, {"kind": "call.run", "id": id, "deadline_ms": 60_000}, body)

    starting = begin(agent)
    identity, header, registered = bare_broker.next_of("agent.register")
    bare_broker.welcome(identity, header, registered, started_ns=before)
    bare_broker.beat_until_ended(starting)
    ask(identity, before + 1, 60.0)
    identity, header, _ = bare_broker.next_of("agent.heartbeat")
    failure = {"code": "not_registered", "message": "a new broker"}
    bare_broker.say(identity, {"kind": "error", "id": header["id"]}, failure)
    identity, header, registered = bare_broker.next_of("agent.register")
    ask(identity, new + 1, 0.5)
    bare_broker.welcome(identity, header, registered, started_ns=new)
    ended = {}
    while len(ended) < 2:
        _, header, body = bare_broker.next_of("call.run.reply")
        ended[header["id"]] = body["value"]
    assert ended == {before + 1: True, new + 1: False}
    agent.close(0)

"""Keys: who has one speaks encrypted, to that broker alone, and may do what its role may.

The broker is a bare ROUTER where the bytes count, else a real one.
"""

import threading

import msgpack
import pytest
import zmq
from conftest import wait_for

import ecs


class KeyedRouter:
    """Answers every request with an empty list, behind CURVE."""

    def __init__(self):
        self.public, secret = zmq.curve_keypair()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server, self._socket.curve_secretkey = True, secret
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            identity, header, _ = self._socket.recv_multipart()
            asked = msgpack.unpackb(header)
            header = {"v": 1, "kind": f"{asked['kind']}.reply", "id": asked["id"]}
            self._socket.send_multipart([identity, msgpack.packb(header), msgpack.packb({"subsystems": []})])
        self._socket.close(0)

    def close(self):
        self._stop.set()
        self._thread.join()
        self._context.term()


@pytest.fixture
def router():
    router = KeyedRouter()
    yield router
    router.close()


def key_file(folder, broker_key):
    public, secret = zmq.curve_keypair()
    path = folder / "anna.key"
    texts = {"name": "anna", "public_key": public, "secret_key": secret, "broker_key": broker_key}
    lines = [f'{name} = "{value if isinstance(value, str) else value.decode()}"' for name, value in texts.items()]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("way", ["argument", "environment", "file"])
def test_client_with_the_key_is_let_in_by_each_way_to_name_it(router, tmp_path, monkeypatch, way):
    key, where = key_file(tmp_path, router.public), f"tcp://127.0.0.1:{router.port}"
    if way == "environment":
        monkeypatch.setenv("ECS_KEY", str(key))
    if way == "file":
        config = tmp_path / "beamline.toml"
        config.write_text(f'[broker]\nrequest_endpoint = "{where}"\nkey = "anna.key"\n')
        where = config
    with ecs.connect(where, key=key if way == "argument" else None) as client:
        assert client.ls(timeout=10) == []


def test_client_without_a_key_or_with_another_brokers_gets_no_connection_and_says_so(router, tmp_path):
    other, _ = zmq.curve_keypair()
    for key, why in [(None, "has keys and this side none"), (key_file(tmp_path, other), "broke off the handshake")]:
        with ecs.connect(f"tcp://127.0.0.1:{router.port}", key=key) as client:

            def reason(client=client):
                with pytest.raises(ecs.EcsTimeout, match="no connection to the broker") as raised:
                    client.ls(timeout=0.3)
                return raised.value.message

            wait_for(f"to be told: {why}", lambda reason=reason, why=why: why in reason())
            assert all(why in reason() for _ in range(3)), "also when it has tried again"


@pytest.fixture
def keyed(stopped_beamline):
    """A beamline with keys, and those of an agent, an operator and a viewer."""
    stopped_beamline.cli("keys", "init")
    roles = {"vacuum": ["--role", "agent"], "anna": ["--role", "operator"], "eve": ["--role", "viewer"]}
    keys = {name: stopped_beamline.add_key(name, *role) for name, role in roles.items()}
    return stopped_beamline.start(key=keys["anna"]), keys


def host(beamline, key):
    """The agent and a subsystem below its name: by the key's pattern others are not its own."""
    agent = beamline.agent("x01/vacuum", key=key)
    pump = agent.subsystem("x01/vacuum/pump")
    pump.item("speed", ecs.i64(), writable=True, initial=1)
    pump.call("who")(lambda ctx: ctx.by)
    agent.service("pump.down")(lambda job: {"by": 7})
    return agent, pump


def test_agent_and_operator_with_their_keys_do_everything_over_a_real_broker(keyed):
    beamline, keys = keyed
    agent, pump = host(beamline, keys["vacuum"])
    agent.start()
    anna = beamline.client(key=keys["anna"])
    with anna.watch("x01/vacuum/pump/speed") as watch, anna.subscribe("x01/vacuum/pump/kv/") as topics:
        assert watch.next(5).value == 1 and topics.next(5).payload == 1
        assert anna.set("x01/vacuum/pump/speed", 2).value == 2 and pump.speed == 2
        assert watch.next(5).value == 2 and topics.next(5).payload == 2
    assert anna.call("who") == "anna"
    assert anna.wait_job(anna.submit("pump.down").id, 20).require_done().result == {"by": 7}
    assert agent.get("x01/vacuum/pump/speed") == 2


def test_viewer_reads_and_is_refused_the_rest_and_a_key_opens_its_own_names_alone(keyed):
    beamline, keys = keyed
    agent, pump = host(beamline, keys["vacuum"])
    agent.start()
    eve = beamline.client(key=keys["eve"])
    assert eve.get("x01/vacuum/pump/speed") == 1 and eve.ls()
    for refused in (
        lambda: eve.set("x01/vacuum/pump/speed", 3),
        lambda: eve.call("who"),
        lambda: eve.submit("pump.down"),
    ):
        with pytest.raises(ecs.Forbidden):
            refused()
    assert pump.speed == 1
    for name, key in [("x01/other", "vacuum"), ("x01/vacuum", "anna")]:
        with pytest.raises(ecs.Forbidden):
            beamline.agent(name, key=keys[key]).start()


@pytest.mark.parametrize("who", ["client", "agent"])
def test_whoever_has_no_key_or_one_that_was_revoked_is_told_so(keyed, who):
    beamline, keys = keyed
    agent, _ = host(beamline, keys["vacuum"])
    agent.start()
    anna = beamline.client(key=keys["anna"])
    name = "vacuum" if who == "agent" else "eve"

    def refusal(key):
        with pytest.raises(ecs.EcsError) as raised:
            if who == "agent":
                host(beamline, key)[0].start(timeout=0.5)
            else:
                beamline.client(key=key).ls(timeout=0.5)
        return raised.value

    assert "the broker has keys and this side none" in refusal(None).message
    beamline.cli("keys", "revoke", name)
    if who == "agent":  # also an open connection is cut
        wait_for("its end", lambda: anna.status().agents["x01/vacuum"].state == "gone")
    else:
        wait_for("its end", lambda: not may_ask(beamline, keys[name]))
    told = wait_for("the reason", lambda: "does not accept this key" in refusal(keys[name]).message)
    assert told and anna.ls() != []


def may_ask(beamline, key):
    with ecs.connect(beamline.config, key=key) as client:
        try:
            return client.ls(timeout=0.5) is not None
        except (ecs.EcsTimeout, ecs.Forbidden):
            return False

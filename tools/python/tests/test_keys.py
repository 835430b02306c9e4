"""Keys: a client with a key speaks encrypted, and to that broker alone. The broker here is a bare ROUTER."""

import threading

import msgpack
import pytest
import zmq

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
    for key in (None, key_file(tmp_path, other)):
        with ecs.connect(f"tcp://127.0.0.1:{router.port}", key=key) as client:
            with pytest.raises(ecs.EcsTimeout, match="no connection to the broker"):
                client.ls(timeout=0.5)

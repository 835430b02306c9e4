"""A real broker for each test, in a folder and on sockets of its own."""

from __future__ import annotations

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest

import ecs

ROOT = pathlib.Path(__file__).parents[3]
ECS_CLI = os.environ.get("ECS_CLI", str(ROOT / "target/release/ecs-cli"))
#: How long processes may take to start or stop on a busy machine.
PATIENCE_S = 20.0
#: Short, so that deaths are noticed soon: an agent is gone after TIMEOUT_S of silence.
HEARTBEAT_S, TIMEOUT_S = 0.2, 1.0


def wait_for(what, condition, patience=PATIENCE_S):
    """Waits until `condition()` is true, and returns it; fails naming `what` otherwise."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"{what} did not happen within {patience} s"
        time.sleep(0.01)


class Beamline:
    """`ecs-cli broker` on a configuration of its own. Its name is x01."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.config = folder / "beamline.toml"
        requests, publish = folder / "req", folder / "pub"
        (folder / "detector.json").write_text((ROOT / "tools/demo-detector.json").read_text())
        self.config.write_text(
            f'[beamline]\nname = "x01"\n[broker]\nrequest_endpoint = "ipc://{requests}"\n'
            f'publish_endpoint = "ipc://{publish}"\nheartbeat = "{int(HEARTBEAT_S * 1000)} ms"\n'
            f'timeout = "{int(TIMEOUT_S * 1000)} ms"\n[detector]\nconfig = "detector.json"\n'
        )
        self._processes: list[subprocess.Popen] = []
        self._opened: list = []
        self.broker: subprocess.Popen | None = None

    def cli(self, *arguments: str) -> str:
        """What `ecs-cli` prints."""
        command = [ECS_CLI, *arguments, "--config", str(self.config)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout

    def add_key(self, name: str, *more: str) -> pathlib.Path:
        """A key of the broker's, for somebody; of a beamline that has keys."""
        path = self.folder / f"{name}.key"
        self.cli("keys", "add", name, "--output", str(path), *more)
        return path

    def start(self, **more):
        log = open(self.folder / "broker.log", "ab")
        # Signals as Python has them: a write that a limit refuses (`disk_fails`) is an error and not the end.
        command = [ECS_CLI, "broker", "--config", str(self.config)]
        self.broker = self._spawn(command, stdout=log, stderr=log, restore_signals=False)
        with self.client(**more) as client:
            wait_for("the broker's answer", lambda: self._answers(client))
        return self

    def _answers(self, client):
        assert self.broker.poll() is None, (self.folder / "broker.log").read_text()
        try:
            return client.status(timeout=0.5)
        except ecs.EcsTimeout:
            return None

    def stop(self, number=signal.SIGTERM):
        self.broker.send_signal(number)
        self.broker.wait(PATIENCE_S)

    def disk_fails(self, does_fail: bool) -> None:
        """From now on no file of the broker's can be written, or all can again."""
        limit = (0 if does_fail else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.broker.pid, resource.RLIMIT_FSIZE, limit)

    def client(self, **more) -> ecs.Client:
        return self._open(ecs.connect(self.config, **more))

    def agent(self, name, **more) -> ecs.Agent:
        return self._open(ecs.Agent(name, self.config, **more))

    def process(self, source: str) -> subprocess.Popen:
        """A Python process that runs `source`, with `ecs`, `CONFIG` and `time` at hand."""
        header = f"import os, sys, time, ecs\nCONFIG = {str(self.config)!r}\n"
        return self._spawn([sys.executable, "-c", header + textwrap.dedent(source)])

    def _spawn(self, command, **more):
        process = subprocess.Popen(command, **more)
        self._processes.append(process)
        return process

    def _open(self, connection):
        self._opened.append(connection)
        return connection

    def close(self):
        for connection in reversed(self._opened):
            if isinstance(connection, ecs.Agent):
                connection.close(grace=0.0)
            else:
                connection.close()
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(PATIENCE_S)


@pytest.fixture
def folder():
    """Not pytest's own, whose path is too long for a UNIX socket's."""
    path = tempfile.mkdtemp(prefix="ecs-")
    yield pathlib.Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def stopped_beamline(folder):
    """Not started yet."""
    beamline = Beamline(folder)
    yield beamline
    beamline.close()


@pytest.fixture
def beamline(stopped_beamline):
    return stopped_beamline.start()


@pytest.fixture
def client(beamline):
    return beamline.client()


@pytest.fixture
def agent(beamline):
    return beamline.agent("x01/vacuum")


def is_ready(client, agent):
    status = client.status().agents.get(agent)
    return status is not None and status.state == "ready"


def value_or_none(client, item):
    try:
        return client.get(item)
    except (ecs.NotSet, ecs.NotFound):
        return None

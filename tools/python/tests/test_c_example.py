"""`tools/c/publish_kv.c`: built with the system's compiler, run against a real broker, read with this client.

libzmq is the system's where pkg-config knows one, else the one that the Rust build has made.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import PATIENCE_S, ROOT, TIMEOUT_S, wait_for

SOURCE = ROOT / "tools/c/publish_kv.c"


def libzmq():
    """The compiler's flags."""
    if shutil.which("pkg-config") and subprocess.run(["pkg-config", "--exists", "libzmq"]).returncode == 0:
        asked = ["pkg-config", "--cflags", "--libs", "libzmq"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    target = pathlib.Path(os.environ.get("ECS_TARGET", ROOT / "target"))
    for built in sorted(target.glob("release/build/zmq-sys-*/out")):
        library, header = built / "lib/libzmq.a", next(built.glob("**/include/zmq.h"), None)
        if library.exists() and header is not None:
            bundled = [str(path) for path in sorted(built.glob("*.a"))]  # its CURVE, where it was built with one
            return [f"-I{header.parent}", str(library), *bundled, "-lstdc++", "-lpthread"]
    pytest.fail("neither pkg-config nor the Rust build has a libzmq: build ecs-cli here first")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    program = tmp_path_factory.mktemp("c") / "publish_kv"
    compiler = shutil.which("cc") or pytest.fail("no C compiler")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2"]
    subprocess.run([compiler, *strict, str(SOURCE), "-o", str(program), *libzmq(), "-lm"], check=True)
    return program


def test_c_agent_publishes_ten_times_a_second_survives_the_broker_and_takes_its_leave(beamline, client, program):
    endpoint = f"ipc://{beamline.folder}/req"
    process = beamline._spawn([str(program), endpoint, "x01/c-example"])
    wait_for("the agent", lambda: client.ls("x01/c-example"))
    item = client.show("x01/c-example").items["sine"]
    assert (item["type"], item["unit"], item["writable"]) == ("f64", "V", False)
    with client.watch("x01/c-example/sine") as watch:
        first = watch.next(5)
        updates = [watch.next(5) for _ in range(20)]
        took = (updates[-1].time_ns - first.time_ns) / 1e9  # by the broker's clock; a busy machine makes it longer
        assert all(-1 <= update.value <= 1 for update in updates) and len({update.value for update in updates}) > 10
        assert updates[-1].revision - first.revision >= 20 and took > 1.0
        beamline.stop(signal.SIGKILL)
        beamline.start()
        until = time.monotonic() + PATIENCE_S
        while watch.next(PATIENCE_S).time_ns <= updates[-1].time_ns:
            assert time.monotonic() < until
    time.sleep(2 * TIMEOUT_S)
    assert client.status().agents["x01/c-example"].state == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert client.status().agents["x01/c-example"].state == "gone"


def test_c_agent_says_why_it_is_refused(beamline, program):
    process = subprocess.Popen(
        [str(program), f"ipc://{beamline.folder}/req", "x02/other"], stderr=subprocess.PIPE, text=True
    )
    assert "x02/other is not a name of this beamline" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    wrong = subprocess.run([str(program), "nowhere", "x01/a"], capture_output=True, text=True, timeout=10)
    assert wrong.returncode == 2 and "nowhere" in wrong.stderr

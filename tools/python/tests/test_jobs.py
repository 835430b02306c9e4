"""Jobs: what an agent's service does, and how its end reaches whoever waits."""

from __future__ import annotations

import signal
import subprocess
import threading
import time

import pytest
from conftest import ECS_CLI, wait_for

import ecs


def test_job_runs_with_progress_and_ends_done_failed_rejected_or_cancelled(agent, client):
    killed = []

    @agent.service("expose", on_kill=lambda job: killed.append(job.id))
    def expose(job, frames: int, fail: str = ""):
        if fail == "refuse":
            raise ecs.Refuse("Shutter closed")
        job.accept()
        for done in range(frames):
            job.progress(done, frames, "frames", 100 * done)
            if job.wait_cancelled(0.01):
                raise ecs.Cancelled("stopped by hand")
        if fail:
            raise ecs.EcsError("No room", code="disk_full")
        return {"frames": frames}

    agent.start()
    seen = []
    job = client.wait_job(client.submit("expose", {"frames": 40}).id, 20, progress=seen.append)
    assert (job.state, job.result, job.agent) == ("done", {"frames": 40}, "x01/vacuum") and seen[-1].unit == "frames"
    assert [state for state, _ in job.history] == ["submitted", "accepted", "running", "done"]
    failed = client.wait_job(client.submit("expose", {"frames": 1, "fail": "x"}).id, 20)
    with pytest.raises(ecs.EcsError, match="No room") as raised:
        failed.require_done()
    assert (failed.state, raised.value.code) == ("failed", "disk_full")
    refused = client.wait_job(client.submit("expose", {"frames": 1, "fail": "refuse"}).id, 20)
    assert (refused.state, refused.error.message) == ("rejected", "Shutter closed")
    wrong = client.wait_job(client.submit("expose", {"frame": 1}).id, 20)
    assert wrong.state == "rejected" and "no parameter 'frame'" in wrong.error.message
    long = client.submit("expose", {"frames": 10_000}, key="long")
    assert client.submit("expose", {"frames": 10_000}, key="long").id == long.id
    wait_for("its running", lambda: client.job(long.id).state == "running")
    client.cancel(long.id)
    ended = client.wait_job(long.id, 20)
    assert (ended.state, ended.error.message, killed) == ("cancelled", "stopped by hand", [long.id])
    assert [job.id for job in client.jobs(limit=2)] == [long.id, wrong.id]
    with pytest.raises(ecs.NotFound) as raised:
        client.job(10**6)
    assert raised.value.code == "no_such_job"
    with pytest.raises(ecs.NotFound) as raised:
        client.submit("exposes")
    assert raised.value.code == "no_such_service"


def test_service_gets_the_parameters_that_it_names_all_or_none(agent, client):
    agent.service("all")(lambda job, **given: given)
    agent.service("some")(lambda job, a, **given: [a, given])
    agent.service("none")(lambda job: job.params)
    agent.start()
    for service, params, result in [
        ("all", {"n": 3, "m": [1]}, {"n": 3, "m": [1]}),
        ("all", None, {}),
        ("some", {"a": 1, "n": 3}, [1, {"n": 3}]),
        ("none", {"n": 3}, {"n": 3}),
    ]:
        job = client.wait_job(client.submit(service, params).id, 20)
        assert job.require_done().result == result, service


def test_job_whose_end_comes_while_the_broker_is_away_is_done_when_it_is_back(beamline, agent, client):
    gate = threading.Event()

    @agent.service("expose")
    def expose(job):
        job.running()
        gate.wait(20)
        return job.params

    agent.start()
    job = client.submit("expose", {"n": 3})
    wait_for("its running", lambda: client.job(job.id).state == "running")
    beamline.stop(signal.SIGKILL)
    gate.set()
    beamline.start()
    assert client.wait_job(job.id, 20).require_done().result == {"n": 3}


def test_job_whose_result_is_too_large_fails_and_says_so(agent, client):
    agent.service("expose")(lambda job: bytes(1024 * 1024))
    agent.start()
    job = client.wait_job(client.submit("expose").id, 20)
    assert job.state == "failed" and "refused" in job.error.message


def test_job_whose_result_cannot_be_sent_fails_says_so_and_makes_room(beamline, agent, client):
    gate = threading.Event()

    @agent.service("hash")
    def hash_(job, odd: bool):
        job.running()
        return gate.wait(20) and (2**70 if odd else 7)

    agent.start()
    first, second = client.submit("hash", {"odd": True}), client.submit("hash", {"odd": True})
    wait_for("its running", lambda: client.job(first.id).state == "running")
    beamline.stop(signal.SIGKILL)  # its end is told when the agent registers again
    gate.set()
    wait_for("its end", lambda: agent._jobs[first.id].has_ended)
    beamline.start()
    for job in (first, second):
        ended = client.wait_job(job.id, 20)
        assert ended.state == "failed" and "cannot be sent" in ended.error.message
    assert client.wait_job(client.submit("hash", {"odd": False}).id, 20).result == 7


def test_wait_for_a_job_that_takes_longer_names_who_has_it(agent, client):
    agent.service("expose")(lambda job: job.running() or job.wait_cancelled(20))
    agent.start()
    job = client.submit("expose")
    with pytest.raises(ecs.EcsTimeout, match="is running after 0.3 s; it is for x01/vacuum"):
        client.wait_job(job.id, 0.3)


def test_wait_for_a_job_outlasts_a_broker_that_is_away_and_ends_in_its_own_time(beamline, agent):
    gate, seen = threading.Event(), []

    @agent.service("expose")
    def expose(job):
        job.progress(1, 2)
        gate.wait(20)
        return 7

    agent.start()
    client = beamline.client(timeout=0.2)  # so that many looks go wrong meanwhile
    job = client.submit("expose", timeout=5)
    waiter = threading.Thread(target=lambda: seen.append(client.wait_job(job.id, progress=seen.append)))
    waiter.start()
    wait_for("its progress", lambda: seen)
    beamline.stop(signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(ecs.EcsTimeout, match="no connection to the broker"):
        client.wait_job(job.id, timeout=1.0)
    assert time.monotonic() - begin >= 1.0
    gate.set()
    beamline.start()
    waiter.join(20)
    assert seen[-1].result == 7
    closed = beamline.client()
    closed.close()
    with pytest.raises(ecs.Disconnected, match="this client is closed"):
        closed.wait_job(job.id)


def test_end_of_a_job_outlasts_a_key_that_is_taken_away_meanwhile(stopped_beamline, monkeypatch):
    """The report is refused once for certain before the key is given back."""
    config = str(stopped_beamline.config)
    subprocess.run([ECS_CLI, "keys", "init", "--config", config], check=True, stdout=subprocess.DEVNULL)
    entry = next(stopped_beamline.folder.glob("**/clients/agents.toml"))
    monkeypatch.setenv("ECS_KEY", str(entry.parents[1] / "agents.key"))
    stopped_beamline.start()
    agent, client = stopped_beamline.agent("x01/vacuum"), stopped_beamline.client()
    gate, refusals = threading.Event(), []
    reported = agent._reported

    def note(job, report, error):
        refusals.extend([error.code] if error is not None else [])
        reported(job, report, error)

    agent._reported = note

    @agent.service("expose")
    def expose(job):
        job.running()
        gate.wait(20)

    agent.start()
    job = client.submit("expose")
    wait_for("its running", lambda: client.job(job.id).state == "running")
    entry.rename(entry.with_suffix(".away"))
    wait_for("the key to be taken away", lambda: is_forbidden(client))
    gate.set()
    wait_for("the refusal", lambda: "forbidden" in refusals)
    entry.with_suffix(".away").rename(entry)
    wait_for("the key to be back", lambda: not is_forbidden(client))
    assert client.wait_job(job.id, 20).require_done().state == "done"


def is_forbidden(client):
    try:
        client.status()
    except ecs.EcsError as error:
        return error.code == "forbidden"
    return False

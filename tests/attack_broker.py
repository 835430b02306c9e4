"""Sends a broker everything that is not a message: wrong part counts, cut, deep and huge MessagePack, wrong
types, unknown kinds, requests of strangers. The broker must go on answering a good request after each.

    python tests/attack_broker.py ENDPOINT
"""

import os
import random
import sys

import msgpack
import zmq

context = zmq.Context()


def dealer():
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 5000)
    socket.connect(sys.argv[1])
    return socket


def header(kind, request_id=1, **more):
    return msgpack.packb({"v": 1, "kind": kind, "id": request_id, "deadline_ms": 1000, **more})


def attacks(source):
    empty, body = b"", msgpack.packb({})
    yield [empty]
    yield [b"x"] * 200
    yield [header("status.get")]
    yield [header("status.get"), body, body]
    yield [header("status.get"), b"\x91" * 5000]
    yield [header("status.get"), b"\xdd\xff\xff\xff\xff"]
    yield [msgpack.packb([1, 2, 3]), body]
    yield [msgpack.packb({"v": 99, "kind": "status.get", "id": 1}), body]
    yield [msgpack.packb({"v": 1, "kind": 7, "id": "x"}), body]
    yield [header("no.such.kind"), body]
    yield [header("k" * 100_000), body]
    for kind in ("agent.register", "agent.heartbeat", "job.submit", "job.get", "job.list", "job.cancel", "job.report",
                 "job.hold", "job.release", "job.move", "job.outcome", "job.progress", "telemetry", "agent.leave"):
        yield [header(kind), body]
        yield [header(kind), msgpack.packb({"id": -1, "name": 5, "service": None, "limit": 2**40, "values": [1]})]
        yield [header(kind), msgpack.packb({"id": 2**64 - 1, "name": "a" * 10_000, "key": "", "service": "write"})]
    for _ in range(300):
        yield [source.randbytes(source.randrange(300)) for _ in range(source.randrange(4))] or [empty]


def main():
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    attacker = dealer()
    for attack in attacks(random.Random(seed)):
        attacker.send_multipart(attack)
        friend = dealer()
        friend.send_multipart([header("status.get", 42), msgpack.packb({})])
        answer = msgpack.unpackb(friend.recv_multipart()[0])
        assert answer["kind"] == "status.get.reply" and answer["id"] == 42, answer
        friend.close()


main()

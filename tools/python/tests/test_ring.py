"""A live ring, read with `mmap` and `struct` by what shm-buffer/LAYOUT.md says, and nothing else.

Compared with `ecs-cli ring dump`, and with the pixels that the simulated detector sends.
"""

import json
import mmap
import os
import pathlib
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest
from conftest import ECS_CLI, PATIENCE_S, ROOT, wait_for

sys.path.insert(0, str(ROOT / "tests"))
from check_images import image as simulated_image  # noqa: E402
from check_images import quadrant  # noqa: E402

assert sys.byteorder == "little"
MIB_2, PAGE = 2 << 20, 4096
NO_IMAGE, NO_SLOT, REFUSED, BEING_WRITTEN = 65535, 65535, 65534, 65533
STATES = ["free", "open", "closing", "committed"]
ROLES = ["free", "joining", "contributor", "reliable reader", "lossy reader"]
CAUSES = ["NotReceived", "RingFull", "ReadoutStuck", "OwnerDown", "Several"]
LOST_NAMES = ["lost_not_received", "lost_ring_full", "lost_readout_stuck", "lost_assembler_down", "lost_several"]
PACKET_NAMES = ["packets_placed", "dropped_duplicate", "dropped_late", "dropped_early", "dropped_no_slot", "dropped_foreign"]
PACKET_NAMES += ["dropped_malformed", "dropped_shed", "dropped_unlisted", "packets_moved", "dropped_by_kernel", "bytes"]


def up_to(number, multiple):
    return -(-number // multiple) * multiple


class Ring:
    """A ring's file, mapped to look at."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        magic, version = struct.unpack_from("8sI", self.map, 0)
        assert (magic, version) == (b"ECS_RING", 5)
        names = ["slots", "window", "height", "width", "pixel_bytes", "packets_per_image", "fill"]
        self.geometry = dict(zip(names, struct.unpack_from("7I", self.map, 12)))
        self.__dict__.update(self.geometry)
        self.commits = 1
        while self.commits < 2 * self.slots:
            self.commits *= 2
        self.slots_at = 1408 + 112 * 512
        self.commits_at = self.slots_at + self.slots * 128
        self.bitmaps_at = self.commits_at + self.commits * 256
        self.bitmap_words = -(-self.packets_per_image // 64)
        self.bitmap_bytes = up_to(8 * self.bitmap_words, 64)
        self.image_bytes = self.height * self.width * self.pixel_bytes
        self.pixels_at = up_to(self.bitmaps_at + self.slots * self.bitmap_bytes, MIB_2)
        self.file_bytes = self.pixels_at + self.slots * up_to(self.image_bytes, PAGE)

    def u64(self, offset):
        return struct.unpack_from("Q", self.map, offset)[0]

    def u32(self, offset):
        return struct.unpack_from("I", self.map, offset)[0]

    def run_word_id(self, offset):
        word = self.u64(offset) & (1 << 48) - 1
        return word - 1 if word else None

    def commit_at(self, seq):
        return self.commits_at + seq % self.commits * 256

    def committed_slot(self, seq):
        """The slot of a step, or NO_IMAGE; none if it is not committed, or gone."""
        word = self.u64(self.commit_at(seq))
        return word & 0xFFFF if word >> 16 == seq + 1 and word & 0xFFFF != BEING_WRITTEN else None

    def head(self):
        head = self.u64(256)
        return head + 1 if self.committed_slot(head) is not None else head

    def bitmap(self, slot):
        return struct.unpack_from(f"{self.bitmap_words}Q", self.map, self.bitmaps_at + slot * self.bitmap_bytes)

    def packets(self, slot):
        """Of each packet, whether it is in its place."""
        words = self.bitmap(slot)
        return np.array([words[p // 64] >> p % 64 & 1 for p in range(self.packets_per_image)], bool)

    def pixels(self, slot):
        at = self.pixels_at + slot * up_to(self.image_bytes, PAGE)
        dtype = f"u{self.pixel_bytes}"
        return np.frombuffer(self.map[at : at + self.image_bytes], dtype).reshape(self.height, self.width)

    def image(self, seq, before_copy=lambda: None):
        """Id, packets and pixels of a committed image; none if there is none, or it was replaced while it was read."""
        slot, entry = self.committed_slot(seq), self.commit_at(seq)
        if slot in (None, NO_IMAGE):
            return None
        before_copy()
        word, image_id = self.u64(entry), (self.u64(entry + 16) >> 16) - 1
        received, packets, pixels = self.u32(entry + 24), self.packets(slot), self.pixels(slot)
        if self.u64(self.slots_at + slot * 128) != seq * 8 + 3 or self.u64(entry) != word or word & 0xFFFF != slot:
            return None
        assert received == packets.sum()
        return image_id, packets, pixels

    def step(self, seq):
        entry, slot = self.commit_at(seq), self.committed_slot(seq)
        lost = [struct.unpack_from("2Q", self.map, entry + 64 + 16 * k) for k in range(self.u64(entry + 16) & 0xFF)]
        has_image = slot != NO_IMAGE
        return {
            "sequence": seq,
            "run": self.u64(entry + 8),
            "slot": slot if has_image else None,
            "commit_utc_ns": self.u64(entry + 40) if has_image else None,
            "lost": [{"first_id": id, "count": what >> 8, "cause": CAUSES[(what & 0xFF) - 1]} for id, what in lost],
        }

    def slot(self, slot):
        at = self.slots_at + slot * 128
        word, marked = self.u64(at), sum(bin(word).count("1") for word in self.bitmap(slot))
        return {
            "slot": slot,
            "state": STATES[word & 7],
            "sequence": word >> 3 if word & 7 == 3 else None,
            "image": self.u64(at + 8),
            "run": self.u64(at + 16),
            "packets_received": self.u32(at + 44),
            "packets_marked": marked,
        }

    def open_images(self):
        words = struct.unpack_from(f"{self.window}Q", self.map, 896)
        entries = [((word >> 16) - 1, word & 0xFFFF) for word in words if word]
        has_none = (NO_SLOT, REFUSED)
        return [
            {"image": id, "slot": None if slot in has_none else slot, "is_refused": slot == REFUSED}
            for id, slot in entries
        ]

    def packet_counts(self, place):
        at = 1408 + place * 512 + 256
        return np.array(struct.unpack_from("12Q", self.map, at)), np.array(struct.unpack_from("12Q", self.map, at + 128))

    def participant(self, place):
        at = 1408 + place * 512
        identity, hazard = self.u64(at), self.u64(at + 128)
        role, pid = ROLES[identity & 0xFF], identity >> 32
        inside = [(hazard >> 16 * k & 0xFFFF) - 1 for k in range(4) if hazard >> 16 * k & 0xFFFF]
        now, joined = self.packet_counts(place)
        is_reader, cursor = role.endswith("reader"), self.u64(at + 136)
        return {
            "place": place,
            "name": self.map[at + 16 : at + 48].rstrip(b"\0").decode(),
            "role": role,
            "pid": pid,
            "is_alive": pathlib.Path(f"/proc/{pid}").exists(),
            "inside": inside if role == "contributor" else [],
            "cursor": cursor if is_reader else None,
            "behind": self.head() - cursor if is_reader else 0,
            "overtaken": self.u64(at + 160),
            "delivered": self.u64(at + 176),
            "refused": self.u64(at + 184),
            "packets_received": int((now - joined)[:9].sum()),
        }

    def counters(self):
        packets = sum(self.packet_counts(place)[0] for place in range(self.u64(80)))
        with_slot = [entry["slot"] for entry in self.open_images() if entry["slot"] is not None]
        return {
            "images_complete": self.u64(640),
            "images_partial": self.u64(648),
            "missing_packets": self.u64(656),
            "slots_in_quarantine": self.u64(664),
            "images_opened": self.u64(736),
            "images_discarded": self.u64(744),
            "images_open": len(with_slot),
            "packets_received": int(packets[:9].sum()),
            **dict(zip(LOST_NAMES, struct.unpack_from("5Q", self.map, 680))),
            **dict(zip(PACKET_NAMES, packets.tolist())),
        }

    def dump(self):
        """As `ecs-cli ring dump --json` prints it."""
        head, reclaimed = self.head(), self.u64(144)
        steps = range(max(reclaimed, head - self.commits), head)
        taken = [place for place in range(self.u64(80)) if self.u64(1408 + place * 512) & 0xFF]
        owner_pid = self.u32(48)
        owner = {"pid": owner_pid, "is_alive": pathlib.Path(f"/proc/{owner_pid}").exists(), "owners": self.u32(52)}
        return {
            "geometry": self.geometry,
            "file_bytes": self.file_bytes,
            "owner": owner,
            "is_closed": self.u32(92) != 0,
            "run": self.u64(128),
            "base": self.run_word_id(136),
            "counts_from": self.run_word_id(152),
            "commit_head": head,
            "reclaimed_seq": reclaimed,
            "participants": [self.participant(place) for place in taken],
            "counters": self.counters(),
            "slots": [self.slot(slot) for slot in range(self.slots)],
            "window": self.open_images(),
            "steps": [self.step(seq) for seq in steps],
        }


class Running:
    """`ecs-cli up` with one quadrant of an EIGER at 8 bit, and its ring."""

    def __init__(self, folder):
        self.folder, self.path = folder, f"/dev/shm/ecs-py-{os.getpid()}.ring"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        detector = {"detector_name": "simulated", "detector_type": "eiger", "bit_depth": 8, "n_modules": 1}
        detector |= {"image_pixel_height": 256, "image_pixel_width": 514, "start_udp_port": port}
        (folder / "detector.json").write_text(json.dumps(detector | {"module_positions": {"0": [0, 0, 513, 255]}}))
        (folder / "beamline.toml").write_text(
            f'[beamline]\nname = "x01"\n[broker]\nrequest_endpoint = "ipc://{folder}/req"\n'
            f'publish_endpoint = "ipc://{folder}/pub"\n[detector]\nconfig = "detector.json"\n'
            f'[readout]\naddress = "127.0.0.1"\n[ring]\npath = "{self.path}"\nsize = "4 MiB"\n'
        )
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("ECS_")}
        self.log = folder / "up.log"
        with open(self.log, "wb") as log:
            self.up = self.spawn("up", "beamline.toml", stdout=log, stderr=log)
        status = self.spawn("status", "--wait", "60", "--config", "beamline.toml", stdout=subprocess.DEVNULL)
        assert status.wait(90) == 0, self.log.read_text()

    def spawn(self, *arguments, **more):
        return subprocess.Popen([ECS_CLI, *arguments], cwd=self.folder, env=self.environment, **more)

    def simulate(self, images, rate_hz, *more):
        arguments = ["--config", "beamline.toml", "--images", str(images), "--rate", str(rate_hz), "--quiet"]
        return self.spawn("sim", "detector", *arguments, *more, stdout=subprocess.DEVNULL)

    def begin_writing(self):
        """A job for more images than will come: the writer reads the ring from now on."""
        job = ["submit", "write", "--config", "beamline.toml", "--output", "run.h5", "--images", "100000"]
        assert self.spawn(*job, stdout=subprocess.DEVNULL).wait(PATIENCE_S) == 0
        is_read = lambda: any("reader" in seat["role"] for seat in self.dumped()["participants"])
        wait_for("a reader", is_read)

    def dumped(self):
        command = [ECS_CLI, "ring", "dump", self.path, "--json"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S).stdout)

    def close(self):
        self.up.terminate()
        try:
            assert self.up.wait(3 * PATIENCE_S) == 0, self.log.read_text()
        finally:
            self.up.kill()


@pytest.fixture
def running(folder):
    running = Running(folder)
    yield running
    running.close()


class Simulated:
    """The pixels that the detector sends."""

    def __init__(self):
        self.detector = quadrant(8)
        self.base = simulated_image(0, 0, 256, 514, 8)

    def assert_is(self, image_id, packets, pixels):
        wanted = self.base ^ np.uint8(image_id % (2**6 - 3))
        wanted[~packets[self.detector.first]] = 0xFF
        wanted[self.detector.first < 0] = 0  # between chips
        assert np.array_equal(pixels, wanted), f"image {image_id}: {int((pixels != wanted).sum())} pixels are wrong"


def test_ring_at_rest_is_by_its_documented_layout_what_ring_dump_says_and_holds_the_detectors_pixels(running):
    assert running.simulate(40, 200).wait(PATIENCE_S) == 0
    running.begin_writing()
    assert running.simulate(300, 200, "--start", "41", "--drop", "0.02").wait(PATIENCE_S) == 0
    ring = Ring(running.path)
    assert ring.file_bytes == os.path.getsize(running.path)
    dumped = wait_for("the ring at rest", lambda: settled(running))
    assert ring.dump() == dumped
    counters = dumped["counters"]
    assert counters["images_partial"] > 50 and counters["packets_placed"] > 340 * 32 * 0.9, "the test shows something"
    assert [seat["role"] for seat in dumped["participants"] if seat["delivered"] > 200] == ["reliable reader"]
    in_images = 32 * (counters["images_complete"] + counters["images_partial"]) - counters["missing_packets"]
    assert counters["packets_placed"] == in_images  # and none in those that are open
    simulated, seen = Simulated(), 0
    for seq in range(dumped["reclaimed_seq"], dumped["commit_head"]):
        image = ring.image(seq)
        if image is not None:
            simulated.assert_is(*image)
            seen += 1
    assert seen == sum(slot["state"] == "committed" for slot in dumped["slots"]) > 5


def settled(running):
    """What the ring says, once it says the same twice, and the last image is closed."""
    before = running.dumped()
    after = running.dumped()
    is_placed = after["counters"]["packets_placed"] > 0 and after["base"] is not None and after["base"] > 340
    return after if before == after and is_placed else None


def test_live_ring_is_read_by_its_documented_layout_without_a_wrong_pixel(running):
    simulator = running.simulate(1_000_000, 500, "--drop", "0.01")
    try:
        ring, simulated = Ring(running.path), Simulated()
        read, last = set(), -1

        def read_newest():
            nonlocal last
            seq = ring.head() - 1
            image = ring.image(seq) if seq > last else None
            if image is not None:
                simulated.assert_is(*image)
                read.add(image[0])
                last = seq
            return len(read) >= 200

        wait_for("200 images", read_newest)
        for _ in range(3):  # a slow reader of the oldest image: it is replaced meanwhile, and never shown
            oldest, head = ring.u64(144), ring.head()
            overtaken = lambda: wait_for("its replacement", lambda: ring.head() > head + 2 * ring.slots)
            assert ring.committed_slot(oldest) is not None and ring.image(oldest, overtaken) is None
        live = running.dumped()
        assert live["geometry"] == ring.geometry and live["commit_head"] <= ring.head()
        assert live["owner"]["pid"] == ring.u32(48)
    finally:
        simulator.kill()
        simulator.wait(PATIENCE_S)

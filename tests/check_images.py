"""Opens a file of the writer with plain h5py and checks it against the simulated detector.

    python tests/check_images.py FILE [--seed N] [--missing FILE.json]

Every image marked complete must be the simulated one to the last pixel; of a partial image, every pixel
whose packet is marked as received, and the others must hold the fill value. With --missing, the packets
marked as missing must be exactly those in the JSON file {"image id": [packet, …]}. The ledger must agree
with the rows. Prints what it counted as JSON; exit code 1 and a sentence if something is wrong.
"""

import argparse
import json
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools/sim/tests"))
from check_pattern import image  # noqa: E402

PENDING, COMPLETE, PARTIAL, LOST = range(4)
CHIP, CHIP_GAP, ROWS = 256, 2, 256


def quadrants(height, width):
    """(first row, row step, first column) of each module of the detectors that the tests simulate."""
    if (height, width) == (256, 514):
        return [(0, 1, 0)]
    assert (height, width) == (514, 1030), "not a detector of the tests"
    return [(258, 1, 0), (258, 1, 516), (255, -1, 0), (255, -1, 516)]


def packet_of_pixel(height, width, item_bytes):
    """Packet index that brings each pixel; -1 in gaps."""
    packets = np.full((height, width), -1, np.int32)
    rows_per_packet = 4096 // (512 * item_bytes)
    per_module = ROWS // rows_per_packet
    for module, (y0, step, x0) in enumerate(quadrants(height, width)):
        for row in range(ROWS):
            packet = module * per_module + row // rows_per_packet
            for chip in (0, CHIP + CHIP_GAP):
                packets[y0 + step * row, x0 + chip : x0 + chip + CHIP] = packet
    return packets


def fail(text):
    sys.exit(f"{sys.argv[1]}: {text}")


def check_rows(entry, seed, missing):
    data, ids = entry["data/data"], entry["data/image_id"][:]
    status, received = entry["data/status"][:], entry["data/packet_received"][:]
    bits = data.dtype.itemsize * 8
    key_bits = {8: 6, 16: 12, 32: 24}[bits]
    packets = packet_of_pixel(*data.shape[1:], data.dtype.itemsize)
    base = image(seed, 0, *data.shape[1:], bits)  # the key of id 0 is 0: other ids only change the key
    fill = np.iinfo(data.dtype).max
    for row, (image_id, state) in enumerate(zip(ids.tolist(), status.tolist())):
        there = np.unpackbits(received[row], bitorder="little").astype(bool)[: packets.max() + 1]
        if state in (PENDING, LOST):
            if there.any() and state == LOST:
                fail(f"image {image_id} is lost and has packets")
            continue
        wanted = base ^ np.array(image_id % (2**key_bits - 3), data.dtype)
        wanted[~there[packets]] = fill
        wanted[packets < 0] = 0
        if not np.array_equal(data[row], wanted):
            wrong = int((data[row] != wanted).sum())
            fail(f"image {image_id}, status {state}: {wrong} pixels are not what they must be")
        if (state == COMPLETE) != there.all():
            fail(f"image {image_id}: status {state} with {int((~there).sum())} packets missing")
        if int(entry["data/missing_packets"][row]) != int((~there).sum()):
            fail(f"image {image_id}: missing_packets does not agree with the bitmap")
        if missing is not None and np.flatnonzero(~there).tolist() != missing.get(str(image_id), []):
            fail(f"image {image_id}: other packets are marked missing than were dropped")
    return ids, status


def check_ledger(entry, ids, status):
    ledger = entry["ledger"]
    number = lambda name: int(ledger[name][()])
    state = ledger["state"][()].decode().rstrip("\0")
    counts = {
        "state": state,
        "asked": number("asked"),
        "rows": len(ids),
        "complete": int((status == COMPLETE).sum()),
        "partial": int((status == PARTIAL).sum()),
        "lost_rows": int((status == LOST).sum()),
        "pending": int((status == PENDING).sum()),
        "missing_packets": int(entry["data/missing_packets"][:].sum()),
        "first_id": int(ids[0]) if len(ids) else None,
        "lost": dict(
            (name, int(count))
            for name, count in zip(ledger["lost_by_cause"].attrs["names"], ledger["lost_by_cause"][:])
            if count
        ),
    }
    if len(ids) and not np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        fail("image ids are not consecutive")
    if state != "writing":
        lost = sum(counts["lost"].values())
        if number("written") + number("partial") + lost != number("asked"):
            fail(f"the ledger does not add up: {counts}")
        if (number("written"), number("partial")) != (counts["complete"], counts["partial"]):
            fail(f"the ledger does not agree with the rows: {counts}")
        if counts["pending"]:
            fail("an ended file has pending rows")
    return counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing")
    arguments = parser.parse_args()
    missing = json.loads(pathlib.Path(arguments.missing).read_text()) if arguments.missing else None
    with h5py.File(arguments.file) as file:
        entry = file["entry"]
        ids, status = check_rows(entry, arguments.seed, missing)
        print(json.dumps(check_ledger(entry, ids, status)))


main()

"""Reads a file of the writer with plain h5py and checks everything that must hold of it at any time.

    read_back.py FILE...         checks each FILE and prints what it holds as one line of JSON
    read_back.py FILE --hold     the same, then keeps FILE open until standard input ends

Pixels follow the pattern of tests/file/support.rs, computed here again from the image id. Pixel p of an
image of P pixels and K packets belongs to packet p * K // P.
"""

import json
import sys

try:
    import h5py
    import numpy as np
except ImportError as error:
    sys.exit(f"{error}; ./tools/setup installs h5py and numpy, then set ECS_PYTHON to that python")

PENDING, COMPLETE, PARTIAL, LOST = 0, 1, 2, 3
COLUMNS = {
    "image_id": "u8",
    "status": "u1",
    "loss_cause": "u1",
    "missing_packets": "u4",
    "packet_received": "u1",
    "first_packet_time": "u8",
    "commit_time": "u8",
    "detector_timestamp": "u8",
    "exposure_length": "u4",
    "do_not_store": "u1",
    "calibration": "u8",
}


def expected_images(ids, received, shape, dtype, fill):
    index = np.arange(shape[0] * shape[1], dtype=np.uint64)
    pixels = ids[:, np.newaxis] * np.uint64(7919) + index * np.uint64(13) + np.uint64(1)
    packet = index * np.uint64(received.shape[1]) // np.uint64(len(index))
    pixels = np.where(received[:, packet], pixels.astype(dtype), np.array(fill, dtype))
    return pixels.reshape(len(ids), *shape)


def check_rows(group, packets, fill, ended, reason):
    data = group["data"]
    columns = {name: group[name][: len(data)] for name in COLUMNS}
    status, cause, ids = columns["status"], columns["loss_cause"], columns["image_id"]
    received = np.unpackbits(columns["packet_received"], axis=1, bitorder="little")[:, :packets].astype(bool)

    there, known = (status == COMPLETE) | (status == PARTIAL), status != PENDING
    assert (cause[there] == 0).all() and (cause[status == LOST] != 0).all()
    missing = np.where(there, (~received).sum(axis=1), 0)
    assert (columns["missing_packets"] == missing)[known].all()
    assert (received.all(axis=1) == (status == COMPLETE))[known].all()
    times = {"first_packet_time": 10**18 + ids, "commit_time": 10**18 + 7 + ids, "detector_timestamp": ids * 10}
    of_header = {"exposure_length": 376, "do_not_store": ids % 3 == 0}
    of_header["calibration"] = ids * np.uint64(0x9E3779B97F4A7C15)
    for name, expected in {**times, **of_header}.items():
        np.testing.assert_array_equal(columns[name][known], np.where(there, expected, 0)[known], err_msg=name)

    pixels = data[:][there]
    expected = expected_images(ids[there], received[there], data.shape[1:], data.dtype, fill)
    np.testing.assert_array_equal(pixels, expected)
    for row in np.flatnonzero(there)[:: max(1, len(data) // 20)]:
        mask, raw = data.id.read_direct_chunk((row, 0, 0))
        assert mask == 0 and raw == data[row].tobytes(), row
    if ended:
        assert not (status == PENDING).any()
        lost = data[:][status == LOST]
        values = lost.reshape(len(lost), int(np.prod(lost.shape[1:])))
        zeros = (values == 0).all(axis=1)
        filled = np.isnan(values) if fill != fill else values == np.array(fill, data.dtype)
        assert (filled.all(axis=1) | zeros).all()
        assert not zeros.any() or "without their fill value" in reason, reason
    return ids, status


def check_structure(file):
    # Superblock 2 has no flag that a killed writer could leave set.
    assert file.id.get_create_plist().get_version()[0] == 2
    assert file.attrs["creator"].startswith("ECS ") and file.attrs["file_time"].endswith("Z")
    assert file.attrs["default"] == "entry" and file["entry"].attrs["default"] == "data"
    assert file["entry"].attrs["NX_class"] == "NXentry" and file["entry/data"].attrs["NX_class"] == "NXdata"
    group = file[file.attrs["default"]][file["entry"].attrs["default"]]
    data = group[group.attrs["signal"]]
    assert data.chunks == (1, *data.shape[1:]) and data.dtype.byteorder in "|<=", data.dtype
    for name, dtype in COLUMNS.items():
        column = group[name]
        assert column.dtype == np.dtype(dtype) and len(column) >= len(data), (name, column)
        assert column.attrs["description"], name
    assert group["commit_time"].attrs["units"] == "ns"
    assert h5py.check_enum_dtype(group["status"].dtype) == {"pending": 0, "complete": 1, "partial": 2, "lost": 3}
    assert h5py.check_enum_dtype(group["loss_cause"].dtype)["writer_down"] == 16
    return group


def read_ledger(file):
    ledger = {}
    for name, value in file["entry/ledger"].items():
        assert value.attrs["description"], name
        if name in ("lost_by_cause", "packets"):
            pairs = zip(value.attrs["names"], value[()])
            ledger[name] = {cause: int(count) for cause, count in pairs if count}
        else:
            ledger[name] = value.asstr()[()] if value.dtype.kind == "S" else int(value[()])
    return ledger


def check_ledger(ledger, group):
    status = group["status"][:]
    assert ledger["written"] == (status == COMPLETE).sum() and ledger["partial"] == (status == PARTIAL).sum()
    assert ledger["written"] + ledger["partial"] + ledger["lost"] == ledger["asked"], ledger
    assert sum(ledger["lost_by_cause"].values()) == ledger["lost"], ledger
    packets = dict(ledger["packets"])
    received = packets.pop("received", 0)
    packets.pop("dropped_by_kernel", 0)
    assert sum(packets.values()) == received, ledger
    missing = group["missing_packets"][:].sum() if len(status) else 0
    assert ledger["missing_packets"] == missing, ledger


def as_json(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return {"dtype": str(value.dtype), "value": value.tolist()}
    return value


def read_back(path, hold):
    with h5py.File(path) as file:
        group = check_structure(file)
        ledger = read_ledger(file)
        ended = ledger["state"] != "writing"
        packets = int(file["entry/detector/packets_per_image"][()])
        fill = file["entry/detector/fill_value"][()].item()
        rows = len(group["data"])
        ids, status = check_rows(group, packets, fill, ended, ledger["reason"])
        np.testing.assert_array_equal(ids, np.arange(rows, dtype=np.uint64) + np.uint64(ledger["first_id"]))
        if ended:
            assert all(len(group[name]) == rows for name in COLUMNS)
            check_ledger(ledger, group)
        held = {
            "shape": group["data"].shape,
            "dtype": str(group["data"].dtype),
            "status": group["status"][:rows].tolist(),
            "loss_cause": group["loss_cause"][:rows].tolist(),
            "ledger": ledger,
            "detector": [
                file["entry/detector/name"].asstr()[()],
                int(file["entry/detector/bit_depth"][()]),
                int(file["entry/detector/pixel_mask"][:].sum()),
            ],
            "metadata": {name: as_json(value) for name, value in file["entry/metadata"].attrs.items()},
        }
        print(json.dumps(held), flush=True)
        if hold:
            sys.stdin.read()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        if path != "--hold":
            try:
                read_back(path, "--hold" in sys.argv)
            except Exception:
                print(path, file=sys.stderr)
                raise

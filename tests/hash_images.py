"""Prints {"image id": {"status", "sha256", "sum", "max"}} of a file of the writer, read with plain h5py."""

import hashlib
import json
import sys

import h5py

with h5py.File(sys.argv[1]) as file:
    data = file["entry/data/data"]
    images = {}
    for row, image_id in enumerate(file["entry/data/image_id"][:]):
        pixels = data[row]
        images[str(image_id)] = {
            "status": int(file["entry/data/status"][row]),
            "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "sum": int(pixels.sum(dtype="u8")),
            "max": int(pixels.max()),
        }
    print(json.dumps(images))

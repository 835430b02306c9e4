"""The pattern of the simulated detector in numpy, written from the table in src/pattern.rs.

    python check_pattern.py            recompute every line of pattern_vectors.txt; exit code 1 if one differs
    python check_pattern.py --write    write the file anew, after a deliberate change of the pattern

The Rust tests check the same file. `image` is what a script compares a written file with.
"""

import pathlib
import sys

import numpy as np

VECTORS = pathlib.Path(__file__).with_name("pattern_vectors.txt")
# Of a bit depth: bits of the image's key, and type of a pixel.
KEY_BITS = {4: 4, 8: 6, 12: 10, 16: 12, 32: 24}
PIXEL = {4: "uint8", 8: "uint8", 12: "uint16", 16: "uint16", 32: "uint32"}
# bits, seed, image id, height, width
CASES = [
    (8, 0, 0, 514, 1030),
    (8, 1, 61 * 5 + 7, 514, 1030),
    (16, 2**64 - 1, 4092, 514, 1030),
    (16, 7, 2**63 + 5, 1030, 514),
    (32, 42, 29512, 514, 1030),
    (32, 3, 2**64 - 1, 600, 1100),
    (4, 5, 13 * 9 + 12, 514, 1030),
    (4, 2**64 - 1, 2**63, 600, 1100),
    (12, 6, 1021 * 2 + 1020, 514, 1030),
    (12, 0, 2**64 - 1, 1030, 514),
]


def image(seed, image_id, height, width, bits):
    """Every pixel of one image, gaps not blanked: [height, width] of the smallest type that holds `bits`."""
    y, x = np.mgrid[0:height, 0:width]
    r = np.sqrt((y - 257) ** 2 + (x - 515) ** 2).astype(np.int64)
    ring = 10 * np.maximum(0, 6 - abs(r % 64 - 32))
    spot = np.maximum(0, 400 - ((7 * x + 3 * y) % 211 - 105) ** 2 - ((7 * y - 3 * x) % 211 - 105) ** 2) // 2
    level = np.minimum(127, (8 + ring + spot) * 400 // (400 + r))

    key_bits = KEY_BITS[bits]
    n = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64) ^ (y.astype(np.uint64) << np.uint64(32) | x.astype(np.uint64))
    n *= np.uint64(0xD6E8FEB86659FD93)
    noise = (n ^ n >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93) >> np.uint64(64 - key_bits)

    base = noise if bits < 8 else (level.astype(np.uint64) << np.uint64(bits - 8)) + noise
    return (base ^ np.uint64(image_id % (2**key_bits - 3))).astype(PIXEL[bits])


def checksum(pixels):
    """Sum of (index + 1) * value modulo 2^64: sensitive to the place of every pixel."""
    values = pixels.ravel().astype(np.uint64)
    return int(np.sum(values * np.arange(1, values.size + 1, dtype=np.uint64)))


def vector(case):
    bits, seed, image_id, height, width = case
    return " ".join(map(str, [*case, checksum(image(seed, image_id, height, width, bits))]))


def main():
    wanted = ["# bits seed image_id height width checksum, see check_pattern.py", *map(vector, CASES)]
    if "--write" in sys.argv:
        VECTORS.write_text("\n".join(wanted) + "\n")
    different = set(wanted) ^ set(VECTORS.read_text().splitlines())
    for line in sorted(different):
        print("differs:", line)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes what a test converts with: gains, pedestals, a flat field and a mask, each number a formula.

    python tests/make_calibration.py FOLDER HEIGHT WIDTH

HEIGHT and WIDTH are those of the image; gains and pedestals are of one module of 512 x 1024 pixels. `gains.h5` is in the
form of PSI's jungfrau_utils, `gains.bin` of PSI's detector group, `ones.bin` and `zeros.bin` have one number each.
"""

import pathlib
import sys

import h5py
import numpy as np


def main():
    folder, height, width = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    row, column = np.mgrid[0:512, 0:1024].astype(np.float64)
    gains = np.stack(
        [40 + (7 * row + 3 * column) % 16 / 8, -1.5 - (row + column) % 32 / 64, -0.1 - (row + 5 * column) % 16 / 256]
    )
    gains[0, 100, 200], gains[1, 300, 40], gains[2, 260, 7] = 0, np.nan, 0  # pixels without that gain
    pedestal = np.stack([1000 * (g + 1) + (5 * row + 3 * column) % 300 + 0.25 * g for g in range(3)])
    with h5py.File(folder / "gains.h5", "w") as file:
        file["gains"] = np.concatenate([gains, gains[:1]])  # the fourth is of the high gain mode
    np.concatenate([gains, gains]).tofile(folder / "gains.bin")
    np.ones((3, 512, 1024)).tofile(folder / "ones.bin")
    np.zeros((3, 512, 1024)).tofile(folder / "zeros.bin")
    with h5py.File(folder / "pedestal.h5", "w") as file:
        file["pedestal/mean"] = pedestal[None].astype(np.float32)
    y, x = np.mgrid[0:height, 0:width]
    with h5py.File(folder / "image.h5", "w") as file:
        file["flat_field"] = 1 + (y + x) % 8 / 16
        file["mask"] = ((31 * y + 17 * x) % 97 == 0).astype(np.uint8) * 4


main()

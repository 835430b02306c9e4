"""Opens a file of the writer with plain h5py and checks it against the simulated detector.

    python tests/check_images.py FILE [--seed N] [--missing FILE.json] [--detector NAME:key=value:...] [--pixels KIND]
                                 [--conversion FILE.json] [--clock RATE_HZ]

Every image marked complete must be the simulated one to the last pixel; of a partial image, every pixel
whose packet is marked as received, and the others must hold the fill value. With --missing, the packets
marked as missing must be exactly those in the JSON file {"image id": [packet, ...]}. The ledger must agree
with the rows. Images that the simulator says are not to be stored, by their ids, must be marked so, and no others; with
--clock, rows must have the timestamps and exposures of a detector that began with id 1 at this rate. Prints what it
counted as JSON; exit code 1 and a sentence if something is wrong.

Where each pixel comes from is worked out here, from the documents of each detector, not from the code that is
tested: `--detector` names one of the functions below. `--pixels` is `sim`, or a pattern of other senders.

With --conversion, pixels must be those that raw ones become, bit by bit. The JSON file has `gain` and `pedestal` (arrays
[gain, row, column] of one module: a flat file, or `file.h5::dataset`), `one_kev` (energy that is 1), `flat_field`, `mask`
(arrays of the image); a mask alone is applied to pixels as they come. With --calibration, only images of this number
are looked at.
"""

import argparse
import json
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tools/sim/tests"))
from check_pattern import KEY_BITS, image  # noqa: E402

PENDING, COMPLETE, PARTIAL, LOST = range(4)


class Detector:
    """Where the pixels of an image come from: the modules' streams, cut into packets."""

    forbids = False  # whether packets say that an image is not to be stored
    has_clock = True  # whether they have a timestamp and an exposure

    def __init__(self, height, width, bits, streams, payload, off=()):
        """Each stream is (y, x) of its pixels in their order; `payload` is bytes of pixels a packet."""
        self.shape, self.bits, self.payload = (height, width), bits, payload
        self.first = np.full(self.shape, -1, np.int64)
        self.last = np.full(self.shape, -1, np.int64)
        self.mask = np.ones(self.shape, np.uint8)
        pixels = len(streams[0][0])
        begin = np.arange(pixels, dtype=np.int64) * bits
        per_module = -(-pixels * bits // 8 // payload)
        for module, (y, x) in enumerate(streams):
            assert (self.first[y, x] == -1).all(), "modules overlap"
            self.first[y, x] = module * per_module + begin // (payload * 8)
            self.last[y, x] = module * per_module + (begin + bits - 1) // (payload * 8)
            self.mask[y, x] = 0
        for y, x in off:
            self.mask[y, x] = 2
        self.streams, self.packets = streams, len(streams) * per_module


def rows(lines):
    """A stream of lines, each (y, [x, ...])."""
    y = np.concatenate([np.full(len(x), line, np.int64) for line, x in lines])
    return y, np.concatenate([np.asarray(x, np.int64) for _, x in lines])


def chips(first, count, chip=256, gap=2):
    """Columns of `count` chips, `gap` pixels apart."""
    return np.concatenate([first + at * (chip + gap) + np.arange(chip) for at in range(count)])


def eiger(bits=16, payload=4096, read=256, off=-1, across=1, along=1):
    """Modules column by column from the lower left upwards, 8 columns and 36 rows apart, as std-daq's generator has
    them. Each: lower left and right quadrant, upper left and right one, from the middle outwards."""
    quadrants, cut = [], 256 - read  # rows that are not read, of the uppermost and of the lowest quadrants
    height = along * 514 + (along - 1) * 36 - 2 * cut
    for column in range(across):
        for module in range(along):
            top = (along - 1 - module) * (514 + 36) - cut
            lower = [top + 258 + row for row in range(read)]
            upper = [top + 255 - row for row in range(read)]
            x = column * (1030 + 8)
            quadrants += [rows([(y, chips(at, 2)) for y in half]) for half in (lower, upper) for at in (x, x + 516)]
    on = [quadrant for number, quadrant in enumerate(quadrants) if number != off]
    dead = [quadrant for number, quadrant in enumerate(quadrants) if number == off]
    return Detector(height, across * 1030 + (across - 1) * 8, bits, on, payload, dead)


def quadrant(bits=8):
    """One quadrant of an EIGER alone, its rows downwards."""
    return Detector(256, 514, bits, [rows([(y, chips(0, 2)) for y in range(256)])], 4096)


def jungfrau(read=512, interfaces=1, gap=2, along=1):
    """Modules above each other, from the lowest on, 36 rows apart, their rows upwards; gap 0: one module, its rows
    downwards and chips side by side, as std-daq stacks them."""
    height, width = along * (read + gap) + (along - 1) * 36, 1024 + 3 * gap
    place = lambda row: row + gap * (row >= read // 2)
    y = lambda row, module: height - 1 - module * (read + gap + 36) - place(row) if gap else place(row)
    lines = [[(y(row, module), chips(0, 4, 256, gap)) for row in range(read)] for module in range(along)]
    part = read // interfaces
    streams = [rows(module[n * part : (n + 1) * part]) for module in lines for n in range(interfaces)]
    detector = Detector(height, width, 16, streams, 8192)
    first = [(512 - read) // 2 * 1024 + n * part * 1024 for n in range(interfaces)]
    detector.map_pixels = [at + np.arange(part * 1024) for at in first]  # of each stream, in a map of 512 x 1024
    return detector


def gigafrost(height=252, width=504, packet_rows=17):
    """Four quadrants from the middle outwards, each with two links that have every second row."""
    streams = []
    for north in (False, True):
        for x in (0, width // 2):
            for link in (0, 1):
                y = lambda row: (height - 1) // 2 - link - 2 * row if north else height // 2 + link + 2 * row
                streams.append(rows([(y(row), x + np.arange(width // 2)) for row in range(height // 4)]))
    detector = Detector(height, width, 12, streams, packet_rows * width // 2 * 3 // 2)
    detector.forbids = True
    return detector


def raster(height=400, width=400, bits=16, payload=6400, across=1, along=1, clock=1):
    """Modules of whole rows, one behind the other, row by row of modules."""
    y, x = np.mgrid[0:height, 0:width]
    streams = [(down * height + y.ravel(), right * width + x.ravel()) for down in range(along) for right in range(across)]
    detector = Detector(along * height, across * width, bits, streams, payload)
    detector.has_clock = clock == 1
    return detector


def made_up():
    """The detector of tests/end_to_end/detectors.rs that no line of Rust knows."""
    lines = lambda x, first: [(row + 3 * (row >= 20), chips(x, 3, 32, 1)) for row in range(first, first + 20)]
    streams = [rows(lines(x, first)) for x in (0, 98 + 5) for first in (0, 20)]
    detector = Detector(40 + 3, 2 * 98 + 5, 12, streams, 1000)
    detector.forbids = True
    return detector


def named(text):
    """A detector, from `name:key=value:...`."""
    name, *options = text.split(":")
    return globals()[name](**{key: int(value) for key, value in (option.split("=") for option in options)})


def other_pixels(kind, detector):
    """An image of another sender, the same for every id."""
    wanted = np.zeros(detector.shape, np.int64)
    for module, (y, x) in enumerate(detector.streams):
        at = np.arange(len(y))
        if kind == "packet_number":  # std_detector_buffer, testing/test_jungfrau_workflow.py
            wanted[y, x] = at // 4096
        elif kind == "jungfrau":  # slsDetectorPackage, the virtual server of jungfrauDetectorServer
            column, packet = at % 1024, at // 4096 + module * 64
            gain = np.where(column < 300, 0, np.where(column < 600, 1, 3))
            wanted[y, x] = 1 + packet | gain << 14
        elif kind == "eiger":  # the same of eigerDetectorServer: rows of 1024 pixels, half of them on each port
            of_half_module = at // 512 * 1024 + module % 2 * 512 + at % 512
            wanted[y, x] = of_half_module // (detector.payload * 8 // detector.bits)
            if detector.bits == 12:
                wanted[y, x] = of_half_module & 0xFFF
            if (detector.bits, detector.payload) == (32, 1024):  # it steps over halves of rows: see the sender
                packet = at // 256
                wanted[y, x] = np.maximum(2 * packet - 1, 0) + module % 2 * 2
        elif kind == "gigafrost":  # tests/end_to_end/detectors.rs
            wanted[y, x] = module * 500 + at % 500
    return wanted


def switching_gains(seed, height, width):
    """Raw signals of every gain, without the part that tells the image: tools/sim/src/gains.rs."""
    y, x = np.mgrid[0:height, 0:width].astype(np.uint64)
    wide = image(seed, 0, height, width, 16).astype(np.int64)  # level * 2^8 + noise of 12 bits
    mix = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64) ^ (y << np.uint64(32) | x)
    mix *= np.uint64(0xD6E8FEB86659FD93)
    mix = (mix ^ mix >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    noise, n2 = (mix >> np.uint64(52)).astype(np.int64), (mix >> np.uint64(32) & np.uint64(255)).astype(np.int64)
    code = np.select([n2 < 8, n2 < 12, n2 == 12], [1, 3, 2], 0)
    stripe = y.astype(np.int64) // 64 % 4
    code = np.select([stripe == 1, stripe == 2], [1, 3], code)
    return code << 14 | ((wide - noise) // 256 * 64 + noise)


def array(source, *shape):
    """A flat file of floats, or a dataset `file.h5::dataset`."""
    path, _, dataset = source.partition("::")
    if not dataset:
        return np.fromfile(path, np.float64)[: int(np.prod(shape))].reshape(shape)
    with h5py.File(path) as file:
        values = file[dataset][...].astype(np.float64)
    return values.reshape(-1)[: int(np.prod(shape))].reshape(shape)


class Conversion:
    """Raw pixels to what they become: (charge - pedestal) * factor in floats of 32 bit."""

    def __init__(self, detector, setting):
        shape = detector.shape
        self.mask = array(setting["mask"], *shape) != 0 if "mask" in setting else np.zeros(shape, bool)
        self.converts = "gain" in setting
        if not self.converts:
            return
        flat = array(setting["flat_field"], *shape) if "flat_field" in setting else np.ones(shape)
        times = flat / setting.get("one_kev", 1.0)
        gain, pedestal = (array(setting[name], 3, 512 * 1024) for name in ("gain", "pedestal"))
        self.pedestal, self.factor = np.zeros((4, *shape), np.float32), np.full((4, *shape), np.nan, np.float32)
        for (y, x), at in zip(detector.streams, detector.map_pixels):
            for g, code in enumerate((0, 1, 3)):
                with np.errstate(divide="ignore"):
                    factor = (times[y, x] / gain[g, at]).astype(np.float32)
                known = np.isfinite(factor) & np.isfinite(pedestal[g, at])
                self.pedestal[code, y, x] = np.where(known, pedestal[g, at].astype(np.float32), 0)
                self.factor[code, y, x] = np.where(known, factor, np.nan)

    def of(self, raw, dtype, fill):
        if self.converts:
            code, charge = raw >> 14, (raw & 0x3FFF).astype(np.float32)
            pick = lambda table: np.take_along_axis(table, code[None], 0)[0]
            value = (charge - pick(self.pedestal)) * pick(self.factor)
            marked = np.isnan(value)
            if dtype == np.int32:
                marked |= abs(value) >= 2**31
                value = np.rint(np.where(marked, 0, value)).astype(np.int32)
            raw = np.where(marked, np.array(fill, dtype), value.astype(dtype))
        return np.where(self.mask, np.array(fill, dtype), raw.astype(dtype))


def fail(text):
    sys.exit(f"{sys.argv[1]}: {text}")


def check_rows(entry, detector, kind, seed, missing, conversion):
    data, ids = entry["data/data"], entry["data/image_id"][:]
    status, received = entry["data/status"][:], entry["data/packet_received"][:]
    if data.shape[1:] != detector.shape:
        fail(f"images of {data.shape[1:]}, not {detector.shape}")
    key_bits, dtype = KEY_BITS[detector.bits], data.dtype
    if kind == "sim":
        base = image(seed, 0, *detector.shape, detector.bits)  # the key of id 0 is 0: other ids only change the key
        if conversion.converts:
            base = switching_gains(seed, *detector.shape)
    else:
        base = other_pixels(kind, detector)
    fill = {"f": np.nan, "i": -(2**31)}.get(dtype.kind) or np.iinfo(dtype).max
    if str(fill) != str(entry["detector/fill_value"][()]):
        fail(f"fill_value {entry['detector/fill_value'][()]}, not {fill}")
    for row, (image_id, state) in enumerate(zip(ids.tolist(), status.tolist())):
        if conversion.number is not None and int(entry["data/calibration"][row]) != conversion.number:
            continue
        there = np.unpackbits(received[row], bitorder="little").astype(bool)[: detector.packets]
        if state in (PENDING, LOST):
            if there.any() and state == LOST:
                fail(f"image {image_id} is lost and has packets")
            continue
        raw = base.astype(np.int64) ^ (image_id % (2**key_bits - 3) if kind == "sim" else 0)
        wanted = conversion.of(raw, dtype, fill)
        wanted[~(there[detector.first] & there[detector.last])] = fill
        wanted[detector.first < 0] = 0
        bits = f"u{dtype.itemsize}"  # a NaN equals itself so
        if not np.array_equal(data[row].view(bits), wanted.view(bits)):
            wrong = int((data[row].view(bits) != wanted.view(bits)).sum())
            fail(f"image {image_id}, status {state}: {wrong} pixels are not what they must be")
        if (state == COMPLETE) != there.all():
            fail(f"image {image_id}: status {state} with {int((~there).sum())} packets missing")
        if int(entry["data/missing_packets"][row]) != int((~there).sum()):
            fail(f"image {image_id}: missing_packets does not agree with the bitmap")
        if missing is not None and np.flatnonzero(~there).tolist() != missing.get(str(image_id), []):
            fail(f"image {image_id}: other packets are marked missing than were dropped")
    return ids, status


def forbidden(image_id):
    """Images that are not to be stored: tools/sim/src/detector.rs."""
    return image_id % 7 == 3


def check_headers(data, detector, ids, status, rate_hz):
    """What comes from a packet's header into the rows of a simulated detector."""
    period = 1e7 / rate_hz if rate_hz else 0  # ticks of 100 ns
    found = [data[name][:].tolist() for name in ("do_not_store", "detector_timestamp", "exposure_length")]
    for image_id, state, *of_row in zip(ids.tolist(), status.tolist(), *found):
        if state == PENDING:
            continue
        is_there = state != LOST
        forbids = int(is_there and detector.forbids and forbidden(image_id))
        clock = [int((image_id - 1) * period), int(period)] if is_there and detector.has_clock else [0, 0]
        wanted = [forbids, *(clock if rate_hz else of_row[1:])]
        if of_row != wanted:
            fail(f"image {image_id}: do_not_store, timestamp, exposure {of_row}, not {wanted}")


def named_counts(dataset):
    return dict(zip(dataset.attrs["names"], dataset[:].tolist()))


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
        "packets": named_counts(ledger["packets"]),
        "lost": {cause: count for cause, count in named_counts(ledger["lost_by_cause"]).items() if count},
    }
    if len(ids) and not np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        fail("image ids are not consecutive")
    if state != "writing":
        lost = sum(counts["lost"].values())
        if number("written") + number("partial") + lost != number("asked"):
            fail(f"the ledger does not add up: {counts}")
        if (number("written"), number("partial")) != (counts["complete"], counts["partial"]):
            fail(f"the ledger does not agree with the rows: {counts}")
        fates = [count for name, count in counts["packets"].items() if name not in ("received", "dropped_by_kernel")]
        if sum(fates) != counts["packets"]["received"]:
            fail(f"the packets do not add up: {counts}")
        if counts["pending"]:
            fail("an ended file has pending rows")
    return counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing")
    parser.add_argument("--detector")
    parser.add_argument("--pixels", default="sim")
    parser.add_argument("--conversion")
    parser.add_argument("--calibration", type=int)
    parser.add_argument("--clock", type=float)
    arguments = parser.parse_args()
    missing = json.loads(pathlib.Path(arguments.missing).read_text()) if arguments.missing else None
    with h5py.File(arguments.file) as file:
        entry = file["entry"]
        height, item_bytes = entry["data/data"].shape[1], entry["data/data"].dtype.itemsize
        usual = f"{'quadrant' if height == 256 else 'eiger'}:bits={8 * item_bytes}"
        detector = named(arguments.detector or usual)
        setting = json.loads(pathlib.Path(arguments.conversion).read_text()) if arguments.conversion else {}
        conversion = Conversion(detector, setting)
        conversion.number = arguments.calibration
        ids, status = check_rows(entry, detector, arguments.pixels, arguments.seed, missing, conversion)
        if arguments.pixels == "sim":
            check_headers(entry["data"], detector, ids, status, arguments.clock)
        if not np.array_equal(entry["detector/pixel_mask"][:], detector.mask | conversion.mask.astype(np.uint8) << 7):
            fail("pixel_mask is not that of the detector")
        print(json.dumps(check_ledger(entry, ids, status)))


if __name__ == "__main__":
    main()

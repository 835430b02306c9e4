//! The images that the tests write, and the reader that checks them.

use ecs_schemas::{detector::PixelType, image::LossCause, packets::PacketLedger, write_job::Ledger};
use ecs_writer::file::{Author, End, EndState, FileSpec, ImageFile, ImageRow};
use serde_json::Value;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

pub const JOB: u64 = 7;
pub const FILE_ID: u64 = 0x1234_5678_9abc_def0;
pub const PACKETS: usize = 10;
/// What a file has behind its end until it has ended: room for the record of a cut.
pub const RECORD_BYTES: u64 = 16 * 1024;

pub fn author(job: u64) -> Author {
    Author { job, writer: "x01/writer".to_owned(), file_id: FILE_ID }
}

pub fn spec(output: &Path, images: u64) -> FileSpec {
    FileSpec {
        output: output.to_owned(),
        author: author(JOB),
        images,
        height: 6,
        width: 50,
        pixel: PixelType::U16,
        packets_per_image: PACKETS,
        fill: 0xffff,
        overwrite: false,
        detector_name: "EG05M".to_owned(),
        detector_type: "eiger".to_owned(),
        bit_depth: 12,
        pixel_mask: (0..300).map(|pixel| (pixel % 3) as u8).collect(),
        metadata: Default::default(),
    }
}

pub fn end(state: EndState, pending_cause: LossCause) -> End {
    let packets = PacketLedger::from_values([45, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    End { state, reason: String::new(), pending_cause, packets, sync: false }
}

pub fn done() -> End {
    end(EndState::Done, LossCause::NotReceived)
}

/// Pixel `p` is `id * 7919 + p * 13 + 1`, or the fill value where its packet is missing. Of it, the lowest bits that
/// fill a pixel, which is rounded where it is a float.
pub fn pixels(spec: &FileSpec, image_id: u64, received: u64) -> Vec<u8> {
    let count = spec.height * spec.width;
    let pixel = |index: usize| {
        let packet = index * spec.packets_per_image / count;
        let value = image_id.wrapping_mul(7919).wrapping_add(index as u64 * 13 + 1);
        if received >> packet & 1 == 1 { value } else { u64::from(spec.fill) }
    };
    let bits = |index: usize| match (spec.pixel, pixel(index)) {
        (PixelType::F32, value) if value != u64::from(spec.fill) => u64::from((value as f32).to_bits()),
        (_, value) => value,
    };
    (0..count).flat_map(|index| bits(index).to_le_bytes().into_iter().take(spec.pixel.bytes())).collect()
}

pub fn row(image_id: u64, received: &[u64; 1]) -> ImageRow<'_> {
    ImageRow {
        image_id,
        missing_packets: PACKETS as u32 - received[0].count_ones(),
        packet_received: received,
        first_packet_time_ns: 1_000_000_000_000_000_000 + image_id,
        commit_time_ns: 1_000_000_000_000_000_007 + image_id,
        detector_timestamp: image_id * 10,
        exposure_length: 376,
        do_not_store: image_id.is_multiple_of(3),
        calibration: image_id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

pub const ALL_RECEIVED: u64 = (1 << PACKETS) - 1;

/// Writes an image with the packets whose bits are set.
pub fn write(file: &mut ImageFile, spec: &FileSpec, image_id: u64, received: u64) {
    file.write_image(&row(image_id, &[received]), &pixels(spec, image_id, received)).unwrap();
}

/// A file whose first image is `first_id`.
pub fn create(spec: &FileSpec, first_id: u64) -> ImageFile {
    let mut file = ImageFile::create(spec).unwrap();
    file.set_first_id(first_id).unwrap();
    file
}

pub fn files_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// `tests/read_back.py` on a file; python comes from `ECS_PYTHON`.
pub fn reader(path: &Path) -> Command {
    let python = std::env::var("ECS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_back.py")).arg(path);
    command
}

/// Starts a reader; where there is no such python, says what brings one.
pub fn start(mut reader: Command) -> Child {
    let child = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    child.unwrap_or_else(|error| panic!("{reader:?}: {error}; ./tools/setup brings python with h5py, see ECS_PYTHON"))
}

/// Reads a file with h5py. The script checks what must hold of every file; what it returns is for the
/// test to compare.
pub fn read_back(path: &Path) -> Value {
    let output = reader(path).output();
    let output = output.unwrap_or_else(|error| panic!("python: {error}; ./tools/setup brings it, see ECS_PYTHON"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The ledger in the file says what the returned one says.
pub fn assert_same_ledger(in_file: &Value, ledger: &Ledger) {
    assert!(ledger.is_balanced(), "{ledger:?}");
    let number = |name: &str| in_file["ledger"][name].as_u64().unwrap();
    assert_eq!(number("asked"), ledger.asked);
    assert_eq!(Some(number("first_id")), ledger.first_id);
    assert_eq!(number("written"), ledger.written);
    assert_eq!(number("partial"), ledger.partial);
    assert_eq!(number("lost"), ledger.lost_total());
    assert_eq!(number("missing_packets"), ledger.missing_packets);
    let by_cause = serde_json::to_value(&ledger.lost).unwrap();
    assert_eq!(in_file["ledger"]["lost_by_cause"], by_cause);
    for (name, value) in PacketLedger::NAMES.into_iter().zip(ledger.packets.values()) {
        assert_eq!(in_file["ledger"]["packets"][name].as_u64().unwrap_or(0), value, "{name}");
    }
}

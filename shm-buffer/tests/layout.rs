//! The layout, byte for byte: a small ring after a scripted sequence against `layout.hex`.
//!
//! `layout.hex` is for readers in other languages, too: each line is an offset, the bytes there and
//! what they are; `--` are bytes that differ from run to run. What the file does not name is zero.
//! After a deliberate change of layout (and of its version), `UPDATE_GOLDEN=1` writes it anew.

mod common;

use common::{DEADLINE_NS, PACKET_BYTES, Rig, raw::RawRing};
use ecs_shm_buffer::{PacketFate, Proc, Reader, Start, create_or_take_over};
use std::{fmt::Write, path::Path};

/// Offset, bytes, meaning.
type Field = (u64, usize, String);

const HEADER: [(u64, usize, &str); 44] = [
    (0, 8, "magic: ECS_RING"),
    (8, 4, "version"),
    (12, 4, "slots"),
    (16, 4, "window"),
    (20, 4, "height"),
    (24, 4, "width"),
    (28, 4, "pixel_bytes"),
    (32, 4, "packets_per_image"),
    (36, 4, "fill"),
    (40, 8, "deadline_ns"),
    (48, 4, "owner_pid"),
    (52, 4, "owners"),
    (56, 8, "owner_start_time"),
    (64, 8, VARIES),
    (72, 8, "placement_hash"),
    (80, 8, "places: those from here on were never taken"),
    (88, 4, "slots_wanted"),
    (92, 4, "closed"),
    (128, 8, "epoch"),
    (136, 8, "base: epoch (16), lowest open id + 1 (48)"),
    (144, 8, "reclaimed_seq"),
    (152, 8, "counts_from: epoch (16), id + 1 (48)"),
    (160, 8, "run_after_ns"),
    (256, 8, "commit_head"),
    (384, 4, "commit_event"),
    (388, 4, "commit_waiters"),
    (512, 4, "owner_event"),
    (516, 4, "owner_waiting"),
    (520, 4, "window_event"),
    (524, 4, "window_waiters"),
    (640, 8, "images complete"),
    (648, 8, "images partial"),
    (656, 8, "packets missing"),
    (664, 8, "slots in quarantine"),
    (680, 8, "images lost: not received"),
    (736, 8, "images opened"),
    (744, 8, "images discarded"),
    (768, 8, "journal: what is counted: 1 an image, 2 + cause << 8 lost ones"),
    (776, 8, "journal: until the head, or the base, is beyond this"),
    (784, 8, "journal: complete, or lost, before"),
    (792, 8, "journal: partial before"),
    (800, 8, "journal: missing packets before"),
    (896, 8, "window_table[0]: id + 1 (48), slot (16)"),
    (904, 8, "window_table[1]"),
];
const VARIES: &str = "created_ns: differs from ring to ring";
const COUNTERS: [&str; 12] = [
    "placed",
    "duplicate",
    "late",
    "early",
    "no_slot",
    "foreign",
    "malformed",
    "shed",
    "unlisted",
    "moved",
    "kernel_dropped",
    "bytes",
];
const PARTICIPANT: [(u64, usize, &str); 12] = [
    (0, 8, "identity: role (8), generation (24), pid (32)"),
    (8, 8, "generation (24), start_time (40)"),
    (16, 32, "name"),
    (48, 8, "restart: epoch (16), id + 1 (48)"),
    (128, 8, "hazard: four times slot + 1 (16)"),
    (136, 8, "cursor"),
    (144, 8, "progress: epoch (16), id + 1 (48)"),
    (152, 8, "last_placed_ns"),
    (160, 8, "overtaken"),
    (168, 8, "first_seq"),
    (176, 8, "delivered"),
    (184, 8, "refused"),
];
const SLOT: [(u64, usize, &str); 9] = [
    (0, 8, "word: tag (61), state (3): 0 free, 1 open, 2 closing, 3 committed"),
    (8, 8, "image_id"),
    (16, 8, "epoch"),
    (24, 8, "first_packet_ns"),
    (32, 8, "detector_timestamp"),
    (40, 4, "exposure_length"),
    (44, 4, "packets_received"),
    (48, 4, "do_not_store"),
    (56, 8, "made_with"),
];
const COMMIT: [(u64, usize, &str); 11] = [
    (0, 8, "word: sequence + 1 (48), slot (16): 65533 not yet, 65535 no image"),
    (8, 8, "epoch"),
    (16, 8, "accounted: id (48), flags (8): 1 do_not_store, ranges of lost ids (8)"),
    (24, 4, "packets_received"),
    (28, 4, "exposure_length"),
    (32, 8, "first_packet_utc_ns"),
    (40, 8, "commit_utc_ns"),
    (48, 8, "detector_timestamp"),
    (56, 8, "made_with"),
    (64, 8, "lost[0].first_id"),
    (72, 8, "lost[0]: count (56), cause (8)"),
];

#[test]
fn scripted_ring_is_byte_for_byte_the_golden_one() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layout.hex");
    let dump = dump_scripted_ring();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &dump).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    for (index, (expected, found)) in expected.lines().zip(dump.lines()).enumerate() {
        assert_eq!(expected, found, "line {} of layout.hex", index + 1);
    }
    assert_eq!(expected, dump);
}

/// Two ports' packets, a whole image, a partial one, two lost ones, one open in somebody's hands.
fn dump_scripted_ring() -> String {
    let folder = tempfile::tempdir_in("/dev/shm").expect("it is there");
    let path = folder.path().join("ring");
    let (ring, _lock) = create_or_take_over(&path, common::geometry(8, 2, 3), &Proc).expect("there is room");
    let raw = RawRing::open(&path, *ring.geometry());
    let mut rig = Rig::over(ring);
    rig.contributor(1001).count(PacketFate::Placed, 2); // it leaves, and its count stays with the place
    let mut contributor = rig.contributor_in_run(1002, 16);
    let mut writer = Reader::reliable(&rig.ring, common::process(1003), "writer", Start::Next).expect("a free place");
    let _preview = Reader::lossy(&rig.ring, common::process(1004), "preview", Start::Next).expect("a free place");
    rig.whole_image(&mut contributor, 16);
    rig.now_ns += 1_000_000;
    common::place(&mut contributor, 17, &[0, 2], rig.now_ns);
    rig.step_after(DEADLINE_NS);
    contributor.set_progress(Some(21), rig.now_ns);
    rig.step();
    rig.whole_image(&mut contributor, 20);
    rig.now_ns += 500_000;
    common::place(&mut contributor, 21, &[1], rig.now_ns);
    writer.try_next();
    writer.try_next();
    contributor.count(PacketFate::Placed, 9);
    contributor.count(PacketFate::Late, 1);
    contributor.count_bytes(80);
    let _access = contributor.protect(&[21, 22]);
    dump(&raw)
}

fn dump(raw: &RawRing) -> String {
    let fields = fields(raw);
    let mut text = String::from("# offset    bytes\n");
    for (offset, count, meaning) in &fields {
        let bytes = raw.bytes(*offset, *count);
        let hex = bytes.iter().map(|byte| if meaning.contains(VARIES) { "--".into() } else { format!("{byte:02x}") });
        writeln!(text, "{offset:08x}  {:64}  {meaning}", hex.collect::<String>()).expect("text");
    }
    assert_rest_is_zero(raw, &fields);
    text
}

/// What has been used of the ring: the header, three participants, the slots, three commit entries.
fn fields(raw: &RawRing) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut add = |at: u64, of: String, table: &[(u64, usize, &str)]| {
        fields.extend(table.iter().map(|&(offset, count, name)| (at + offset, count, format!("{of}: {name}"))));
    };
    add(0, "header".into(), &HEADER);
    for place in 0..3 {
        add(raw.participant_at(place), format!("participant {place}"), &PARTICIPANT);
        for (name, counter) in COUNTERS.iter().zip(0..) {
            add(raw.participant_at(place) + 256 + counter * 8, format!("participant {place}"), &[(0, 8, name)]);
            let joined = format!("participant {place}, when it joined");
            add(raw.participant_at(place) + 384 + counter * 8, joined, &[(0, 8, name)]);
        }
    }
    for slot in 0..8 {
        add(raw.slot_at(slot), format!("slot {slot}"), &SLOT);
    }
    (0..3).for_each(|seq| add(raw.commit_at(seq), format!("commit {seq}"), &COMMIT));
    (0..8).for_each(|slot| add(raw.bitmap_at(slot), format!("bitmap of slot {slot}"), &[(0, 8, "bit p: packet p")]));
    for slot in (0..8).filter(|&slot| raw.slot_word(slot).1 == common::raw::State::Committed) {
        (0..3).for_each(|packet| {
            let at = raw.pixels_at(slot) + packet * PACKET_BYTES as u64;
            add(
                at,
                format!("pixels of slot {slot}"),
                &[(0, PACKET_BYTES, ["packet 0", "packet 1", "packet 2"][packet as usize])],
            );
        });
    }
    fields
}

fn assert_rest_is_zero(raw: &RawRing, fields: &[Field]) {
    let mut control = raw.bytes(0, raw.control_bytes() as usize);
    for (offset, count, _) in fields.iter().filter(|(offset, ..)| *offset < raw.control_bytes()) {
        control[*offset as usize..][..*count].fill(0);
    }
    assert_eq!(control.iter().position(|&byte| byte != 0), None, "a byte that layout.hex does not name");
}

#[test]
fn standard_atomics_are_named_in_sync_alone() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let names_atomics = text.contains("sync::atomic") || text.contains("core::sync") || text.contains("loom::");
            let is_seam = path.ends_with("src/sync.rs") || path.ends_with("src/sync/model.rs");
            assert!(is_seam || !names_atomics, "{}", path.display());
        }
    }
    assert!(files > 15, "only {files} files were looked at");
}

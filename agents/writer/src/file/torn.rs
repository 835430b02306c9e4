//! Every file that a kill within the end of a file could leave: each opens, and each is recovered.
//!
//! The end of a small file runs once, and `disk` keeps the list of its changes. A kill leaves the file as it was
//! before, with the first of these changes, and perhaps with a part of the next: a write ends between two pages.
//! A loss of power leaves any mixture of sectors, of which the record of the cut mends those of the structure.

#[path = "../../tests/file/support.rs"]
#[allow(dead_code)] // what only the tests in that folder need
mod support;

use super::{
    FileSpec, ImageFile,
    disk::log::{self, Change},
    layout::{BLOCK_BYTES, Layout, open_in_library, with_library},
    record::{self, RECORD_BYTES},
    recover,
    spec::{End, EndState},
};
use ecs_schemas::image::LossCause;
use serde_json::Value;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Output,
};
use support::*;

const _: () = assert!(RECORD_BYTES == support::RECORD_BYTES);
const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
const FIRST_ID: u64 = 1000;
/// Rows that are left of a file: the last image is row 40.
const KEPT: usize = 41;

/// The end of one file: its bytes before, its changes, its bytes after.
struct Ended {
    _folder: tempfile::TempDir,
    output: PathBuf,
    before: Vec<u8>,
    changes: Vec<Change>,
    after: Vec<u8>,
}

fn end_of_file() -> End {
    End { reason: "a test".to_owned(), ..end(EndState::Cancelled, LossCause::Cancelled) }
}

/// Rows 0 to 9 are lost, of 20 to 29 nothing is known, 40 is the last; the rest is cut off.
fn write_some(file: &mut ImageFile, spec: &FileSpec) {
    file.mark_lost(FIRST_ID..FIRST_ID + 10, LossCause::RingFull).unwrap();
    for row in (10..20).chain(30..KEPT as u64) {
        write(file, spec, FIRST_ID + row, if row % 5 == 3 { ALL_RECEIVED >> 2 } else { ALL_RECEIVED });
    }
}

/// One with `metadata` lies at other places than one without.
fn ended(images: u64, metadata: usize, sync: bool) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let entry = |index| (format!("entry {index}"), "x".repeat(index * 100).into());
    let metadata = (0..metadata).map(entry).collect();
    let spec = FileSpec { metadata, height: 3, width: 5, pixel_mask: vec![1; 15], ..spec(&output, images) };
    let mut file = create(&spec, FIRST_ID);
    write_some(&mut file, &spec);
    file.flush().unwrap();
    let before = fs::read(&output).unwrap();
    let changes = log::of(|| drop(file.finish(&End { sync, ..end_of_file() }).unwrap()));
    let after = fs::read(&output).unwrap();
    assert!(replay(&before, &changes) == after, "something changed the file that is not in the list");
    Ended { _folder: folder, output, before, changes, after }
}

fn replay(before: &[u8], changes: &[Change]) -> Vec<u8> {
    changes.iter().fold(before.to_vec(), |mut file, change| {
        make(&mut file, change);
        file
    })
}

fn make(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes } => {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            file.resize(file.len().max(end), 0);
            file[start..end].copy_from_slice(bytes);
        }
        Change::Shorten { bytes } => file.truncate(*bytes as usize),
        Change::GiveBack { range } => file[range.start as usize..range.end as usize].fill(0),
    }
}

/// What a kill can leave of a change, beside nothing and all of it.
fn torn_at_pages(change: &Change) -> Vec<Change> {
    let Change::Write { offset, bytes } = change else { return Vec::new() };
    let first = (offset + 1).next_multiple_of(PAGE_BYTES);
    let boundaries = (first..offset + bytes.len() as u64).step_by(PAGE_BYTES as usize);
    let part = |end: u64| Change::Write { offset: *offset, bytes: bytes[..(end - offset) as usize].to_vec() };
    boundaries.map(part).collect()
}

/// The states that a kill can leave, in order.
fn states_after_kill(ended: &Ended) -> Vec<Vec<u8>> {
    let mut states = vec![ended.before.clone()];
    let mut state = ended.before.clone();
    for change in &ended.changes {
        for part in torn_at_pages(change) {
            let mut torn = state.clone();
            make(&mut torn, &part);
            states.push(torn);
        }
        make(&mut state, change);
        states.push(state.clone());
    }
    states
}

/// Which of the changes are patches: those between the record and its end.
fn patches(changes: &[Change]) -> std::ops::Range<usize> {
    let is_record =
        |change: &Change| matches!(change, Change::Write { bytes, .. } if bytes.len() as u64 == RECORD_BYTES);
    let begin = changes.iter().position(is_record).unwrap() + 1;
    begin..changes.iter().position(|change| matches!(change, Change::Shorten { .. })).unwrap()
}

fn opens(path: &Path) -> Result<Layout, String> {
    let file = File::open(path).unwrap();
    with_library(|| Layout::read(&open_in_library(&file, false).map_err(|error| error.to_string())?))
}

/// Lets h5py check all files in one process, and returns what they hold.
fn read_all(files: &[PathBuf]) -> Vec<Value> {
    let (first, rest) = files.split_first().unwrap();
    let Output { status, stdout, stderr } = reader(first).args(rest).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let held: Vec<Value> = stdout.split(|&byte| byte == b'\n').flat_map(serde_json::from_slice).collect();
    assert_eq!(held.len(), files.len());
    held
}

/// Every image that the rows tell of is there, and nothing is left open.
fn assert_recovered(held: &Value, state: usize) {
    let status: Vec<u64> = held["status"].as_array().unwrap().iter().map(|status| status.as_u64().unwrap()).collect();
    let expected = |row: usize| match row {
        0..10 | 20..30 => 3,
        row if row % 5 == 3 => 2,
        _ => 1,
    };
    assert_eq!(status, (0..KEPT).map(expected).collect::<Vec<_>>(), "state {state}");
    assert_eq!(held["ledger"]["state"], "cancelled", "state {state}");
}

#[test]
fn finish_killed_within_any_of_its_writes_leaves_a_file_that_opens_and_is_recovered() {
    // Shown at every state that a kill can leave: h5py reads it as it is, and again after its recovery.
    for (images, metadata) in [(42, 0), (4200, 40)] {
        let ended = ended(images, metadata, false);
        let folder = tempfile::tempdir().unwrap();
        let states = states_after_kill(&ended);
        println!("{images} images: {} changes, {} states", ended.changes.len(), states.len());
        let path = |state: usize, kind: &str| folder.path().join(format!("{state}-{kind}.h5"));
        let (mut left, mut recovered) = (Vec::new(), Vec::new());
        for (index, state) in states.iter().enumerate() {
            left.push(path(index, "left"));
            recovered.push(path(index, "recovered"));
            fs::write(&left[index], state).unwrap();
            opens(&left[index]).unwrap_or_else(|error| panic!("state {index}: {error}"));
            fs::write(&recovered[index], state).unwrap();
            let ended = recover(&recovered[index], &author(JOB), &end_of_file()).unwrap().unwrap();
            assert!(ended.ledger.is_balanced() && ended.state == EndState::Cancelled, "state {index}: {ended:?}");
        }
        read_all(&left);
        read_all(&recovered).iter().enumerate().for_each(|(index, held)| assert_recovered(held, index));
        assert!(fs::read(recovered.last().unwrap()).unwrap() == ended.after, "an ended file was changed");
    }
}

#[test]
fn cut_writes_each_header_within_one_page_and_the_images_first() {
    for (images, metadata) in [(42, 0), (43, 7), (500, 3), (4096, 1), (4097, 40), (9000, 0)] {
        let ended = ended(images, metadata, false);
        let patches = &ended.changes[patches(&ended.changes)];
        let mut blocks = Vec::new();
        for patch in patches {
            let Change::Write { offset, bytes } = patch else { panic!("{patch:?}") };
            assert_eq!(offset / BLOCK_BYTES, (offset + bytes.len() as u64 - 1) / BLOCK_BYTES, "{offset}");
            blocks.push(offset / BLOCK_BYTES);
        }
        // One header for the images and one for each column; that of the images lies last and is written first.
        assert_eq!(blocks.len(), 12);
        assert!(blocks.is_sorted_by(|earlier, later| earlier > later), "{blocks:?}");
        assert!(PAGE_BYTES.is_multiple_of(BLOCK_BYTES));
    }
}

/// A small generator (splitmix64), as in `tests/file/killed.rs`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Replaces blocks of `grain` bytes of `old` by those of `new`, each with the same chance.
fn mix(old: &[u8], new: &[u8], grain: usize, random: &mut Random) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let blocks = old.chunks(grain).zip(new.chunks(grain));
    blocks.flat_map(|(old, new)| if random.below(2) == 0 { old } else { new }).copied().collect()
}

#[test]
fn structure_torn_in_any_way_is_mended_to_the_byte_by_recovery() {
    // Any mixture of what was there before the patches and after them, by page, sector, a few bytes and one
    // byte: with the record in place, recovery makes of each the file that an undisturbed end makes.
    let ended = ended(500, 3, true);
    let patches = patches(&ended.changes);
    let old = replay(&ended.before, &ended.changes[..patches.start]);
    let new = replay(&ended.before, &ended.changes[..patches.end]);
    let mut random = Random(old.len() as u64);
    let mut did_not_open = 0;
    for round in 0..400 {
        let grain = [PAGE_BYTES, SECTOR_BYTES, 7, 1][round % 4] as usize;
        fs::write(&ended.output, mix(&old, &new, grain, &mut random)).unwrap();
        did_not_open += u32::from(opens(&ended.output).is_err());
        let recovered = recover(&ended.output, &author(JOB), &end_of_file()).unwrap();
        assert!(recovered.is_some(), "round {round}");
        assert!(fs::read(&ended.output).unwrap() == ended.after, "round {round}: another file than undisturbed");
    }
    assert!(did_not_open > 100, "the mixtures are too gentle: {did_not_open} did not open");
    read_back(&ended.output);
}

#[test]
fn record_torn_in_any_way_is_as_if_it_was_never_begun() {
    let ended = ended(500, 3, false);
    let begin = patches(&ended.changes).start;
    let old = replay(&ended.before, &ended.changes[..begin - 1]);
    let new = replay(&ended.before, &ended.changes[..begin]);
    let mut random = Random(1);
    let mut torn = 0;
    for round in 0..200 {
        let state = mix(&old, &new, [SECTOR_BYTES, 7, 1][round % 3] as usize, &mut random);
        torn += u32::from(state != old && state != new);
        fs::write(&ended.output, &state).unwrap();
        opens(&ended.output).unwrap();
        recover(&ended.output, &author(JOB), &end_of_file()).unwrap().unwrap();
        assert_eq!(fs::metadata(&ended.output).unwrap().len(), ended.after.len() as u64);
    }
    assert!(torn > 150, "{torn}");
    assert_recovered(&read_back(&ended.output), 0);
}

#[test]
fn recovery_killed_while_it_mends_a_torn_file_is_completed_by_the_next_one() {
    let ended = ended(500, 0, false);
    let patches = patches(&ended.changes);
    let old = replay(&ended.before, &ended.changes[..patches.start]);
    let new = replay(&ended.before, &ended.changes[..patches.end]);
    let torn = mix(&old, &new, 7, &mut Random(3));
    fs::write(&ended.output, &torn).unwrap();
    let changes = log::of(|| drop(recover(&ended.output, &author(JOB), &end_of_file()).unwrap()));
    for length in 0..=changes.len() {
        fs::write(&ended.output, replay(&torn, &changes[..length])).unwrap();
        recover(&ended.output, &author(JOB), &end_of_file()).unwrap().unwrap();
        assert!(fs::read(&ended.output).unwrap() == ended.after, "killed after {length} changes");
    }
}

#[test]
fn torn_file_of_another_job_is_left_to_it() {
    let ended = ended(500, 0, false);
    let patches = patches(&ended.changes);
    let torn = mix(&ended.before, &ended.before, 1, &mut Random(0));
    let torn = replay(&torn, &ended.changes[..patches.start + 3]);
    fs::write(&ended.output, &torn).unwrap();
    assert_eq!(recover(&ended.output, &author(JOB + 1), &end_of_file()).unwrap(), None);
    assert!(fs::read(&ended.output).unwrap() == torn);
}

#[test]
fn file_that_lost_its_block_is_cut_all_the_same() {
    // Somebody opened the file for writing with HDF5 after the kill, which cuts off what lies behind its end.
    let ended = ended(500, 0, false);
    let file = fs::OpenOptions::new().read(true).write(true).open(&ended.output).unwrap();
    fs::write(&ended.output, &ended.before).unwrap();
    record::clear(&file).unwrap();
    recover(&ended.output, &author(JOB), &end_of_file()).unwrap().unwrap();
    assert_recovered(&read_back(&ended.output), 0);
}

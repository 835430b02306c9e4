//! Real files in `/dev/shm`: made, refused, taken over, damaged, removed.

mod common;

use common::raw;
use ecs_shm_buffer::{
    Assume, Contributor, Geometry, PixelAccess, Proc, ProcessId, Reader, RingError, Start, create_or_take_over,
    is_current, open, remove_left_over,
};
use proptest::prelude::*;
use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

const GEOMETRY_FIELDS: std::ops::Range<u64> = 12..40;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there"))
    }

    fn ring(&self) -> PathBuf {
        self.0.path().join("ring")
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.0.path()).expect("it is there").count()
    }
}

fn small() -> Geometry {
    common::geometry(8, 2, 2)
}

#[test]
fn ring_of_a_living_owner_is_refused_to_a_second_one_by_its_pid() {
    let folder = Folder::new();
    let (ring, _lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    let _owner = ecs_shm_buffer::Owner::take_over(&ring, ProcessId::current(), Default::default(), &Proc);
    let second = create_or_take_over(&folder.ring(), small(), &Proc);
    assert!(matches!(second, Err(RingError::Owned { pid, .. }) if pid == std::process::id()), "{:?}", second.err());
    assert!(!remove_left_over(&folder.ring(), &Assume(false)).unwrap(), "it is owned");
    assert!(is_current(&ring, &folder.ring()));
}

#[test]
fn ring_is_for_its_user_alone_and_nothing_else_is_left_beside_it() {
    let folder = Folder::new();
    let (ring, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    let metadata = std::fs::metadata(folder.ring()).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, small().file_bytes()));
    assert_eq!(*ring.geometry(), small());
    assert_eq!(folder.files(), 1);
    lock.remove().unwrap();
    assert_eq!(folder.files(), 0);
}

#[test]
fn ring_is_taken_over_while_somebody_alive_is_in_it_and_replaced_when_nobody_is() {
    let folder = Folder::new();
    let (first, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    let participant = Contributor::join(&first, ProcessId::current(), "readout").unwrap();
    drop(lock);
    let (second, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    assert_eq!(second.status().participants.len(), 1, "the same ring");
    assert!(is_current(&first, &folder.ring()) && is_current(&second, &folder.ring()));
    drop((lock, participant));
    let (third, _lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    assert!(is_current(&third, &folder.ring()));
    assert!(!is_current(&first, &folder.ring()), "it was replaced");
}

#[test]
fn other_geometry_is_refused_while_the_ring_is_in_use_and_taken_when_it_is_not() {
    let folder = Folder::new();
    let (ring, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    let reader = Reader::lossy(&ring, ProcessId::current(), "preview", Start::Next).unwrap();
    drop(lock);
    let wanted = common::geometry(16, 2, 2);
    let error = create_or_take_over(&folder.ring(), wanted, &Proc).err().expect("in use");
    assert!(
        matches!(&error, RingError::OtherGeometry { found, wanted: other, .. } if **found == small() && **other == wanted)
    );
    let text = error.to_string();
    assert!(text.contains("slots: 8") && text.contains("slots: 16"), "{text}");
    assert!(!remove_left_over(&folder.ring(), &Proc).unwrap(), "somebody is in it");
    drop(reader);
    let (ring, _lock) = create_or_take_over(&folder.ring(), wanted, &Proc).unwrap();
    assert_eq!(ring.geometry().slots, 16);
}

#[test]
fn left_over_ring_is_removed_whatever_is_in_it() {
    let folder = Folder::new();
    assert!(!remove_left_over(&folder.ring(), &Proc).unwrap(), "there is none");
    let (ring, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    std::mem::forget(Contributor::join(&ring, common::process(99), "dead").unwrap());
    drop(lock);
    assert!(remove_left_over(&folder.ring(), &Assume(false)).unwrap());
    std::fs::write(folder.ring(), b"not a ring at all").unwrap();
    assert!(remove_left_over(&folder.ring(), &Proc).unwrap());
    assert_eq!(folder.files(), 0);
}

#[test]
fn owner_that_ends_late_does_not_remove_the_ring_of_another() {
    let folder = Folder::new();
    let (_first, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    std::fs::remove_file(folder.ring()).unwrap(); // by hand, against all rules
    let (second, _lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    lock.remove().unwrap();
    assert!(is_current(&second, &folder.ring()));
}

#[test]
fn missing_ring_or_folder_is_told_with_its_path() {
    let folder = Folder::new();
    let error = open(&folder.ring(), PixelAccess::ReadOnly).err().expect("there is none");
    assert!(matches!(&error, RingError::Missing { path } if *path == folder.ring()), "{error}");
    let nowhere = folder.0.path().join("no/such/folder");
    assert!(matches!(create_or_take_over(&nowhere, small(), &Proc), Err(RingError::Io { .. })));
    let out_of_range = Geometry { slots: 7, ..small() };
    assert!(matches!(create_or_take_over(&folder.ring(), out_of_range, &Proc), Err(RingError::Geometry(_))));
    assert_eq!(folder.files(), 0);
}

#[test]
fn ring_larger_than_the_memory_is_refused_and_leaves_nothing() {
    let folder = Folder::new();
    let absurd = Geometry { slots: 0xfff0, height: 30_000, width: 30_000, pixel_bytes: 4, ..small() };
    let error = create_or_take_over(&folder.ring(), absurd, &Proc).err().expect("235 TB");
    assert!(matches!(&error, RingError::NoRoom { bytes, .. } if *bytes == absurd.file_bytes()), "{error}");
    assert_eq!(folder.files(), 0);
}

/// A file system in memory that gives huge pages to who asks. Unmounted at the end.
struct HugeDisk(tempfile::TempDir);

impl HugeDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=64m,huge=advise", "tmpfs"]).arg(folder.path()).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "this test mounts a tmpfs with huge pages, which needs root"
        );
        Self(folder)
    }
}

impl Drop for HugeDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn pixels_lie_in_huge_pages_where_the_file_system_gives_them_and_else_it_is_told_how() {
    let (huge, plain) = (HugeDisk::mount(), Folder::new());
    let images = Geometry { height: 1024, width: 1024, ..common::geometry(16, 2, 2) };
    let path = huge.0.path().join("ring");
    let (ring, _lock) = create_or_take_over(&path, images, &Proc).unwrap();
    let pages = ring.huge_pages().unwrap();
    assert_eq!((pages.bytes, pages.of_bytes), (16 << 20, 16 << 20), "{pages}");
    let other = open(&path, PixelAccess::ReadWrite).unwrap();
    assert_eq!(other.huge_pages().unwrap().bytes, pages.bytes, "of each participant");
    let (ring, _lock) = create_or_take_over(&plain.ring(), images, &Proc).unwrap();
    let pages = ring.huge_pages().unwrap();
    let advice = pages.advice(&plain.ring());
    assert_eq!(advice.is_some_and(|advice| advice.contains("huge=advise")), pages.bytes < pages.of_bytes, "{pages}");
}

#[test]
fn geometry_out_of_range_is_told_by_field_and_range() {
    let cases = [
        (Geometry { slots: 7, ..small() }, "slots"),
        (Geometry { slots: 0xfff1, ..small() }, "slots"),
        (Geometry { window: 0, ..small() }, "window"),
        (Geometry { window: 5, ..small() }, "window"),
        (Geometry { slots: 1000, window: 65, ..small() }, "window"),
        (Geometry { packets_per_image: 0, ..small() }, "packets_per_image"),
        (Geometry { packets_per_image: (1 << 20) + 1, ..small() }, "packets_per_image"),
        (Geometry { pixel_bytes: 3, ..small() }, "pixel_bytes"),
        (Geometry { width: 0, ..small() }, "height * width * pixel_bytes"),
        (Geometry { height: u32::MAX, width: u32::MAX, pixel_bytes: 4, ..small() }, "height * width * pixel_bytes"),
    ];
    for (geometry, field) in cases {
        assert_eq!(geometry.check().map_err(|error| error.field), Err(field), "{geometry:?}");
    }
    let sized = Geometry::with_size(100 * 4096, small());
    assert_eq!((sized.slots, sized.check()), (100, Ok(())));
    assert_eq!(Geometry::with_size(1, Geometry { window: 64, ..small() }), Geometry { slots: 8, window: 4, ..small() });
}

#[test]
fn file_cut_at_any_length_is_an_error_until_it_is_whole() {
    let folder = Folder::new();
    drop(create_or_take_over(&folder.ring(), small(), &Proc).unwrap());
    let whole = std::fs::read(folder.ring()).unwrap();
    let control = raw::HEADER_BYTES as usize + 112 * 384 + 8 * 128 + 16 * 128 + 8 * 64;
    let lengths = (0..1400).chain((1400..control + 5000).step_by(509)).chain((control..whole.len()).step_by(65_537));
    for length in lengths.chain([whole.len() - 1]) {
        std::fs::write(folder.ring(), &whole[..length]).unwrap();
        for access in [PixelAccess::ReadOnly, PixelAccess::ReadWrite] {
            let error = open(&folder.ring(), access).err().unwrap_or_else(|| panic!("{length} bytes"));
            assert!(matches!(error, RingError::NotARing { .. }), "{length} bytes: {error}");
        }
    }
    std::fs::write(folder.ring(), &whole).unwrap();
    assert!(open(&folder.ring(), PixelAccess::ReadOnly).is_ok());
}

#[test]
fn other_layout_version_is_refused_naming_it() {
    let folder = Folder::new();
    let (_ring, lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    raw::RawRing::open(&folder.ring(), small()).set_word(8, 77 | 8 << 32);
    drop(lock);
    let error = open(&folder.ring(), PixelAccess::ReadOnly).err().expect("another version");
    assert!(matches!(error, RingError::OtherVersion { found: 77, .. }), "{error}");
    let (ring, _lock) = create_or_take_over(&folder.ring(), small(), &Proc).unwrap();
    assert_eq!(*ring.geometry(), small(), "nobody is known to use it, so it was replaced");
}

proptest! {
    /// A header of any content, before a file of any length, is opened as what it says or refused.
    #[test]
    fn damaged_header_is_an_error_or_a_geometry_that_fits_the_file(
        damage in prop::collection::vec((0..48_u64, any::<u8>()), 1..8),
    ) {
        let folder = Folder::new();
        drop(create_or_take_over(&folder.ring(), small(), &Proc).unwrap());
        let raw = raw::RawRing::open(&folder.ring(), small());
        for (offset, byte) in damage {
            let shift = offset % 8 * 8;
            let word = raw.word(offset / 8 * 8) & !(0xff << shift) | u64::from(byte) << shift;
            raw.set_word(offset / 8 * 8, word);
        }
        match open(&folder.ring(), PixelAccess::ReadWrite) {
            Ok(ring) => {
                prop_assert!(ring.geometry().check().is_ok());
                prop_assert!(ring.geometry().file_bytes() <= small().file_bytes());
                let _ = ring.status();
                prop_assert!(Reader::lossy(&ring, common::process(3), "reader", Start::Oldest).unwrap().try_next().is_none());
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        prop_assert!(create_or_take_over(&folder.ring(), small(), &Proc).is_ok(), "nobody is in it");
    }

    /// The same with numbers that are near what is allowed.
    #[test]
    fn header_of_any_geometry_never_reaches_beyond_the_file(
        fields in prop::collection::vec(prop_oneof![0..70_u32, any::<u32>()], 7),
    ) {
        let folder = Folder::new();
        drop(create_or_take_over(&folder.ring(), small(), &Proc).unwrap());
        let file = std::fs::File::options().write(true).open(folder.ring()).unwrap();
        for (offset, field) in GEOMETRY_FIELDS.step_by(4).zip(fields) {
            std::os::unix::fs::FileExt::write_all_at(&file, &field.to_le_bytes(), offset).unwrap();
        }
        if let Ok(ring) = open(&folder.ring(), PixelAccess::ReadWrite) {
            prop_assert!(ring.geometry().file_bytes() <= small().file_bytes());
            let _ = ring.status();
        }
    }
}

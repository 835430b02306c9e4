//! Disks that fill up, and writes that the kernel refuses.

use crate::support::*;
use ecs_schemas::{error_code::ErrorCode, error_code::Failure, image::LossCause, write_job::Ledger};
use ecs_writer::file::{EndState, FileSpec, ImageFile, WriteError, check};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::{
    env, fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

const OUTPUT: &str = "ECS_TEST_LIMITED_OUTPUT";

/// Some 30 KiB an image, so that a limit can fall into the middle of one.
fn large(output: &Path, images: u64) -> FileSpec {
    FileSpec { height: 150, width: 100, pixel_mask: vec![0; 150 * 100], ..spec(output, images) }
}

#[test]
fn created_file_has_all_its_space_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let spec = large(&folder.path().join("run.h5"), 100);
    let _file = ImageFile::create(&spec).unwrap();
    let temporary = folder.path().join(files_in(folder.path()).pop().unwrap());
    let reserved_bytes = fs::metadata(temporary).unwrap().blocks() * 512;
    assert!(reserved_bytes >= 100 * spec.image_bytes(), "{reserved_bytes} bytes");
}

/// A tmpfs of 4 MiB, gone with this value; none where the user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).status();
        mount.is_ok_and(|status| status.success()).then(|| Self(folder))
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.0.path().join("filler")).unwrap();
        while filler.write(&[1; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn disk_that_fills_during_the_job_takes_no_image_away() {
    let Some(disk) = SmallDisk::mount() else {
        println!("no right to mount a tmpfs; the other tests of this module need none");
        return;
    };
    let folder = disk.0.path();
    let too_large = check(&large(&folder.join("large.h5"), 200)).unwrap_err();
    assert_eq!(Failure::from(&too_large).code, ErrorCode::DiskFull);

    let spec = large(&folder.join("run.h5"), 60);
    let mut file = create(&spec, 0);
    disk.fill();
    assert_eq!(Failure::from(&check(&large(&folder.join("next.h5"), 1)).unwrap_err()).code, ErrorCode::DiskFull);
    (0..30).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
    file.mark_lost(30..40, LossCause::RingFull).unwrap();
    (40..50).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
    let ledger = file.finish(&end(EndState::Cancelled, LossCause::Cancelled)).unwrap();
    assert_eq!((ledger.written, ledger.lost_total()), (40, 20));
    assert_same_ledger(&read_back(&spec.output), &ledger);
}

/// The process whose writes the kernel refuses from the middle of image 12 on. As a test of its own it
/// does nothing.
#[test]
fn process_whose_files_may_not_grow() {
    let Some(output) = env::var_os(OUTPUT).map(PathBuf::from) else { return };
    let spec = large(&output, 20);
    let mut file = create(&spec, 0);
    write(&mut file, &spec, 0, ALL_RECEIVED);
    let limit = fs::metadata(&output).unwrap().len() - RECORD_BYTES - 7 * spec.image_bytes() - spec.image_bytes() / 2;
    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(limit), ..unlimited }).unwrap();
    (1..12).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
    file.mark_lost(3..4, LossCause::RingFull).unwrap();
    let error = file.write_image(&row(12, &[ALL_RECEIVED]), &pixels(&spec, 12, ALL_RECEIVED)).unwrap_err();
    assert!(matches!(error, WriteError::Pixels { image_id: 12, .. }), "{error}");
    // Unlike a full disk, the limit is in the way of files elsewhere, too: the cut makes one in memory.
    setrlimit(Resource::Fsize, unlimited).unwrap();
    let ledger = file.finish(&end(EndState::Failed, LossCause::WriteError)).unwrap();
    fs::write(output.with_extension("json"), serde_json::to_vec(&ledger).unwrap()).unwrap();
}

#[test]
fn refused_write_leaves_a_file_that_can_be_finished() {
    // A file size limit refuses writes as a full disk does, and needs no rights.
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let status = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]) // else the signal ends the process
        .arg(env::current_exe().unwrap())
        .args(["--exact", "full_disk::process_whose_files_may_not_grow"])
        .env(OUTPUT, &output)
        .status();
    assert!(status.unwrap().success());
    let held = read_back(&output);
    assert_eq!(held["shape"], json!([12, 150, 100]));
    assert_eq!(held["ledger"]["lost_by_cause"], json!({"ring_full": 1, "write_error": 8}));
    let ledger: Ledger = serde_json::from_slice(&fs::read(output.with_extension("json")).unwrap()).unwrap();
    assert_same_ledger(&held, &ledger);
}

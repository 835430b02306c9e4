//! What cannot be written is refused, with nothing left behind and nothing replaced.

use crate::support::*;
use ecs_schemas::error_code::{ErrorCode, Failure};
use ecs_writer::file::{CreateError, FileSpec, IMAGES_MAX, ImageFile, WriteError, check};
use std::{fs, path::Path};

/// The code that `check` and `create` both refuse with.
fn refusal(spec: &FileSpec) -> ErrorCode {
    let checked = check(spec).expect_err("check accepts it");
    let created = ImageFile::create(spec).expect_err("create accepts it");
    assert_eq!(checked.to_string(), created.to_string());
    Failure::from(&created).code
}

#[test]
fn parameters_out_of_range_are_refused_with_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let good = spec(&folder.path().join("run.h5"), 1);
    let bad = [
        FileSpec { images: 0, ..good.clone() },
        FileSpec { images: IMAGES_MAX + 1, ..good.clone() },
        FileSpec { height: 0, ..good.clone() },
        FileSpec { pixel_mask: vec![0; 299], ..good.clone() },
        FileSpec { height: usize::MAX, ..good.clone() },
        FileSpec { packets_per_image: 0, ..good.clone() },
        FileSpec { output: "relative.h5".into(), ..good.clone() },
        FileSpec { output: "/".into(), ..good.clone() },
        FileSpec { metadata: [(String::new(), 1.into())].into(), ..good.clone() },
        FileSpec { metadata: [("a".to_owned(), "nul\0".into())].into(), ..good },
    ];
    for spec in bad {
        assert_eq!(refusal(&spec), ErrorCode::BadParameter, "{spec:?}");
    }
    assert_eq!(files_in(folder.path()), Vec::<String>::new());
}

#[test]
fn missing_folder_or_one_that_is_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for parent in [folder.path().join("missing"), file] {
        assert_eq!(refusal(&spec(&parent.join("run.h5"), 1)), ErrorCode::Output);
        let error = check(&spec(&parent.join("run.h5"), 1)).unwrap_err();
        assert!(error.to_string().contains(parent.to_str().unwrap()), "{error}");
    }
}

#[test]
fn more_images_than_the_disk_holds_are_refused_as_disk_full() {
    let folder = tempfile::tempdir().unwrap();
    let of_disk = spec(&folder.path().join("run.h5"), IMAGES_MAX);
    let spec = FileSpec { height: 30_000, width: 30_000, pixel_mask: Vec::new(), ..of_disk };
    assert_eq!(refusal(&spec), ErrorCode::DiskFull);
    assert_eq!(files_in(folder.path()), Vec::<String>::new());
}

#[test]
fn folder_or_device_as_output_is_refused_even_with_overwrite() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    for output in [&inner, Path::new("/dev/null")] {
        let spec = FileSpec { overwrite: true, ..spec(output, 1) };
        assert!(matches!(check(&spec), Err(CreateError::NotAFile { .. })), "{output:?}");
        assert_eq!(refusal(&spec), ErrorCode::Output);
    }
}

#[test]
fn existing_file_without_overwrite_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    fs::write(&output, "old").unwrap();
    assert_eq!(refusal(&spec(&output, 1)), ErrorCode::OutputExists);
    assert_eq!(fs::read(&output).unwrap(), b"old");
    assert_eq!(files_in(folder.path()), ["run.h5"]);
}

#[test]
fn file_that_appears_during_the_job_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 2);
    let mut file = create(&spec, 0);
    fs::write(&output, "other").unwrap();
    let error = file.write_image(&row(0, &[ALL_RECEIVED]), &pixels(&spec, 0, ALL_RECEIVED)).unwrap_err();
    assert!(matches!(error, WriteError::Exists { .. }), "{error}");
    assert_eq!(Failure::from(&error).code, ErrorCode::OutputExists);
    let ledger = file.finish(&done()).unwrap();
    assert_eq!((ledger.written, ledger.lost_total()), (0, 2));
    assert_eq!(fs::read(&output).unwrap(), b"other");
    assert_eq!(files_in(folder.path()), ["run.h5"]);
}

#[test]
fn overwrite_replaces_the_old_file_with_the_first_image_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    fs::write(&output, "old").unwrap();
    let spec = FileSpec { overwrite: true, ..spec(&output, 3) };
    create(&spec, 0).finish(&done()).unwrap();
    drop(create(&spec, 0));
    assert_eq!(fs::read(&output).unwrap(), b"old");
    assert_eq!(files_in(folder.path()), ["run.h5"]);

    let mut file = create(&spec, 0);
    assert_eq!(fs::read(&output).unwrap(), b"old");
    write(&mut file, &spec, 0, ALL_RECEIVED);
    assert!(file.is_published());
    file.finish(&done()).unwrap();
    assert_eq!(read_back(&output)["ledger"]["written"], 1);
    assert_eq!(files_in(folder.path()), ["run.h5"]);
}

#[test]
fn ids_beyond_64_bits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = ImageFile::create(&spec(&folder.path().join("run.h5"), 2)).unwrap();
    assert!(matches!(file.set_first_id(u64::MAX), Err(WriteError::IdRange { .. })));
    file.set_first_id(u64::MAX - 1).unwrap();
}

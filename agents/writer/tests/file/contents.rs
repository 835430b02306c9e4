//! What goes in comes back.

use crate::support::*;
use ecs_schemas::{detector::PixelType, image::LossCause};
use ecs_writer::file::{End, EndState, FileSpec};
use serde_json::json;
use std::collections::BTreeMap;

#[test]
fn full_file_of_any_pixel_type_and_length_reads_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let types = [
        (PixelType::U8, "uint8"),
        (PixelType::U16, "uint16"),
        (PixelType::U32, "uint32"),
        (PixelType::I32, "int32"),
        (PixelType::F32, "float32"),
    ];
    for (pixel, dtype) in types {
        for images in [1, 2, 1000] {
            let output = folder.path().join(format!("{dtype}-{images}.h5"));
            let spec = FileSpec { pixel, fill: pixel.missing(), ..spec(&output, images) };
            let first_id = u64::from(u32::MAX) - 1; // ids pass 32 bits
            let mut file = create(&spec, first_id);
            (first_id..first_id + images).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
            let ledger = file.finish(&done()).unwrap();
            assert!(ledger.is_whole() && ledger.last_id == Some(first_id + images - 1), "{ledger:?}");
            assert_eq!(ledger.bytes, images * 300 * pixel.bytes() as u64);

            let held = read_back(&output);
            assert_eq!(held["shape"], json!([images, 6, 50]));
            assert_eq!(held["dtype"], dtype);
            assert_eq!(held["ledger"]["state"], "done");
            assert_eq!(held["ledger"]["job"], JOB);
            assert_eq!(held["detector"], json!(["EG05M", 12, 300]));
            assert_same_ledger(&held, &ledger);
        }
    }
    assert_eq!(files_in(folder.path()).len(), 15);
}

#[test]
fn converted_images_of_which_packets_and_ids_are_missing_are_filled_with_their_mark() {
    let folder = tempfile::tempdir().unwrap();
    for pixel in [PixelType::F32, PixelType::I32] {
        let output = folder.path().join(format!("{}.h5", pixel.as_str()));
        let spec = FileSpec { pixel, fill: pixel.missing(), ..spec(&output, 4) };
        let mut file = create(&spec, 10);
        file.write_calibrations("{\"number\":\"1\"}\n").unwrap();
        write(&mut file, &spec, 10, 0b11_1110_1111);
        write(&mut file, &spec, 12, ALL_RECEIVED);
        file.finish(&end(EndState::Failed, LossCause::RunEnded)).unwrap();
        let held = read_back(&output); // it checks every pixel
        assert_eq!(held["status"], json!([2, 3, 1]));
        assert_eq!(held["ledger"]["calibrations"], "{\"number\":\"1\"}\n");
    }
}

#[test]
fn partial_and_lost_images_in_the_middle_are_marked_and_filled() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 200);
    let mut file = create(&spec, 100);
    file.mark_lost(100..102, LossCause::AssemblerDown).unwrap();
    write(&mut file, &spec, 102, 0b11_1110_1111);
    file.mark_lost(103..200, LossCause::RingFull).unwrap();
    write(&mut file, &spec, 200, ALL_RECEIVED);
    write(&mut file, &spec, 205, ALL_RECEIVED); // nothing is said of 201 to 204
    file.mark_lost(206..300, LossCause::NotReceived).unwrap();
    let ledger = file.finish(&end(EndState::Failed, LossCause::RunEnded)).unwrap();

    let held = read_back(&output);
    let status = [vec![3, 3, 2], vec![3; 97], vec![1], vec![3; 4], vec![1], vec![3; 94]].concat();
    assert_eq!(held["status"], json!(status));
    let cause = [vec![4, 4, 0], vec![2; 97], vec![0], vec![20; 4], vec![0], vec![1; 94]].concat();
    assert_eq!(held["loss_cause"], json!(cause));
    assert_same_ledger(&held, &ledger);
    assert_eq!((ledger.written, ledger.partial, ledger.missing_packets), (2, 1, 1));
    let causes = [LossCause::AssemblerDown, LossCause::RingFull, LossCause::RunEnded, LossCause::NotReceived];
    assert_eq!(ledger.lost, BTreeMap::from_iter(causes.into_iter().zip([2, 97, 4, 94])));
}

#[test]
fn tail_that_never_came_is_cut_off_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    // One chunk of rows, one exactly full, several; cut within the first, at its end, within a later one.
    for (images, written) in [(2, 1), (1000, 1), (1000, 999), (4096, 4000), (9000, 1), (9000, 4096), (9000, 8193)] {
        let output = folder.path().join(format!("{images}-{written}.h5"));
        let spec = FileSpec { height: 2, width: 5, pixel_mask: vec![1; 10], ..spec(&output, images) };
        let mut file = create(&spec, 0);
        (0..written).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
        let end = End { reason: "stop: ä".to_owned(), ..end(EndState::Cancelled, LossCause::Cancelled) };
        let ledger = file.finish(&end).unwrap();

        let held = read_back(&output);
        assert_eq!(held["shape"], json!([written, 2, 5]), "{images}");
        assert_eq!(held["ledger"]["state"], "cancelled");
        assert_eq!(held["ledger"]["reason"], "stop: ä");
        assert_same_ledger(&held, &ledger);
        assert_eq!(ledger.lost, BTreeMap::from([(LossCause::Cancelled, images - written)]));
    }
}

#[test]
fn job_without_images_leaves_nothing_and_counts_everything_lost() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let mut file = create(&spec(&output, 10), 0);
    file.mark_lost(0..3, LossCause::RingFull).unwrap();
    assert!(!file.is_published());
    let ledger = file.finish(&end(EndState::Failed, LossCause::Timeout)).unwrap();
    assert!(ledger.is_balanced() && ledger.output.is_empty(), "{ledger:?}");
    assert_eq!(ledger.lost, BTreeMap::from([(LossCause::RingFull, 3), (LossCause::Timeout, 7)]));
    assert_eq!(files_in(folder.path()), Vec::<String>::new());
}

#[test]
fn lost_images_that_there_was_no_time_to_fill_read_as_zeros_and_the_file_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 10);
    let mut file = create(&spec, 0);
    file.mark_lost(0..8, LossCause::RingFull).unwrap();
    write(&mut file, &spec, 8, ALL_RECEIVED);
    let filled = std::cell::Cell::new(0);
    let may_fill = || filled.replace(filled.get() + 1) < 3;
    let ledger = file.finish_while(&end(EndState::Cancelled, LossCause::Cancelled), &may_fill).unwrap();
    assert_eq!(ledger.lost, BTreeMap::from([(LossCause::RingFull, 8), (LossCause::Cancelled, 1)]));
    let held = read_back(&output);
    assert_same_ledger(&held, &ledger);
    let reason = held["ledger"]["reason"].as_str().unwrap();
    assert!(reason.contains("lost images without their fill value"), "{reason}");
}

#[test]
fn long_reason_is_cut_at_a_character() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 1);
    let mut file = create(&spec, 0);
    write(&mut file, &spec, 0, ALL_RECEIVED);
    let reason = format!("x{}", "ä".repeat(200));
    file.finish(&End { reason, sync: true, ..done() }).unwrap();
    assert_eq!(read_back(&output)["ledger"]["reason"], format!("x{}", "ä".repeat(127)));
}

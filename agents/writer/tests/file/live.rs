//! Readers of a file that is being written.

use crate::support::*;
use ecs_schemas::image::LossCause;
use ecs_writer::file::EndState;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};

#[test]
fn reader_in_the_middle_sees_every_flushed_image_and_no_wrong_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 300);
    let mut file = create(&spec, 0);
    write(&mut file, &spec, 0, ALL_RECEIVED);
    assert_eq!(known_rows(&read_back(&output)), 1);
    (1..150).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
    assert!(known_rows(&read_back(&output)) >= 150 - 64);
    file.mark_lost(150..160, LossCause::RingFull).unwrap();
    file.flush().unwrap();
    let held = read_back(&output);
    assert_eq!(known_rows(&held), 160);
    assert_eq!(held["shape"], json!([300, 6, 50]));
    assert_eq!(held["ledger"]["state"], "writing");
}

#[test]
fn reader_with_the_file_open_is_not_in_the_way_of_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let spec = spec(&output, 300);
    let mut file = create(&spec, 0);
    (0..100).for_each(|id| write(&mut file, &spec, id, ALL_RECEIVED));
    let mut command = reader(&output);
    command.arg("--hold");
    let mut python = start(command);
    let mut line = String::new();
    // The line comes once python has the file open; it is empty if python failed.
    BufReader::new(python.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["ledger"]["state"], "writing");

    file.finish(&end(EndState::Cancelled, LossCause::Cancelled)).unwrap();
    assert_eq!(read_back(&output)["shape"], json!([100, 6, 50]));
    drop(python.stdin.take());
    assert!(python.wait().unwrap().success());
}

#[test]
fn file_that_is_renamed_while_it_is_written_still_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let (output, moved) = (folder.path().join("run.h5"), folder.path().join("moved.h5"));
    let spec = spec(&output, 10);
    let mut file = create(&spec, 0);
    write(&mut file, &spec, 0, ALL_RECEIVED);
    std::fs::rename(&output, &moved).unwrap();
    write(&mut file, &spec, 1, ALL_RECEIVED);
    file.finish(&end(EndState::Cancelled, LossCause::Cancelled)).unwrap();
    assert_eq!(read_back(&moved)["shape"], json!([2, 6, 50]));
}

fn known_rows(held: &Value) -> usize {
    held["status"].as_array().unwrap().iter().filter(|&status| status != 0).count()
}

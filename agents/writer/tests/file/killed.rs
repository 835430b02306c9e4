//! `kill -9` of a writing process at random points.
//!
//! The test's own binary is started again as the process that writes. It says on its standard output
//! where it is; the parent kills it a random moment after a random one of these words.

use crate::support::*;
use ecs_schemas::image::LossCause;
use ecs_writer::file::{Author, EndState, ImageFile, recover};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const OUTPUT: &str = "ECS_TEST_CHILD_OUTPUT";
const IMAGES: u64 = 5000;
const FIRST_ID: u64 = 1000;
/// Images that the process writes of those asked for; the rest is its tail.
const WRITTEN: u64 = 400;

/// Every tenth image is partial, every 50th is lost. In every second hundred each row is flushed alone,
/// so that a kill is likely to fall between the columns of a row.
fn write_some(file: &mut ImageFile, output: &Path, say: &mut impl Write) {
    let spec = spec(output, IMAGES);
    for id in FIRST_ID..FIRST_ID + WRITTEN {
        if id % 50 == 49 {
            file.mark_lost(id..id + 1, LossCause::RingFull).unwrap();
        } else {
            write(file, &spec, id, if id % 10 == 3 { ALL_RECEIVED >> 2 } else { ALL_RECEIVED });
        }
        if id / 100 % 2 == 0 {
            file.flush().unwrap();
        }
        writeln!(say, "image").unwrap();
    }
}

/// The process that is killed. As a test of its own it does nothing.
#[test]
fn process_that_writes_until_it_is_killed() {
    let Some(output) = env::var_os(OUTPUT).map(PathBuf::from) else { return };
    let mut say = std::io::stdout(); // one line is one write
    writeln!(say, "create").unwrap();
    let mut file = create(&spec(&output, IMAGES), FIRST_ID);
    write_some(&mut file, &output, &mut say);
    writeln!(say, "finish").unwrap();
    file.finish(&end(EndState::Cancelled, LossCause::Cancelled)).unwrap();
    writeln!(say, "finished").unwrap();
}

/// A small generator (splitmix64): what matters is that a seed gives the same run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The seed is `ECS_TEST_SEED` or the time; it is printed, and shown when the test fails.
fn random() -> Random {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = env::var("ECS_TEST_SEED").ok().map_or(time, |seed| seed.parse().unwrap());
    println!("ECS_TEST_SEED={seed}");
    Random(seed)
}

/// Runs the writing process and kills it `spin` after it has said `words` words.
fn run_and_kill(output: &Path, words: u64, spin: Duration) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "killed::process_that_writes_until_it_is_killed", "--nocapture"])
        .env(OUTPUT, output)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It stays open until the kill: a closed one would end the process in another way.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The harness may put its own words before ours on a line.
    let said = |line: &String| ["create", "image", "finish"].iter().any(|word| line.ends_with(word));
    assert_eq!(lines.by_ref().filter(said).take(words as usize).count() as u64, words);
    let start = Instant::now();
    while start.elapsed() < spin {
        std::hint::spin_loop(); // a sleep is too coarse to hit what takes microseconds
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What h5py sees after the kill, and after the recovery of it.
fn check_after_kill(folder: &Path, output: &Path) {
    let before = output.exists().then(|| read_back(output));
    let end = end(EndState::Failed, LossCause::WriterDown);
    let recovered = recover(output, &author(JOB), &end).unwrap();
    assert_eq!(recovered.is_some(), before.is_some());
    let Some((recovered, before)) = recovered.zip(before) else {
        assert_eq!(files_in(folder), Vec::<String>::new());
        return;
    };
    assert_eq!(files_in(folder).len(), 1);
    let after = read_back(output);
    assert_same_ledger(&after, &recovered.ledger);
    assert_eq!(recovered.ledger.asked, IMAGES);
    assert_eq!(after["ledger"]["state"], recovered.state.as_str());
    let (before, after) = (before["status"].as_array().unwrap(), after["status"].as_array().unwrap());
    let known = before.iter().rposition(|status| status != 0).unwrap() + 1;
    assert_eq!(after.len(), known, "recovery keeps what was known and nothing else");
    for (before, after) in before.iter().zip(after) {
        let expected = if before == 0 { 3 } else { before.as_u64().unwrap() };
        assert_eq!(after.as_u64(), Some(expected));
    }
    assert_eq!(recover(output, &author(JOB), &end).unwrap().map(|again| again.ledger), Some(recovered.ledger));
}

fn kill_in(rounds: u64, words: impl Fn(&mut Random) -> u64, spin_us_max: u64) {
    let mut random = random();
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("run.h5");
        let (words, spin) = (words(&mut random), Duration::from_micros(random.below(spin_us_max)));
        println!("round {round}: killed {spin:?} after word {words}");
        run_and_kill(&output, words, spin);
        check_after_kill(folder.path(), &output);
    }
}

#[test]
fn writer_killed_while_it_creates_leaves_nothing_after_recovery() {
    kill_in(8, |_| 1, 20_000);
}

#[test]
fn writer_killed_mid_run_leaves_a_file_that_opens_and_that_recovery_completes() {
    kill_in(12, |random| 2 + random.below(WRITTEN - 1), 500);
}

#[test]
fn writer_killed_while_it_finishes_leaves_a_file_that_opens_and_that_recovery_completes() {
    kill_in(12, |_| WRITTEN + 2, 4_000);
}

#[test]
fn recovery_after_a_kill_between_two_cuts_makes_all_arrays_equally_long() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let mut file = create(&spec(&output, IMAGES), FIRST_ID);
    write_some(&mut file, &output, &mut std::io::sink());
    file.flush().unwrap();
    drop(file); // as a kill leaves it
    hdf5_metno::sync::sync(|| {
        let file = hdf5_metno::File::open_rw(&output).unwrap();
        file.dataset("entry/data/data").unwrap().resize([WRITTEN as usize, 6, 50]).unwrap();
        file.close().unwrap();
    });
    assert_eq!(read_back(&output)["ledger"]["state"], "writing");
    check_after_kill(folder.path(), &output);
}

#[test]
fn recovery_leaves_the_file_of_another_job_alone_and_removes_its_own_temporary_file() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let mut file = create(&spec(&output, IMAGES), FIRST_ID);
    write_some(&mut file, &output, &mut std::io::sink());
    file.flush().unwrap();
    let before = fs::read(&output).unwrap();
    let end = end(EndState::Failed, LossCause::WriterDown);
    let other_job = author(JOB + 1);
    let same_job_of_another_writer = Author { writer: "x01/writer-1".to_owned(), ..author(JOB) };
    let another_attempt = Author { file_id: 1, ..author(JOB) };
    let names = ["8.123456789abcdef0", "7.123456789abcdef0", "7.0000000000000001"];
    for (other, name) in [other_job, same_job_of_another_writer, another_attempt].into_iter().zip(names) {
        fs::write(folder.path().join(format!(".run.h5.{name}.tmp")), "x").unwrap();
        assert_eq!(recover(&output, &other, &end).unwrap(), None);
        assert_eq!(files_in(folder.path()), ["run.h5"]);
    }
    assert!(fs::read(&output).unwrap() == before, "the other job's file has changed");
}

#[test]
fn recovery_of_something_that_is_no_such_file_is_an_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let file = create(&spec(&output, 3), FIRST_ID);
    let temporary = folder.path().join(files_in(folder.path()).pop().unwrap());
    let good = fs::read(temporary).unwrap();
    drop(file);
    for bad in [&b""[..], b"not HDF5", &good[..2000], &good[..good.len() - RECORD_BYTES as usize - 1]] {
        fs::write(&output, bad).unwrap();
        let result = recover(&output, &author(JOB), &end(EndState::Failed, LossCause::WriterDown));
        assert!(result.is_err(), "{result:?} for {} bytes", bad.len());
        assert!(fs::read(&output).unwrap() == bad, "{} bytes were changed", bad.len());
    }
}

#[test]
fn recovery_of_a_file_whose_ledger_is_damaged_is_an_error_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run.h5");
    let mut file = create(&spec(&output, IMAGES), FIRST_ID);
    write_some(&mut file, &output, &mut std::io::sink());
    drop(file); // as a kill leaves it
    let good = fs::read(&output).unwrap();
    let place_of = |name: &str| {
        hdf5_metno::sync::sync(|| {
            let file = hdf5_metno::File::open(&output).unwrap();
            file.dataset(&format!("entry/ledger/{name}")).unwrap().offset().unwrap() as usize
        })
    };
    for (name, number) in [("asked", 0), ("asked", u64::MAX), ("asked", u64::MAX / 1000), ("first_id", u64::MAX - 9)] {
        let mut bad = good.clone();
        let place = place_of(name);
        bad[place..place + 8].copy_from_slice(&number.to_le_bytes());
        fs::write(&output, &bad).unwrap();
        let result = recover(&output, &author(JOB), &end(EndState::Failed, LossCause::WriterDown));
        assert!(result.is_err(), "{result:?} for {name} = {number}");
        assert!(fs::read(&output).unwrap() == bad, "{name} = {number}: the file was changed");
        fs::write(&output, &good).unwrap();
    }
}

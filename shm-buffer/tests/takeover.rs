//! Processes that all want to own one ring at the same moment: one does, the others are told who, whatever dies.

mod common;

use common::{Watchdog, process::Player};
use ecs_shm_buffer::{
    Owner, OwnerLock, Proc, ProcessId, Reader, Ring, RingError, Start, create_or_take_over, inspect, is_current,
    monotonic_ns,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

const ENTRY: &str = "second_process_plays_its_part";
/// Of each test. What is wrong for a few instructions only (a lock on a file that was just removed) shows once in a hundred.
const ROUNDS: u32 = 300;

/// In the parent this is nothing; in a child it is a rival: it tries to become the owner whenever a round begins.
#[test]
fn second_process_plays_its_part() {
    let Some((_, path)) = common::process::part() else { return };
    for round in 0.. {
        common::wait_until("the round begins", || signal(&path, "begin", round).exists());
        match become_owner(&path) {
            Ok((_ring, _lock, _owner)) => {
                eprintln!("owns");
                common::wait_until("the round ends", || signal(&path, "end", round).exists());
            }
            Err(RingError::Owned { pid, .. }) => eprintln!("refused by {pid}"),
            Err(error) => eprintln!("{error}"),
        }
        eprintln!("done");
    }
}

fn become_owner(path: &Path) -> Result<(Ring, OwnerLock, Owner), RingError> {
    let (ring, lock) = create_or_take_over(path, common::geometry(8, 2, 2), &Proc)?;
    let owner = Owner::take_over(&ring, ProcessId::current(), Duration::from_millis(5), &Proc);
    Ok((ring, lock, owner))
}

/// A file that is there once a round has begun, or ended.
fn signal(path: &Path, what: &str, round: u32) -> PathBuf {
    path.with_file_name(format!("{what}-{round}"))
}

fn set(path: &Path, what: &str, round: u32) {
    std::fs::write(signal(path, what, round), []).expect("there is room");
}

/// What the rivals find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A ring whose owner is gone, and that somebody reads.
    InUse,
    /// A ring that nobody alive is in.
    LeftOver,
    Nothing,
}

/// Prepares what is found, and returns who reads the ring.
fn prepare(path: &Path, found: Found) -> Option<Reader> {
    let (ring, lock) = create_or_take_over(path, common::geometry(8, 2, 2), &Proc).expect("nobody owns it");
    let join = || Reader::lossy(&ring, ProcessId::current(), "preview", Start::Next).expect("a free place");
    let reader = (found == Found::InUse).then(join);
    match found {
        Found::Nothing => lock.remove().expect("it is ours"),
        Found::InUse | Found::LeftOver => drop(lock),
    }
    reader
}

fn owners(path: &Path) -> u32 {
    inspect::look(path, &Proc).expect("it is a ring").owner.map_or(0, |owner| owner.owners)
}

fn race(rivals: usize) {
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let path = folder.path().join("ring");
    let mut rivals: Vec<Player> = (0..rivals).map(|_| Player::start(ENTRY, "rival", &path)).collect();
    for round in 0..ROUNDS {
        let found = [Found::InUse, Found::LeftOver, Found::Nothing][round as usize % 3];
        let reader = prepare(&path, found);
        let owners_before = reader.as_ref().map(|_| owners(&path));
        set(&path, "begin", round);
        let said: Vec<String> = rivals.iter_mut().map(Player::next_line).collect();
        let winners: Vec<usize> = (0..said.len()).filter(|&rival| said[rival] == "owns").collect();
        assert_eq!(winners.len(), 1, "round {round}, {found:?}: {said:?}");
        check_refusals(found, &said, &rivals, winners[0]);
        let (seen, faults) = inspect::check(&path, &Proc).expect("it is a ring");
        assert!(faults.is_empty(), "round {round}, {found:?}: {faults:#?}");
        let owner = seen.owner.expect("it has an owner");
        assert_eq!((owner.process.pid, owner.is_alive), (rivals[winners[0]].pid(), true), "round {round}, {found:?}");
        if let (Some(reader), Some(before)) = (&reader, owners_before) {
            assert!(is_current(reader.ring(), &path), "round {round}: who reads keeps its ring");
            assert_eq!(owner.owners, before + 1, "round {round}: it changed hands once");
        }
        set(&path, "end", round);
        rivals.iter_mut().for_each(|rival| assert_eq!(rival.next_line(), "done"));
    }
}

/// Who is refused is told by whom: by who has the ring in the end. Where a ring is replaced, or made, it may also be
/// one who had the ring before it was replaced, and has it no more.
fn check_refusals(found: Found, said: &[String], rivals: &[Player], winner: usize) {
    let refused = said.iter().enumerate().filter(|&(rival, _)| rival != winner);
    for (_, line) in refused {
        let by = line.strip_prefix("refused by ").and_then(|pid| pid.parse::<u32>().ok());
        let by = by.unwrap_or_else(|| panic!("{found:?}: {line}"));
        let expected = match found {
            Found::InUse | Found::Nothing => rivals[winner].pid() == by,
            Found::LeftOver => rivals.iter().any(|rival| rival.pid() == by),
        };
        assert!(expected, "{found:?}: {said:?}, and {} owns it", rivals[winner].pid());
    }
}

#[test]
fn of_two_processes_that_want_a_ring_at_once_one_owns_it_and_the_other_is_told_who() {
    race(2);
}

#[test]
fn of_eight_processes_that_want_a_ring_at_once_one_owns_it_and_the_others_are_told_who() {
    race(8);
}

/// One of two is killed at any moment after both have begun: the ring has an owner, or this process becomes it.
#[test]
fn rival_killed_at_any_moment_leaves_a_ring_that_the_next_one_owns() {
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let mut killed_owners = 0;
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
        let path = folder.path().join("ring");
        let mut rivals = [(); 2].map(|()| Player::start(ENTRY, "rival", &path));
        let found = [Found::InUse, Found::LeftOver, Found::Nothing][round as usize % 3];
        let reader = prepare(&path, found);
        set(&path, "begin", 0);
        let until_ns = monotonic_ns() + u64::from(round % 60) * 20_000;
        while monotonic_ns() < until_ns {
            std::thread::yield_now();
        }
        rivals[0].kill();
        let said = rivals[1].next_line();
        match become_owner(&path) {
            Err(RingError::Owned { pid, .. }) => assert_eq!((said.as_str(), pid), ("owns", rivals[1].pid())),
            Ok(_) => {
                assert_eq!(said, format!("refused by {}", rivals[0].pid()), "round {round}, {found:?}");
                killed_owners += 1;
            }
            Err(error) => panic!("round {round}, {found:?}: {error}"),
        }
        assert!(reader.is_none_or(|reader| is_current(reader.ring(), &path)), "round {round}");
        let (_, faults) = inspect::check(&path, &Proc).expect("it is a ring");
        assert!(faults.is_empty(), "round {round}, {found:?}: {faults:#?}");
    }
    println!("{killed_owners} of {ROUNDS} were killed as owners");
}

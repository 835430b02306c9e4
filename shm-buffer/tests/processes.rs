//! Real second processes, killed in the middle, and a stress with everybody at once.

mod common;

use common::{Watchdog, geometry, invariants, process::Player};
use ecs_shm_buffer::{
    Contributor, Lookup, LossCause, Now, Owner, OwnerLock, PixelAccess, Proc, ProcessId, Reader, Ring, RingError,
    Start, Surroundings, create_or_take_over, monotonic_ns, open,
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

const PACKETS: usize = 4;
const DEADLINE: Duration = Duration::from_millis(20);
const ENTRY: &str = "second_process_plays_its_part";

/// In the parent this is nothing; in a child it is the part that it was started for.
#[test]
fn second_process_plays_its_part() {
    let Some((part, path)) = common::process::part() else { return };
    match part.as_str() {
        "hangs inside" => hang_inside(&path),
        "owner" => own(&path, &AtomicBool::new(false)),
        "odd packets" => {
            let ring = open(&path, PixelAccess::ReadWrite).expect("the ring is there");
            contribute(&ring, &[1, 3], 1..u64::MAX, WhenFull::Refuse, &|| eprintln!("joined"));
        }
        "lossy reader" => read_lossy(&path),
        other => panic!("no part {other}"),
    }
}

fn new_ring() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
    let path = folder.path().join("ring");
    (folder, path)
}

fn ring_geometry() -> ecs_shm_buffer::Geometry {
    geometry(32, 4, PACKETS as u32)
}

fn step(owner: &mut Owner) {
    owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
}

/// Owns the ring until it is told to stop.
fn run_owner(mut owner: Owner, stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        let ticket = owner.ticket();
        let outcome = owner.step(&mut Surroundings { now: Now::read(), liveness: &Proc, fill: &mut common::fill });
        owner.sleep(ticket, Duration::from_nanos(outcome.look_again_in_ns));
    }
    owner.close();
}

fn become_owner(path: &Path) -> Result<(Ring, OwnerLock, Owner), RingError> {
    let (ring, lock) = create_or_take_over(path, ring_geometry(), &Proc)?;
    let owner = Owner::take_over(&ring, ProcessId::current(), DEADLINE, &Proc);
    Ok((ring, lock, owner))
}

fn own(path: &Path, stop: &AtomicBool) {
    let (_ring, _lock, owner) = become_owner(path).expect("nobody else owns it");
    eprintln!("owns");
    run_owner(owner, stop);
}

/// Places its packets of one image and then hangs inside its access to the next one.
fn hang_inside(path: &Path) {
    let ring = open(path, PixelAccess::ReadWrite).expect("the ring is there");
    let mut contributor = Contributor::join(&ring, ProcessId::current(), "hangs").expect("a free place");
    common::place(&mut contributor, 0, &[0], monotonic_ns());
    let access = contributor.protect(&[0, 1]);
    // SAFETY: the access protects the image.
    unsafe { common::write_packet(access.pixels(access.image(0).expect("it is open")), 5, 5, 1) };
    eprintln!("inside");
    loop {
        std::thread::park();
    }
}

/// What a contributor does with a packet whose image has no slot.
#[derive(Clone, Copy)]
enum WhenFull {
    /// As a detector's does: it is lost.
    Refuse,
    /// The script's detector waits: no image is lost because a reader was not given the processor.
    Wait,
}

/// Places packets of each of these images, until the ring closes.
fn contribute(ring: &Ring, packets: &[usize], ids: Range<u64>, full: WhenFull, joined: &dyn Fn()) {
    let mut contributor = Contributor::join(ring, ProcessId::current(), "readout").expect("a free place");
    joined();
    let mut id = ids.start;
    while id < ids.end && !contributor.ring_closed() {
        contributor.epoch();
        let ticket = contributor.window_ticket();
        match (contributor.lookup(id), full) {
            (Lookup::Open, _) => {
                if common::place(&mut contributor, id, packets, monotonic_ns()) > 0 {
                    contributor.set_progress(Some(id), monotonic_ns());
                    id += 1;
                }
                continue;
            }
            (Lookup::Behind(_), _) => {
                id += 1;
                continue;
            }
            (Lookup::NoSlot, WhenFull::Refuse) => {
                id += u64::from(contributor.refuse(id));
                continue;
            }
            (Lookup::NoSlot, WhenFull::Wait) => {}
            (Lookup::Ahead(_), _) => contributor.set_progress(Some(id), monotonic_ns()),
            (Lookup::NoRun, _) => contributor.request_run(id),
        }
        contributor.wait_for_window(ticket, DEADLINE);
    }
}

/// Copies every image that it can get. A wrong pixel ends the process with an error.
fn read_lossy(path: &Path) {
    let ring = open(path, PixelAccess::ReadOnly).expect("the ring is there");
    let mut reader = Reader::lossy(&ring, ProcessId::current(), "preview", Start::Next).expect("a free place");
    eprintln!("joined");
    let (mut told, mut whole) = (invariants::Told::default(), 0);
    let mut copy = vec![0; ring.geometry().image_bytes()];
    while !ring.is_closed() {
        let Some(delivery) = reader.next(Duration::from_millis(100)) else { continue };
        told.check(&delivery);
        let Some(image) = &delivery.image else { continue };
        if reader.copy_pixels(image, &mut copy).is_ok() {
            invariants::check_pixels(delivery.epoch, image, &copy);
            whole += 1;
        }
    }
    assert!(whole > 0, "it was always overtaken: {told:?}");
}

#[test]
fn contributor_killed_inside_its_access_gives_its_slots_back() {
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let (_folder, path) = new_ring();
    let (ring, _lock, mut owner) = become_owner(&path).unwrap();
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).unwrap();
    let works = Contributor::join(&ring, ProcessId::current(), "works").unwrap();
    works.request_run(2);
    step(&mut owner);
    let mut hangs = Player::start(ENTRY, "hangs inside", &path);
    hangs.wait_for("inside");
    let begin = Instant::now();
    while ring.status().slots_in_quarantine == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "its image never closed");
        step(&mut owner);
    }
    hangs.kill();
    common::wait_until("the slot and the place are free", || {
        step(&mut owner);
        let status = ring.status();
        status.slots_in_quarantine == 0 && status.participants.iter().all(|other| other.process.pid != hangs.pid())
    });
    common::wait_until("the loss is told", || {
        step(&mut owner);
        reader.try_next().is_some_and(|delivery| delivery.lost[0].cause == LossCause::ReadoutStuck)
    });
}

#[test]
fn owner_killed_in_the_middle_of_a_run_is_replaced_and_every_id_is_told_once() {
    const IMAGES: u64 = 3000;
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let (_folder, path) = new_ring();
    let mut dies = Player::start(ENTRY, "owner", &path);
    dies.wait_for("owns");
    let ring = open(&path, PixelAccess::ReadWrite).unwrap();
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).unwrap();
    assert!(matches!(become_owner(&path), Err(RingError::Owned { pid, .. }) if pid == dies.pid()));
    let (stop, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| contribute(&ring, &[0, 1, 2, 3], 0..IMAGES, WhenFull::Wait, &|| ()));
        scope.spawn(|| {
            common::wait_until("images flow", || delivered.load(SeqCst) > 200);
            dies.kill();
            let (_ring, _lock, owner) = become_owner(&path).expect("it is dead, and we are in the ring");
            run_owner(owner, &stop);
        });
        let mut told = invariants::Told::default();
        while told.next_id.is_none_or(|next| next < IMAGES) {
            let delivery = reader.next(Duration::from_secs(20)).expect("images or losses");
            told.check(&delivery);
            if let Some(image) = &delivery.image {
                invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
            }
            delivered.fetch_add(1, SeqCst);
        }
        stop.store(true, SeqCst);
        assert_eq!((told.images + told.lost, told.next_id), (IMAGES, Some(IMAGES)));
        assert!(told.images > 200 && ring.status().epoch == 1, "{told:?}");
    });
}

/// Two contributors (one a process), a reliable reader, a lossy one (a process), an owner: no pixel is
/// ever wrong, and every id is told once.
#[test]
fn everybody_at_once_never_shows_a_wrong_pixel() {
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let (_folder, path) = new_ring();
    let (ring, _lock, owner) = become_owner(&path).unwrap();
    let mut reader = Reader::reliable(&ring, ProcessId::current(), "writer", Start::Next).unwrap();
    let mut odd = Player::start(ENTRY, "odd packets", &path);
    let mut preview = Player::start(ENTRY, "lossy reader", &path);
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| run_owner(owner, &stop));
        odd.wait_for("joined");
        preview.wait_for("joined");
        scope.spawn(|| contribute(&ring, &[0, 2], 1..u64::MAX, WhenFull::Refuse, &|| _ = ready.wait()));
        ready.wait();
        let (mut told, begin) = (invariants::Told::default(), Instant::now());
        while begin.elapsed() < Duration::from_secs(2) {
            let delivery = reader.next(Duration::from_secs(20)).expect("images or losses");
            told.check(&delivery);
            if let Some(image) = &delivery.image {
                invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
                std::thread::yield_now();
                invariants::check_pixels(delivery.epoch, image, reader.pixels(image));
            }
        }
        stop.store(true, SeqCst);
        let status = ring.status();
        assert!(told.images > 100 && status.images_complete > 100, "{told:?} {status:?}");
    });
    for player in [odd, preview] {
        let (succeeded, said) = player.finish();
        assert!(succeeded, "{said}");
    }
}

//! Readers: where they start, what they hold, how they are overtaken, how they wait.

use crate::common::{self, Rig, Watchdog, invariants};
use ecs_shm_buffer::{Delivery, Overtaken, Reader, Role, Start};
use std::time::{Duration, Instant};

fn lossy(rig: &Rig, start: Start) -> Reader {
    Reader::lossy(&rig.ring, common::process(4), "preview", start).expect("a free place")
}

fn id_of(delivery: Option<Delivery>) -> Option<u64> {
    delivery.and_then(|delivery| delivery.image).map(|image| image.id)
}

#[test]
fn reader_starts_with_the_next_image_or_with_the_oldest_that_is_there() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    (0..20).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    let mut next = Reader::reliable(&rig.ring, common::process(3), "next", Start::Next).unwrap();
    let mut oldest = Reader::reliable(&rig.ring, common::process(3), "oldest", Start::Oldest).unwrap();
    assert_eq!(next.try_next(), None);
    let ids: Vec<_> = std::iter::from_fn(|| id_of(oldest.try_next())).collect();
    assert_eq!(ids, (14..20).collect::<Vec<_>>(), "8 slots, 2 of them open");
    rig.whole_image(&mut contributor, 20);
    assert_eq!((id_of(next.try_next()), id_of(oldest.try_next())), (Some(20), Some(20)));
}

#[test]
fn lossy_reader_that_is_overtaken_finds_out_throws_its_copy_away_and_counts() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = lossy(&rig, Start::Next);
    let mut told = invariants::Told::default();
    rig.whole_image(&mut contributor, 0);
    let delivery = reader.try_next().expect("committed");
    told.check(&delivery);
    let image = delivery.image.expect("not lost");
    let mut copy = [0; common::PACKET_BYTES];
    assert_eq!(reader.copy_pixels(&image, &mut copy), Ok(()));
    invariants::check_pixels(1, &image, &copy);
    (1..30).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    assert_eq!(reader.copy_pixels(&image, &mut copy), Err(Overtaken));
    let next = reader.try_next().expect("some are there");
    assert!(next.overtaken >= 23, "{next:?}");
    told.check(&next);
    assert_eq!(id_of(Some(next)).map(|id| id - told.overtaken), Some(1), "one image a step");
    let status = rig.ring.status();
    let preview = status.participants.iter().find(|other| other.role == Role::LossyReader).expect("it is there");
    assert_eq!((preview.overtaken, preview.name.as_str()), (told.overtaken, "preview"));
}

/// Four slots hang and four are open, so that each image is replaced as soon as it is committed: the
/// reader finds nothing, again and again, and must still tell all that it missed.
#[test]
fn overtaken_reader_that_finds_nothing_tells_what_it_missed_with_the_next_image() {
    let mut rig = Rig::new(8, 4, 1);
    let mut hung = rig.contributor_in_run(2, 0);
    let mut contributor = rig.contributor(5);
    let mut reader = lossy(&rig, Start::Next);
    let access = hung.protect(&[0, 1, 2, 3]);
    contributor.set_progress(Some(5), rig.now_ns);
    rig.step();
    assert_eq!(rig.ring.status().slots_in_quarantine, 4);
    for id in 4..20 {
        assert_eq!(rig.whole_image(&mut contributor, id), 1);
        assert_eq!(reader.try_next(), None, "image {id} is gone");
    }
    drop(access);
    rig.step();
    assert_eq!(rig.whole_image(&mut contributor, 20), 1);
    let delivery = reader.try_next().expect("it is there");
    assert_eq!((delivery.overtaken, id_of(Some(delivery))), (16, Some(20)));
}

#[test]
fn image_that_a_reliable_reader_holds_does_not_change_until_it_lets_go() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    rig.whole_image(&mut contributor, 0);
    let image = reader.try_next().and_then(|delivery| delivery.image).expect("committed");
    for id in 1..30 {
        rig.whole_image(&mut contributor, id);
        invariants::check_pixels(1, &image, reader.pixels(&image));
    }
    assert!(rig.ring.status().slots_in_use >= 8);
}

#[test]
fn reader_that_waits_is_woken_by_an_image_and_by_the_end() {
    let _watchdog = Watchdog::start(Duration::from_secs(30));
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let ids: Vec<_> = std::iter::from_fn(|| id_of(reader.next(Duration::from_secs(60)))).collect();
            assert!(reader.ring().is_closed());
            ids
        });
        (0..5).for_each(|id| _ = rig.whole_image(&mut contributor, id));
        rig.owner.close();
        assert_eq!(waiting.join().expect("it ended"), [0, 1, 2, 3, 4]);
    });
    assert!(begin.elapsed() < Duration::from_secs(20), "it slept through");
    assert!(contributor.ring_closed());
}

#[test]
fn reader_that_waits_in_vain_ends_in_time() {
    let rig = Rig::new(8, 2, 1);
    let mut reader = lossy(&rig, Start::Next);
    assert_eq!(reader.next(Duration::from_millis(1)), None);
}

/// Real clocks and threads: the owner sleeps and is woken by the last packet, by ids that have passed, by a free slot.
#[test]
fn owner_that_sleeps_is_woken_by_every_reason_for_a_step() {
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    let wakes = |rig: &mut Rig, reason: &str, act: &mut dyn FnMut()| {
        let ticket = rig.owner.ticket();
        rig.step();
        act();
        let begin = Instant::now();
        rig.owner.sleep(ticket, Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(20), "{reason} does not wake the owner");
    };
    wakes(&mut rig, "the last packet of an image", &mut || _ = common::place(&mut contributor, 0, &[0, 1], 1));
    wakes(&mut rig, "progress", &mut || contributor.set_progress(Some(3), 1));
    wakes(&mut rig, "a new run", &mut || contributor.request_run(100));
    rig.step();
    contributor.epoch();
    (99..107).for_each(|id| _ = rig.whole_image(&mut contributor, id));
    wakes(&mut rig, "a slot that comes free", &mut || while reader.try_next().is_some() {});
    wakes(&mut rig, "a contributor that leaves", &mut || {
        drop(Reader::lossy(reader.ring(), common::process(9), "", Start::Next))
    });
}

#[test]
#[should_panic(expected = "is not held")]
fn pixels_of_an_image_that_was_let_go_are_a_bug() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    rig.whole_image(&mut contributor, 0);
    let image = reader.try_next().and_then(|delivery| delivery.image).expect("committed");
    reader.release();
    reader.pixels(&image);
}

#[test]
#[should_panic(expected = "is not held")]
fn pixels_for_a_lossy_reader_are_a_bug() {
    let mut rig = Rig::new(8, 2, 1);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = lossy(&rig, Start::Next);
    rig.whole_image(&mut contributor, 0);
    let image = reader.try_next().and_then(|delivery| delivery.image).expect("committed");
    reader.pixels(&image);
}

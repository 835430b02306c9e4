//! Late, early, doubled and refused packets, and uses that only a bug can make.

use crate::common::{self, DEADLINE_NS, Rig};
use ecs_shm_buffer::{
    Contributor, Lookup, MADE_DIFFERENTLY, Mark, PacketFate, PacketInfo, Reader, Start, TooManyParticipants,
};

#[test]
fn id_is_told_to_be_behind_open_or_ahead_by_its_distance() {
    let mut rig = Rig::new(8, 4, 1);
    let mut contributor = rig.contributor(2);
    assert_eq!(contributor.lookup(7), Lookup::NoRun);
    assert!(contributor.protect(&[7]).image(7).is_none());
    contributor.request_run(12);
    rig.step();
    let expected = [(8, Lookup::Behind(2)), (9, Lookup::Behind(1)), (10, Lookup::Open), (13, Lookup::Open)];
    for (id, lookup) in expected.into_iter().chain([(14, Lookup::Ahead(1)), (20, Lookup::Ahead(7))]) {
        assert_eq!(contributor.lookup(id), lookup, "id {id}");
        assert_eq!(contributor.protect(&[id]).image(id).is_some(), lookup == Lookup::Open, "id {id}");
    }
}

#[test]
fn packet_that_comes_twice_is_told_and_counted_once_in_its_image() {
    let mut rig = Rig::new(8, 2, 3);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    let access = contributor.protect(&[0, 1]);
    let image = access.image(0).expect("it is open");
    assert!(!access.has_packet(image, 1));
    assert_eq!(access.mark(image, 1, PacketInfo::default()), Mark::New);
    assert!(access.has_packet(image, 1));
    assert_eq!(access.mark(image, 1, PacketInfo::default()), Mark::Duplicate);
    assert!(!access.has_packet(access.image(1).expect("it is open"), 1), "another image's bit");
    drop(access);
    rig.step_after(DEADLINE_NS + rig.now_ns);
    let image = reader.try_next().expect("committed").image.expect("one packet came");
    assert_eq!((image.packets_received, &image.bitmap[..]), (1, &[0b010][..]));
}

#[test]
fn packets_that_are_marked_in_a_row_are_each_told_and_counted_once() {
    let mut rig = Rig::new(8, 2, 200);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    let access = contributor.protect(&[0]);
    let image = access.image(0).expect("it is open");
    let mut marked = [false; 200];
    for (packets, info) in [(60..60, 1), (60..70, 2), (63..64, 3), (5..5, 4), (64..191, 5), (1..64, 6), (0..192, 7)] {
        let new = packets.clone().filter(|&packet| !marked[packet]).count();
        let info = PacketInfo { received_ns: 1, detector_timestamp: info, ..PacketInfo::default() };
        assert_eq!(access.mark_run(image, packets.clone(), info), new, "{packets:?}");
        packets.for_each(|packet| marked[packet] = true);
        assert!((0..200).all(|packet| access.has_packet(image, packet) == marked[packet]));
    }
    drop(access);
    rig.step_after(DEADLINE_NS + rig.now_ns);
    let image = reader.try_next().expect("committed").image.expect("most of its packets came");
    assert_eq!((image.packets_received, &image.bitmap[..]), (192, &[u64::MAX, u64::MAX, u64::MAX, 0][..]));
    assert_eq!(image.detector_timestamp, 2, "what its first packet told");
}

#[test]
fn image_whose_last_packets_are_marked_in_a_row_is_whole() {
    let mut rig = Rig::new(8, 2, 130);
    let mut contributor = rig.contributor_in_run(2, 0);
    let mut reader = Reader::reliable(&rig.ring, common::process(3), "writer", Start::Next).unwrap();
    for packets in [100..130, 0..100] {
        assert!(reader.try_next().is_none());
        let access = contributor.protect(&[0]);
        let image = access.image(0).expect("it is open");
        let info = PacketInfo { received_ns: rig.now_ns, ..PacketInfo::default() };
        assert_eq!(access.mark_run(image, packets.clone(), info), packets.len());
        drop(access);
        rig.step();
    }
    assert_eq!(reader.try_next().expect("committed").image.expect("whole").packets_received, 130);
}

#[test]
fn what_pixels_are_made_with_is_said_by_the_first_and_told_to_readers_of_that_image_alone() {
    let mut rig = Rig::new(8, 4, 2);
    let (mut first, mut second) = (rig.contributor_in_run(2, 0), rig.contributor(3));
    let mut reader = Reader::reliable(&rig.ring, common::process(4), "writer", Start::Next).unwrap();
    for id in 0..16 {
        let (one, other) = (first.protect(&[id]), second.protect(&[id]));
        let (image, same) = (one.image(id).expect("open"), other.image(id).expect("open"));
        if id % 4 > 0 {
            assert_eq!((one.make_with(image, 7), other.make_with(same, 9)), (7, 7), "the first one says it");
        }
        if id % 4 == 2 {
            other.make_differently(same);
            assert_eq!(one.make_with(image, 7), MADE_DIFFERENTLY);
        }
        one.mark(image, 0, PacketInfo::default());
        other.mark(same, 1, PacketInfo::default());
        drop((one, other));
        rig.step();
        let image = reader.try_next().expect("committed").image.expect("whole");
        // Slots are used again by now: what an image before left behind is gone.
        assert_eq!((image.id, image.made_with), (id, [0, 7, MADE_DIFFERENTLY, 7][id as usize % 4]));
    }
}

#[test]
fn packet_of_a_closed_image_finds_it_no_more() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    common::place(&mut contributor, 0, &[0], rig.now_ns);
    rig.step_after(DEADLINE_NS);
    assert_eq!(common::place(&mut contributor, 0, &[1], rig.now_ns), 0);
    assert_eq!(contributor.lookup(0), Lookup::Behind(1));
}

#[test]
fn access_of_several_images_leads_to_each_and_skips_those_not_open() {
    let mut rig = Rig::new(8, 3, 1);
    let mut contributor = rig.contributor_in_run(2, 5);
    let access = contributor.protect(&[4, 5, 6, 99]);
    let places: Vec<_> = [4, 5, 6, 99].map(|id| access.image(id).map(|image| access.pixels(image))).to_vec();
    assert!(places[0].is_none() && places[3].is_none());
    assert!(places[1].is_some() && places[2].is_some() && places[1] != places[2]);
}

#[test]
fn packets_of_contributors_that_left_stay_in_the_sums() {
    let rig = Rig::new(8, 2, 2);
    let (first, second) = (rig.contributor(2), rig.contributor(3));
    let fates = [PacketFate::Placed, PacketFate::Duplicate, PacketFate::Late, PacketFate::Early, PacketFate::NoSlot];
    for (packets, fate) in (1..).zip(fates.into_iter().chain([PacketFate::Foreign, PacketFate::Malformed])) {
        first.count(fate, packets);
        second.count(fate, 10 * packets);
    }
    first.count_moved(8);
    first.count_bytes(9);
    second.count_kernel_dropped(10);
    let before = rig.ring.status().packets;
    assert_eq!((before.placed, before.duplicate, before.late, before.early), (11, 22, 33, 44));
    assert_eq!((before.no_slot, before.foreign, before.malformed, before.received), (55, 66, 77, 308));
    assert_eq!((before.moved, before.bytes, before.kernel_dropped), (8, 9, 10));
    drop(first);
    assert_eq!(rig.ring.status().participants.len(), 1);
    assert_eq!(rig.ring.status().packets, before);
    drop(second);
    assert_eq!(rig.ring.status().packets, before);
    assert_eq!(rig.contributor(4).ring().status().packets, before, "a new holder does not inherit them");
}

#[test]
fn one_participant_too_many_is_refused_until_another_leaves() {
    let rig = Rig::new(8, 2, 2);
    let mut all: Vec<Contributor> = (0..112).map(|index| rig.contributor(100 + index)).collect();
    let one_more = || Contributor::join(&rig.ring, common::process(999), "one-more");
    assert_eq!(one_more().err(), Some(TooManyParticipants));
    all.swap_remove(50);
    assert!(one_more().is_ok());
}

#[test]
fn name_of_a_participant_is_cut_where_it_is_too_long() {
    let rig = Rig::new(8, 2, 2);
    let _contributor = Contributor::join(&rig.ring, common::process(2), &"abcdefgh".repeat(5)).unwrap();
    let status = rig.ring.status();
    assert_eq!(status.participants[0].name, "abcdefgh".repeat(4));
    assert_eq!(status.participants[0].process, common::process(2));
}

#[test]
#[should_panic(expected = "5 images at one time")]
fn access_of_more_images_than_the_hazard_word_names_is_a_bug() {
    let mut rig = Rig::new(16, 8, 2);
    rig.contributor_in_run(2, 0).protect(&[0, 1, 2, 3, 4]);
}

#[test]
#[should_panic(expected = "packet 2")]
fn mark_of_a_packet_that_images_do_not_have_is_a_bug() {
    let mut rig = Rig::new(8, 2, 2);
    let mut contributor = rig.contributor_in_run(2, 0);
    let access = contributor.protect(&[0]);
    access.mark(access.image(0).expect("it is open"), 2, PacketInfo::default());
}

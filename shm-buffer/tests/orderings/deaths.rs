//! Hard moment 5: an owner is abandoned at each crash point, another takes over, while a contributor places
//! packets and a reader reads.

use crate::scene::{self, DEADLINE_NS, HOUSEKEEPING_NS, OwnerAt, Scene};
use ecs_shm_buffer::{Delivery, Start, model};
use loom::thread;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Told {
    next_id: u64,
    images: u64,
    lost: u64,
}

impl Told {
    /// Every id once, rising.
    fn note(&mut self, delivery: &Delivery) {
        for range in &delivery.lost {
            assert_eq!(range.first_id, self.next_id, "{delivery:?}");
            self.next_id += range.count;
            self.lost += range.count;
        }
        if let Some(image) = &delivery.image {
            assert_eq!(image.id, self.next_id, "{delivery:?}");
            self.next_id += 1;
            self.images += 1;
        }
    }
}

/// The owner closes image 0, which misses a packet, and dies at that point; the next one takes over.
fn owner_dies_at(point: &'static str, nth: u32) {
    static DEATHS: AtomicU64 = AtomicU64::new(0);
    let before = DEATHS.load(Ordering::Relaxed);
    scene::explore(&format!("owner that dies at {point}, {nth}"), move || {
        let (Scene { ring, mut owner }, mut contributor) = Scene::in_run(2, 1, 2);
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        scene::place(&mut contributor, 1, 0, &[0]);
        let of_next = ring.clone();
        let owns = thread::spawn(move || {
            let died = model::dies_at(point, nth, || _ = owner.step_after(DEADLINE_NS));
            DEATHS.fetch_add(u64::from(died), Ordering::Relaxed);
            let mut next = OwnerAt::take_over(&of_next, 9);
            next.now_ns = owner.now_ns;
            next
        });
        scene::place(&mut contributor, 1, 0, &[1]);
        let mut told = Told::default();
        if let Some(delivery) = scene::read_on(&mut reader) {
            told.note(&delivery);
        }
        let mut next = owns.join().expect("it took over");
        let id = (0..4).find(|&id| scene::place(&mut contributor, 1, id, &[0, 1])).expect("it goes on");
        next.step_after(HOUSEKEEPING_NS);
        while let Some(delivery) = scene::read_on(&mut reader) {
            told.note(&delivery);
        }
        let status = ring.status();
        assert_eq!((told.next_id, told.images + told.lost), (id + 1, id + 1));
        assert_eq!(status.images_complete + status.images_partial, told.images, "{status:?}");
        assert_eq!(status.lost.iter().sum::<u64>(), told.lost, "{status:?}");
    });
    assert!(DEATHS.load(Ordering::Relaxed) > before, "it never got to {point}");
}

#[test]
fn owner_abandoned_while_it_closes_an_image_is_replaced_and_every_id_is_told_once() {
    for point in ["close: closing", "close: closing whole", "count: half", "count: image", "close: counted"] {
        owner_dies_at(point, 1);
    }
}

#[test]
fn owner_abandoned_while_it_publishes_is_replaced_and_every_id_is_told_once() {
    for point in ["publish: entry filled", "publish: entry valid", "publish: head moved"] {
        owner_dies_at(point, 1);
    }
}

#[test]
fn owner_abandoned_while_it_opens_an_image_is_replaced_and_every_id_is_told_once() {
    owner_dies_at("open: slot prepared", 1);
}

/// It dies between two steps; a contributor is on its way into an open image while the next owner takes all
/// images out of the window, and another contributor places the packets of what then opens.
#[test]
fn packet_of_an_image_that_the_dead_owner_had_open_is_in_no_other() {
    scene::explore("packet_of_an_image_that_the_dead_owner_had_open_is_in_no_other", || {
        let (scene, mut contributor) = Scene::in_run(2, 1, 2);
        let mut other = scene.contributor(4);
        let ring = scene.ring;
        let mut reader = scene::reliable(&ring, 3, Start::Next);
        let late = thread::spawn(move || scene::place(&mut contributor, 1, 0, &[0]));
        let mut next = OwnerAt::take_over(&ring, 9);
        let id = (0..2).find(|&id| scene::place(&mut other, 1, id, &[1])).expect("it goes on");
        next.step_after(DEADLINE_NS);
        let image = scene::read_on(&mut reader).and_then(|delivery| delivery.image).expect("committed");
        late.join().expect("it ended");
        assert_eq!(image.id, id);
        scene::check_pixels(1, &image, &model::read_held(&reader, &image));
    });
}

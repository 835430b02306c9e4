//! One batch of packets of one port: predict, receive, mark, move strays.
//!
//! # Rules
//! P1  The kernel writes a payload either into staging or into the place of the packet that is expected
//!     there, in an image that this process has protected, and only if that packet has not come yet:
//!     no good pixel is ever under the kernel's hand.
//! P2  A payload of another packet than the expected one is copied out before anything else is placed;
//!     the place that it covered stays unmarked, so it is filled at the close or received later.
//! P3  Places come from the placement alone, by module and packet number, both checked: nothing that a
//!     packet says can lead outside its own place.

use crate::{
    batch::{BATCH_PACKETS, Batch},
    decode::{self, Packet},
    port::{Port, Progress, successor},
    runs::{Action, FarIds},
    socket,
};
use ecs_schemas::detector::{Placement, eiger};
use ecs_shm_buffer::{
    Access, Contributor, Mark, OpenImage, PacketFate, PacketInfo, limits::HAZARD_SLOTS, monotonic_ns,
};
use std::{io, time::Duration};

/// Receives the packets of some ports into one ring.
pub struct Receiver {
    placement: Placement,
    contributor: Contributor,
    batch: Batch,
    progress: Progress,
    far_ids: FarIds,
    deadline_ns: u64,
    epoch: u64,
    last_placed_ns: u64,
    /// The window stood still at this ticket for a whole deadline: not waited for again until it moves.
    stalled_window: Option<u32>,
    strays: Vec<(usize, Packet)>,
    tally: Tally,
}

/// Fates of the packets of one batch, so that the shared counters are touched once a batch.
#[derive(Default)]
struct Tally {
    fates: [(u64, Option<PacketFate>); 7],
    moved: u64,
}

type Expected = [Option<(u64, usize)>; BATCH_PACKETS];

impl Receiver {
    pub fn new(placement: Placement, contributor: Contributor, deadline: Duration) -> Self {
        let deadline_ns = deadline.as_nanos() as u64;
        Self {
            batch: Batch::new(&placement),
            progress: Progress::new(deadline_ns),
            epoch: contributor.epoch(),
            last_placed_ns: 0,
            placement,
            contributor,
            far_ids: FarIds::default(),
            deadline_ns,
            stalled_window: None,
            strays: Vec::with_capacity(BATCH_PACKETS),
            tally: Tally::default(),
        }
    }

    pub fn contributor(&self) -> &Contributor {
        &self.contributor
    }

    /// Receives one batch of `ports[index]`. Returns how many packets came; 0: there are none now.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn receive(&mut self, ports: &mut [Port], index: usize) -> io::Result<usize> {
        let received = self.receive_batch(&mut ports[index])?;
        if received > 0 {
            let mut strays = std::mem::take(&mut self.strays);
            for (m, packet) in strays.drain(..) {
                self.settle_stray(m, &packet, ports, index);
            }
            self.strays = strays;
            self.finish_batch(ports);
        }
        Ok(received)
    }

    /// Predicts, receives, and marks what came as predicted. What did not is left in `strays`.
    fn receive_batch(&mut self, port: &mut Port) -> io::Result<usize> {
        let Self { placement, contributor, batch, .. } = self;
        let per_module = placement.packets_per_module;
        let (expected, ids, count) = predict(port.expected(), per_module);
        let access = contributor.protect(&ids[..count]);
        for (m, expected) in expected.iter().enumerate() {
            let place = expected.and_then(|(id, number)| free_place(&access, id, port.module * per_module + number));
            match place {
                Some((image, packet)) => batch.aim_at_image(m, placement, packet, access.pixels(image)),
                None => batch.aim_at_staging(m),
            }
        }
        // SAFETY: P1: `access` protects the images, and lives until every payload is marked or fetched.
        let received = unsafe { socket::receive(port.socket.fd(), &mut batch.messages) }?;
        let now_ns = if received > 0 { monotonic_ns() } else { 0 };
        for (m, expected) in expected.iter().enumerate().take(received) {
            let packet = match read_header(batch, m, per_module) {
                Ok(packet) => packet,
                Err(fate) => {
                    self.tally.add(fate);
                    continue;
                }
            };
            port.note_packet(&packet, per_module, now_ns);
            if batch.is_aimed_at_image(m) {
                if *expected == Some((packet.image_id, packet.number)) {
                    let image = access.image(packet.image_id).expect("a place in it was predicted");
                    port.note_id(packet.image_id);
                    self.tally.add(mark(&access, image, port.module * per_module + packet.number, &packet, now_ns));
                    self.far_ids.clear();
                    continue;
                }
                // SAFETY: P2: aimed at an image that `access` still protects.
                unsafe { batch.fetch_to_staging(m) };
            }
            self.strays.push((m, packet));
        }
        Ok(received)
    }

    /// Places a packet that was not expected where it came, waits for its image, or drops it.
    fn settle_stray(&mut self, m: usize, packet: &Packet, ports: &mut [Port], index: usize) {
        let give_up_ns = monotonic_ns() + self.deadline_ns + self.deadline_ns / 4;
        loop {
            self.follow_run(ports);
            ports[index].note_id(packet.image_id);
            let ticket = self.contributor.window_ticket();
            let lookup = self.contributor.lookup(packet.image_id);
            let quiet_ns = monotonic_ns().saturating_sub(self.contributor.last_placed_ns());
            let fate = match self.far_ids.decide(lookup, packet.image_id, quiet_ns) {
                Action::Place => match self.place_stray(m, packet, ports[index].module) {
                    Some(fate) => fate,
                    None => continue, // it was closed in this moment
                },
                Action::Wait if self.wait_for_window(packet.image_id, ticket, give_up_ns, ports) => continue,
                Action::BeginRun if self.begin_run(packet.image_id, ticket, give_up_ns) => continue,
                Action::Wait | Action::BeginRun | Action::DropEarly => PacketFate::Early,
                Action::DropLate => PacketFate::Late,
                Action::DropNoSlot => {
                    self.contributor.refuse(packet.image_id);
                    PacketFate::NoSlot
                }
            };
            return self.tally.add(fate);
        }
    }

    /// None if the image was closed meanwhile.
    fn place_stray(&mut self, m: usize, packet: &Packet, module: usize) -> Option<PacketFate> {
        let Self { placement, contributor, batch, .. } = self;
        let access = contributor.protect(&[packet.image_id]);
        let image = access.image(packet.image_id)?;
        let index = module * placement.packets_per_module + packet.number;
        self.far_ids.clear();
        if access.has_packet(image, index) {
            return Some(PacketFate::Duplicate);
        }
        // SAFETY: R1 of the ring: `access` protects the image; P3: the index was checked in `decode`.
        unsafe { batch.place_from_staging(m, placement, index, access.pixels(image)) };
        self.tally.moved += 1;
        Some(mark(&access, image, index, packet, monotonic_ns()))
    }

    /// Asks for the window to move up to `id` and sleeps until it has moved. False: it will not in time.
    fn wait_for_window(&mut self, id: u64, ticket: u32, give_up_ns: u64, ports: &[Port]) -> bool {
        self.tell_progress(ports); // the window may stand still because of what we have not told
        self.contributor.want(id);
        if self.stalled_window == Some(ticket) {
            return false;
        }
        self.sleep_until_moved(ticket, give_up_ns)
    }

    fn begin_run(&mut self, id: u64, ticket: u32, give_up_ns: u64) -> bool {
        self.contributor.request_run(id);
        self.stalled_window != Some(ticket) && self.sleep_until_moved(ticket, give_up_ns)
    }

    fn sleep_until_moved(&mut self, ticket: u32, give_up_ns: u64) -> bool {
        let now_ns = monotonic_ns();
        if now_ns >= give_up_ns {
            self.stalled_window = Some(ticket);
            return false;
        }
        self.contributor.wait_for_window(ticket, Duration::from_nanos(give_up_ns - now_ns));
        true
    }

    /// Forgets what was known of the ports when a new run has begun.
    fn follow_run(&mut self, ports: &mut [Port]) {
        let epoch = self.contributor.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            ports.iter_mut().for_each(Port::forget_run);
        }
    }

    fn finish_batch(&mut self, ports: &mut [Port]) {
        self.follow_run(ports);
        let packet_bytes = self.placement.packet_bytes() as u64;
        if self.tally.flush(&self.contributor, packet_bytes) > 0 {
            self.last_placed_ns = monotonic_ns();
            self.progress.note_packets(self.last_placed_ns);
        }
        self.tell_progress(ports);
    }

    fn tell_progress(&self, ports: &[Port]) {
        let progress = self.progress.of(ports, monotonic_ns());
        self.contributor.set_progress(progress, self.last_placed_ns);
    }
}

impl Tally {
    fn add(&mut self, fate: PacketFate) {
        let (count, slot) = &mut self.fates[fate as usize];
        (*count, *slot) = (*count + 1, Some(fate));
    }

    /// Adds the batch to the shared counters. Returns how many packets were placed.
    fn flush(&mut self, contributor: &Contributor, packet_bytes: u64) -> u64 {
        let (mut received, placed) = (0, self.fates[PacketFate::Placed as usize].0);
        for (count, fate) in std::mem::take(&mut self.fates) {
            if let Some(fate) = fate {
                contributor.count(fate, count);
                received += count;
            }
        }
        contributor.count_bytes(received * packet_bytes);
        contributor.count_moved(std::mem::take(&mut self.moved));
        placed
    }
}

/// The packets that follow the last one, and the images that they belong to.
fn predict(next: Option<(u64, usize)>, packets_per_module: usize) -> (Expected, [u64; HAZARD_SLOTS], usize) {
    let (mut expected, mut ids, mut count) = ([None; BATCH_PACKETS], [0; HAZARD_SLOTS], 0);
    let Some(mut packet) = next else { return (expected, ids, count) };
    for slot in &mut expected {
        if count == 0 || ids[count - 1] != packet.0 {
            if count == HAZARD_SLOTS {
                break; // more images than may be protected at one time: the rest goes to staging
            }
            ids[count] = packet.0;
            count += 1;
        }
        *slot = Some(packet);
        packet = successor(packet, packets_per_module);
    }
    (expected, ids, count)
}

/// The image and packet index, if it is open and the packet has not come yet (P1).
fn free_place(access: &Access<'_>, id: u64, packet: usize) -> Option<(OpenImage, usize)> {
    let image = access.image(id)?;
    (!access.has_packet(image, packet)).then_some((image, packet))
}

fn read_header(batch: &Batch, m: usize, packets_per_module: usize) -> Result<Packet, PacketFate> {
    if !batch.is_whole(m) {
        return Err(PacketFate::Malformed);
    }
    let header: &[u8; eiger::HEADER_BYTES] = batch.header(m).try_into().map_err(|_| PacketFate::Malformed)?;
    decode::eiger(header, packets_per_module)
}

fn mark(access: &Access<'_>, image: OpenImage, index: usize, packet: &Packet, now_ns: u64) -> PacketFate {
    let info = PacketInfo {
        received_ns: now_ns,
        detector_timestamp: packet.timestamp,
        exposure_length: packet.exposure_length,
    };
    match access.mark(image, index, info) {
        Mark::New => PacketFate::Placed,
        Mark::Duplicate => PacketFate::Duplicate,
    }
}

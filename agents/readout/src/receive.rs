//! One turn of one port: predict, receive, mark, move strays.
//!
//! # Rules
//! P1  The kernel writes a payload either into staging or into the place of the packet that is expected
//!     there, in an image that this process has protected, and only if that packet has not come yet:
//!     no good pixel is ever under the kernel's hand.
//! P2  A payload of another packet than the expected one is copied out before anything else is placed;
//!     the place that it covered stays unmarked, so it is filled at the close or received later.
//! P3  Places come from the placement alone, by module and packet number, both checked: nothing that a
//!     packet says can lead outside its own place.
//! P4  A packet's length is that of its number: all but a module's last one have one length.
//! P5  A packet whose image is not open yet is parked, and its port with it; other ports go on. One that
//!     waited here for all would keep back the very packets that let the window move.
//! P6  A packet of a sender that is not listed is counted before anything of it is looked at.

use crate::{
    batch::{BATCH_PACKETS, Batch, Landed},
    decode,
    overload::Overload,
    place::place,
    port::{Parked, Port, Progress, successor},
    runs::{Action, FarIds},
    socket,
};
use ecs_schemas::detector::{Detector, PacketHeader, Placement};
use ecs_shm_buffer::{
    Access, Contributor, Lookup, Mark, OpenImage, PacketFate, PacketInfo, limits::HAZARD_SLOTS, monotonic_ns,
};
use std::{io, time::Duration};

/// Receives the packets of some ports into one ring.
pub struct Receiver {
    detector: Detector,
    contributor: Contributor,
    progress: Progress,
    far_ids: FarIds,
    overload: Overload,
    /// A packet waits this long for its image to open: an image's deadline, and some scheduling.
    patience_ns: u64,
    epoch: u64,
    /// When a packet was last placed, or waited for.
    last_heard_ns: u64,
    tally: Tally,
    /// The good packets of a staged batch; kept for its memory.
    staged: Vec<(Landed, PacketHeader)>,
}

/// What one turn of a port brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing was there.
    Empty,
    /// Packets were taken; there may be more.
    Took,
    /// Its packets wait for their images to open.
    Parked,
}

/// Fates of the packets of one batch, so that the shared counters are touched once a batch.
#[derive(Default)]
struct Tally {
    fates: [u64; PacketFate::ALL.len()],
    moved: u64,
}

/// Packets thrown away at one time of one port, at most: more than any buffer holds, so that it ends also
/// while more come.
const SHED_PACKETS_MAX: u64 = 1 << 17;

/// The packet that is expected at each place of a batch.
type Expected = [Option<(u64, usize)>; BATCH_PACKETS];

/// What was received.
#[derive(Clone, Copy)]
struct Received {
    packets: usize,
    /// There was nothing more.
    emptied: bool,
}

/// What became of a packet at first sight.
enum Taken {
    /// It came where it was expected; and its image.
    Marked(PacketFate, u64),
    Parked,
    Bad(PacketFate),
}

impl Receiver {
    pub fn new(detector: Detector, contributor: Contributor, deadline: Duration) -> Self {
        let deadline_ns = deadline.as_nanos() as u64;
        Self {
            progress: Progress::new(deadline_ns),
            epoch: contributor.epoch(),
            detector,
            contributor,
            far_ids: FarIds::default(),
            overload: Overload::default(),
            patience_ns: deadline_ns + deadline_ns / 4,
            last_heard_ns: 0,
            tally: Tally::default(),
            staged: Vec::with_capacity(BATCH_PACKETS),
        }
    }

    pub fn contributor(&self) -> &Contributor {
        &self.contributor
    }

    /// One turn of `ports[index]`: batches are received, unless packets of the last one still wait; what
    /// waits is placed or dropped as far as that can be decided.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn receive(&mut self, ports: &mut [Port], index: usize) -> io::Result<Turn> {
        self.follow_run();
        let turn_ns = monotonic_ns();
        let received = match ports[index].parked.is_empty() {
            true => Some(self.receive_batches(&mut ports[index])?),
            false => None,
        };
        self.settle_parked(ports, index);
        if received.is_some_and(|received| received.emptied) {
            ports[index].note_empty(turn_ns); // only now: the packets of this turn came before it was
        }
        if received.is_some_and(|received| received.packets > 0) {
            self.look_for_overload(ports, index)?;
        }
        self.finish_turn(ports);
        Ok(match (ports[index].parked.is_empty(), received) {
            (false, _) => Turn::Parked,
            (true, Some(Received { packets: 0, .. })) => Turn::Empty,
            (true, _) => Turn::Took,
        })
    }

    /// Sleeps until the window moves, at most for `timeout`. `ticket` was taken before the last turns.
    pub fn wait_for_window(&self, ticket: u32, timeout: Duration) {
        self.contributor.wait_for_window(ticket, timeout);
    }

    /// Receives batches until there are packets enough for a turn, none is left, or some are parked.
    fn receive_batches(&mut self, port: &mut Port) -> io::Result<Received> {
        let mut received = Received { packets: 0, emptied: false };
        while received.packets < BATCH_PACKETS && port.parked.is_empty() && !received.emptied {
            let batch = if port.batch.is_staged() { self.receive_staged(port) } else { self.receive_batch(port) }?;
            received = Received { packets: received.packets + batch.packets, ..batch };
        }
        Ok(received)
    }

    /// Predicts, receives, and marks what came as predicted. What did not is parked.
    fn receive_batch(&mut self, port: &mut Port) -> io::Result<Received> {
        let Self { detector, contributor, tally, far_ids, epoch, last_heard_ns, .. } = self;
        let placement = &detector.placement;
        let places = port.batch.begin();
        let (expected, ids, count) = predict(port.expected(*epoch), places, placement.packets_per_module);
        let mut access = contributor.protect(&ids[..count]);
        if !access.is_of_run(*epoch) {
            access.forget(); // the same ids are open in another run by now
        }
        aim(port, placement, &access, &expected[..places]);
        let messages = port.batch.messages();
        let messages_max = messages.len();
        // SAFETY: P1: `access` protects the images, and lives until every payload is marked or fetched.
        let messages = unsafe { socket::receive(port.socket.fd(), messages) }?;
        let now_ns = monotonic_ns();
        let mut packets = 0;
        for message in 0..messages {
            let contents = port.batch.contents(message);
            packets += contents.packets + contents.malformed;
            if !port.is_listed(message) {
                tally.add_many(PacketFate::Unlisted, (contents.packets + contents.malformed) as u64);
                continue; // what it left in an image is not marked, as in P2
            }
            tally.add_many(PacketFate::Malformed, contents.malformed as u64);
            if port.batch.is_out_of_step(&contents) {
                // SAFETY: P2: aimed at images that `access` still protects.
                unsafe { port.batch.fetch_message(message) };
            }
            for packet in 0..contents.packets {
                let landed = port.batch.landed(&contents, message, packet);
                match take_packet(port, detector, &access, &expected, landed, now_ns) {
                    Taken::Marked(fate, id) => {
                        tally.add(fate);
                        far_ids.note_placed(id, now_ns);
                        *last_heard_ns = now_ns;
                    }
                    Taken::Bad(fate) => tally.add(fate),
                    Taken::Parked => {}
                }
            }
        }
        Ok(Received { packets, emptied: messages < messages_max })
    }

    /// Receives into staging, and puts what came from there to its place, image by image.
    fn receive_staged(&mut self, port: &mut Port) -> io::Result<Received> {
        let messages = port.batch.stage();
        let messages_max = messages.len();
        // SAFETY: all of it is staging.
        let messages = unsafe { socket::receive(port.socket.fd(), messages) }?;
        let now_ns = monotonic_ns();
        let mut packets = 0;
        self.staged.clear();
        for message in 0..messages {
            let contents = port.batch.contents(message);
            packets += contents.packets + contents.malformed;
            if !port.is_listed(message) {
                self.tally.add_many(PacketFate::Unlisted, (contents.packets + contents.malformed) as u64);
                continue;
            }
            self.tally.add_many(PacketFate::Malformed, contents.malformed as u64);
            for packet in 0..contents.packets {
                let landed = port.batch.landed(&contents, message, packet);
                match read_header(&port.batch, &self.detector, port.module, landed) {
                    Ok(header) => self.staged.push((landed, header)),
                    Err(fate) => self.tally.add(fate),
                }
            }
        }
        let staged = std::mem::take(&mut self.staged);
        for of_image in staged.chunk_by(|(_, a), (_, b)| a.image_id == b.image_id) {
            self.place_staged(port, of_image, now_ns);
        }
        self.staged = staged;
        Ok(Received { packets, emptied: messages < messages_max })
    }

    /// Puts packets of one image to their places, or parks them.
    fn place_staged(&mut self, port: &mut Port, of_image: &[(Landed, PacketHeader)], now_ns: u64) {
        let id = of_image[0].1.image_id;
        let access = self.contributor.protect(&[id]);
        let image = access.image(id).filter(|_| port.takes_part(self.epoch) && access.is_of_run(self.epoch));
        for &(landed, packet) in of_image {
            let Some(image) = image else {
                port.parked.push_back(Parked { landed, packet, since_ns: now_ns, is_believed: false });
                continue;
            };
            let index = port.module * self.detector.placement.packets_per_module + packet.number;
            port.note_id(id, now_ns);
            self.far_ids.note_placed(id, now_ns);
            if access.has_packet(image, index) {
                self.tally.add(PacketFate::Duplicate);
                continue;
            }
            let payload = port.batch.payload(landed);
            // SAFETY: R1 of the ring: `access` protects the image; P3 and P4: number and length were checked.
            unsafe { place(&self.detector.placement, index, payload, access.pixels(image)) };
            self.last_heard_ns = now_ns;
            self.tally.add(mark(&access, image, index, &packet, now_ns));
        }
    }

    /// Places the port's parked packets, or drops them, up to the first that is to wait.
    fn settle_parked(&mut self, ports: &mut [Port], index: usize) {
        while let Some(&parked) = ports[index].parked.front() {
            self.follow_run();
            let port = &mut ports[index];
            match self.settle(port, &parked) {
                Some(fate) => {
                    self.tally.add(fate);
                    port.parked.pop_front();
                }
                None => return,
            }
        }
    }

    /// What becomes of a packet that was not expected where it came; none if it is to wait.
    fn settle(&mut self, port: &mut Port, parked: &Parked) -> Option<PacketFate> {
        let id = parked.packet.image_id;
        let now_ns = monotonic_ns();
        if !port.joins(self.epoch, self.contributor.run_after_ns(), id) {
            return Some(PacketFate::Late);
        }
        let waits = now_ns.saturating_sub(parked.since_ns) < self.patience_ns;
        let lookup = self.contributor.lookup(id);
        let quiet_since_ns = match lookup {
            Lookup::Ahead(_) => port.heard_ns(),
            _ => self.contributor.last_placed_ns().max(self.last_heard_ns),
        };
        let quiet_ns = now_ns.saturating_sub(quiet_since_ns);
        let action = match lookup {
            Lookup::Ahead(_) if parked.is_believed => Action::Wait,
            _ => self.far_ids.decide(lookup, id, quiet_ns),
        };
        match action {
            // None here: the image was closed in this moment; the next turn finds out what that means.
            Action::Place => self.place(port, parked, now_ns),
            Action::Wait if waits => {
                port.parked[0].is_believed = true;
                port.note_waiting(quiet_ns >= self.far_ids.pause_ns(), now_ns);
                self.progress.note_packets(now_ns);
                self.last_heard_ns = now_ns;
                None
            }
            Action::BeginRun if waits => {
                self.contributor.request_run(id);
                None
            }
            Action::Wait | Action::BeginRun | Action::DropEarly => Some(PacketFate::Early),
            Action::DropLate => Some(PacketFate::Late),
            // None here: the image has got a slot, or was closed, in this moment.
            Action::DropNoSlot => self.contributor.refuse(id).then_some(PacketFate::NoSlot),
        }
    }

    /// Moves a packet from staging to its place. None if the image was closed meanwhile.
    fn place(&mut self, port: &mut Port, parked: &Parked, now_ns: u64) -> Option<PacketFate> {
        let Self { detector, contributor, .. } = self;
        let placement = &detector.placement;
        let access = contributor.protect(&[parked.packet.image_id]);
        let image = access.image(parked.packet.image_id)?;
        let index = port.module * placement.packets_per_module + parked.packet.number;
        if !access.is_of_run(self.epoch) {
            return None;
        }
        port.note_id(parked.packet.image_id, now_ns);
        self.far_ids.note_placed(parked.packet.image_id, now_ns);
        if access.has_packet(image, index) {
            return Some(PacketFate::Duplicate);
        }
        // SAFETY: R1 of the ring: `access` protects the image; P3 and P4: number and length were checked.
        unsafe { place(placement, index, port.batch.payload(parked.landed), access.pixels(image)) };
        self.tally.moved += 1;
        self.last_heard_ns = now_ns;
        Some(mark(&access, image, index, &parked.packet, now_ns))
    }

    /// Counts what the kernel dropped since the last time.
    pub fn count_kernel_dropped(&self, ports: &mut [Port]) {
        let dropped = ports.iter_mut().map(|port| port.socket.take_kernel_dropped()).sum();
        self.contributor.count_kernel_dropped(dropped);
    }

    /// Counts the packets that still wait when the readout ends: their images did not open in time.
    pub fn give_up_parked(&mut self, ports: &mut [Port]) {
        let parked = ports.iter_mut().map(|port| port.parked.drain(..).len() as u64).sum();
        self.tally.add_many(PacketFate::Early, parked);
        self.finish_turn(ports);
    }

    /// Counts what the kernel dropped; when that lasts on most ports, throws away all that waits on any port.
    fn look_for_overload(&mut self, ports: &mut [Port], index: usize) -> io::Result<()> {
        let dropped = ports[index].socket.take_kernel_dropped();
        if dropped == 0 {
            return Ok(());
        }
        self.contributor.count_kernel_dropped(dropped);
        if !self.overload.note_drop(index, ports.len(), ports[index].emptied_ns(), monotonic_ns()) {
            return Ok(());
        }
        let mut shed = 0;
        for port in ports {
            let begun_ns = monotonic_ns();
            shed += port.parked.drain(..).len() as u64;
            shed += socket::discard(port.socket.fd(), SHED_PACKETS_MAX)?;
            port.note_empty(begun_ns);
        }
        self.tally.add_many(PacketFate::Shed, shed);
        Ok(())
    }

    /// Forgets what was known of the run when a new one has begun; ports join it one by one.
    fn follow_run(&mut self) {
        let epoch = self.contributor.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.far_ids.forget_run();
        }
    }

    /// Counts the turn, and tells how far the ports are: the window may wait for that.
    fn finish_turn(&mut self, ports: &mut [Port]) {
        self.follow_run();
        let packet_bytes = self.detector.placement.packet_bytes() as u64;
        let now_ns = monotonic_ns();
        if self.tally.flush(&self.contributor, packet_bytes) > 0 {
            self.progress.note_packets(now_ns);
        }
        self.contributor.set_progress(self.progress.of(ports, self.epoch, now_ns), self.last_heard_ns);
    }
}

impl Tally {
    fn add(&mut self, fate: PacketFate) {
        self.add_many(fate, 1);
    }

    fn add_many(&mut self, fate: PacketFate, packets: u64) {
        self.fates[fate as usize] += packets;
    }

    /// Adds the batch to the shared counters. Returns how many packets were placed.
    fn flush(&mut self, contributor: &Contributor, packet_bytes: u64) -> u64 {
        let (mut received, placed) = (0, self.fates[PacketFate::Placed as usize]);
        if self.fates.iter().all(|count| *count == 0) {
            return 0;
        }
        for (fate, count) in PacketFate::ALL.into_iter().zip(std::mem::take(&mut self.fates)) {
            if count > 0 {
                contributor.count(fate, count);
                received += count;
            }
        }
        contributor.count_bytes(received * packet_bytes);
        contributor.count_moved(std::mem::take(&mut self.moved));
        placed
    }
}

/// The packets that follow the last one, one for each place, and the images that they belong to.
fn predict(
    next: Option<(u64, usize)>,
    places: usize,
    packets_per_module: usize,
) -> (Expected, [u64; HAZARD_SLOTS], usize) {
    let (mut expected, mut ids, mut count) = ([None; BATCH_PACKETS], [0; HAZARD_SLOTS], 0);
    let Some(mut packet) = next else { return (expected, ids, count) };
    for place in &mut expected[..places] {
        if count == 0 || ids[count - 1] != packet.0 {
            if count == HAZARD_SLOTS {
                break; // more images than may be protected at one time: the rest goes to staging
            }
            ids[count] = packet.0;
            count += 1;
        }
        *place = Some(packet);
        packet = successor(packet, packets_per_module);
    }
    (expected, ids, count)
}

/// Aims each place of the port's batch at that of the packet that is expected there, where it is free.
fn aim(port: &mut Port, placement: &Placement, access: &Access<'_>, expected: &[Option<(u64, usize)>]) {
    let first = port.module * placement.packets_per_module;
    for expected in expected {
        match expected.and_then(|(id, number)| free_place(access, id, first + number)) {
            Some((image, packet)) => port.batch.aim_at_image(placement, packet, access.pixels(image)),
            None => port.batch.aim_at_staging(),
        }
    }
}

/// Reads a packet's header, and marks the packet if it came where it was expected.
fn take_packet(
    port: &mut Port,
    detector: &Detector,
    access: &Access<'_>,
    expected: &Expected,
    landed: Landed,
    now_ns: u64,
) -> Taken {
    let placement = &detector.placement;
    let per_module = placement.packets_per_module;
    let packet = match read_header(&port.batch, detector, port.module, landed) {
        Ok(packet) => packet,
        Err(fate) => return Taken::Bad(fate),
    };
    port.note_packet(&packet, per_module);
    if let Some((id, number)) = port.batch.image_place(landed).and_then(|place| expected[place]) {
        let image = access.image(id).expect("a place in it was predicted");
        let index = port.module * per_module + number;
        if (id, number) == (packet.image_id, packet.number) {
            port.note_id(id, now_ns);
            return Taken::Marked(mark(access, image, index, &packet, now_ns), id);
        }
        // SAFETY: P2: aimed at an image that `access` still protects.
        unsafe { port.batch.fetch_to_staging(landed, placement, index, access.pixels(image)) };
    }
    port.parked.push_back(Parked { landed, packet, since_ns: now_ns, is_believed: false });
    Taken::Parked
}

/// The image and packet index, if it is open and the packet has not come yet (P1).
fn free_place(access: &Access<'_>, id: u64, packet: usize) -> Option<(OpenImage, usize)> {
    let image = access.image(id)?;
    (!access.has_packet(image, packet)).then_some((image, packet))
}

/// Reads the header of a packet, and checks its length (P4).
fn read_header(batch: &Batch, detector: &Detector, module: usize, landed: Landed) -> Result<PacketHeader, PacketFate> {
    let header = decode::header(detector, module, batch.header(landed))?;
    let is_right = batch.payload_bytes(landed) == detector.placement.payload_bytes_of(header.number);
    if is_right { Ok(header) } else { Err(PacketFate::Malformed) }
}

fn mark(access: &Access<'_>, image: OpenImage, index: usize, packet: &PacketHeader, now_ns: u64) -> PacketFate {
    let info = PacketInfo {
        received_ns: now_ns,
        detector_timestamp: packet.timestamp,
        exposure_length: packet.exposure_length,
        do_not_store: packet.do_not_store,
    };
    match access.mark(image, index, info) {
        Mark::New => PacketFate::Placed,
        Mark::Duplicate => PacketFate::Duplicate,
    }
}

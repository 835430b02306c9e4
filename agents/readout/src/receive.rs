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
//!     waited here for all would keep back the very packets that let the window move. Its port is not parked for a
//!     packet beyond the window before another agrees: one stray packet would else make its port silent, which would
//!     then be taken for a sign that the detector has gone on to there.
//! P6  A packet of a sender that is not listed is counted before anything of it is looked at.
//! P7  An image id is what the header's stands for beside the window when the packet is received (L1 of `laps`), and is not
//!     looked up again while the packet waits, however far the window moves; but where a run has begun meanwhile.

use crate::{
    batch::{BATCH_PACKETS, Landed, STAGED_PACKETS},
    decode::{Decoder, SameImage},
    laps::Laps,
    overload::{Gates, Overload},
    place::Placer,
    port::{Moment, Parked, Port, Progress},
    predict::Prediction,
    runs::{AGREE_IDS, Action, FarIds},
    socket,
    take::{Run, follows, mark, mark_one, read_header, take_packet},
    tally::Tally,
};
use ecs_schemas::detector::{Detector, PacketHeader};
use ecs_shm_buffer::{Contributor, Lookup, PacketFate, monotonic_ns};
use std::{io, time::Duration};

/// Receives the packets of some ports into one ring.
pub struct Receiver {
    detector: Detector,
    contributor: Contributor,
    progress: Progress,
    laps: Laps,
    far_ids: FarIds,
    overload: Overload,
    /// How often gates were shut, see `overload`.
    times_shut: u64,
    /// A packet waits this long for its image to open: an image's deadline, and some scheduling.
    patience_ns: u64,
    epoch: u64,
    /// When a packet was last placed, or waited for.
    last_heard_ns: u64,
    tally: Tally,
    placer: Placer,
    same_image: SameImage,
    /// The good packets of a staged batch; kept for its memory.
    staged: Vec<(Landed, PacketHeader)>,
    /// What came as expected in a batch; kept for its memory.
    runs: Vec<Run>,
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

/// Packets thrown away in one turn of a port, at most, so that it ends also while more come. What is left is for the next.
const SHED_PACKETS_MAX: u64 = 1 << 17;

/// What was received.
#[derive(Clone, Copy)]
struct Received {
    packets: usize,
    /// There was nothing more.
    emptied: bool,
}

/// What becomes of a packet that was not expected where it came.
enum Verdict {
    Over(PacketFate),
    /// It waits, and its port with it.
    Waits,
    /// It waits, and its port receives on (rule P5).
    Aside,
}

impl Receiver {
    pub fn new(detector: Detector, contributor: Contributor, deadline: Duration, placer: Placer) -> Self {
        let deadline_ns = deadline.as_nanos() as u64;
        Self {
            progress: Progress::new(deadline_ns),
            laps: Laps::new(detector.wire.image_id.max(), contributor.ring().geometry().window),
            epoch: contributor.epoch(),
            same_image: SameImage::new(&detector),
            detector,
            contributor,
            far_ids: FarIds::default(),
            overload: Overload::default(),
            times_shut: 0,
            patience_ns: deadline_ns + deadline_ns / 4,
            last_heard_ns: 0,
            tally: Tally::default(),
            placer,
            staged: Vec::with_capacity(STAGED_PACKETS),
            runs: Vec::with_capacity(BATCH_PACKETS),
        }
    }

    pub fn contributor(&self) -> &Contributor {
        &self.contributor
    }

    /// Number of what images are begun with now, where pixels are converted.
    pub fn calibration(&mut self) -> Option<u64> {
        self.placer.follow();
        self.placer.calibration()
    }

    /// One turn of `ports[index]`: batches are received, unless packets of the last one still wait; what
    /// waits is placed or dropped as far as that can be decided.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn receive(&mut self, ports: &mut [Port], index: usize) -> io::Result<Turn> {
        self.follow_run_with(&mut ports[index]);
        self.placer.follow();
        let turn = self.look();
        self.catch_up(&mut ports[index], turn)?;
        let received = match ports[index].parked.is_empty() {
            true => Some(self.receive_batches(&mut ports[index])?),
            false => None,
        };
        self.settle_parked(ports, index);
        if received.is_some_and(|received| received.emptied) {
            ports[index].note_empty(turn); // only now: the packets of this turn came before it was
        }
        if received.is_some_and(|received| ports[index].is_to_be_looked_at(received.packets, received.emptied)) {
            self.look_for_overload(ports, index);
        }
        self.finish_turn(ports);
        Ok(match (ports[index].parked.is_empty(), received) {
            (false, _) => Turn::Parked,
            (true, Some(Received { packets: 0, .. })) => Turn::Empty,
            (true, _) => Turn::Took,
        })
    }

    /// The time, and where the window begins: for [`Port::note_empty`], to be asked before the socket is.
    pub fn look(&self) -> Moment {
        Moment { window_begin: self.contributor.window_begin(), now_ns: monotonic_ns() }
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
        let Self {
            detector, contributor, tally, laps, far_ids, epoch, last_heard_ns, placer, same_image, runs, ..
        } = self;
        let decoder = Decoder { detector, laps: *laps, window_begin: contributor.window_begin() };
        let placement = &detector.placement;
        let first_packet = port.module * placement.packets_per_module;
        let next = port.expected(*epoch);
        let places = port.batch.begin(next.map(|(_, number)| number));
        let prediction = Prediction::new(next, places, placement.packets_per_module);
        let mut access = contributor.protect(prediction.ids());
        if !access.is_of_run(*epoch) {
            access.forget(); // the same ids are open in another run by now
        }
        prediction.aim(&mut port.batch, places, placement, first_packet, &access);
        let messages = port.batch.messages();
        let messages_max = messages.len();
        // SAFETY: P1: `access` protects the images, and lives until every payload is marked or fetched.
        let messages = unsafe { socket::receive(port.socket.fd(), messages) }?;
        let now_ns = monotonic_ns();
        let mut packets = 0;
        runs.clear();
        for message in 0..messages {
            let contents = port.batch.contents(message);
            port.batch.ask_for_headers(&contents, message);
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
            let before = port.expected(*epoch);
            for packet in 0..contents.packets {
                let landed = port.batch.landed(&contents, message, packet);
                let expected = port.batch.image_place(landed).and_then(|place| prediction.at(place));
                if !follows(runs.last_mut(), expected, same_image, detector, port, landed)
                    && let Err(fate) = take_packet(port, &decoder, &access, runs, expected, landed, now_ns)
                {
                    tally.add(fate);
                }
            }
            if port.batch.is_coalesced() {
                port.note_held(before, contents.packets);
            }
        }
        for run in runs {
            let (id, first) = (run.header.image_id, first_packet + run.header.number);
            let new = mark(placer, &access, run.image, first..first + run.packets, &run.header, now_ns);
            tally.add_many(PacketFate::Placed, new as u64);
            tally.add_many(PacketFate::Duplicate, (run.packets - new) as u64);
            port.note_ids(id, run.packets, now_ns);
            far_ids.note_placed(id, now_ns);
            *last_heard_ns = now_ns;
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
        let decoder =
            Decoder { detector: &self.detector, laps: self.laps, window_begin: self.contributor.window_begin() };
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
                match read_header(&port.batch, &decoder, port.module, landed) {
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
        let first_packet = port.module * self.detector.placement.packets_per_module;
        let access = self.contributor.protect(&[id]);
        let image = access.image(id).filter(|_| port.takes_part(self.epoch) && access.is_of_run(self.epoch));
        for &(landed, packet) in of_image {
            let Some(image) = image else {
                port.parked.push_back(Parked { landed: Some(landed), packet, since_ns: now_ns, is_believed: false });
                continue;
            };
            let index = first_packet + packet.number;
            port.note_id(id, now_ns);
            self.far_ids.note_placed(id, now_ns);
            if access.has_packet(image, index) {
                self.tally.add(PacketFate::Duplicate);
                continue;
            }
            let payload = port.batch.payload(landed);
            // SAFETY: R1 of the ring: `access` protects the image; P3 and P4: number and length were checked.
            unsafe { self.placer.place(&self.detector.placement, &access, image, index, payload) };
            self.last_heard_ns = now_ns;
            self.tally.add(mark_one(&self.placer, &access, image, index, &packet, now_ns));
        }
    }

    /// Places the port's parked packets, or drops them, up to the first that is to wait.
    fn settle_parked(&mut self, ports: &mut [Port], index: usize) {
        self.settle_aside(&mut ports[index]);
        loop {
            let port = &mut ports[index];
            self.follow_run_with(port);
            let Some(&parked) = port.parked.front() else { return };
            match self.settle(port, &parked) {
                Verdict::Over(fate) => {
                    self.tally.add(fate);
                    port.parked.pop_front();
                }
                Verdict::Aside => {
                    let before = port.put_aside();
                    before.iter().for_each(|_| self.tally.add(PacketFate::Early));
                }
                Verdict::Waits => return,
            }
        }
    }

    fn settle_aside(&mut self, port: &mut Port) {
        self.follow_run_with(port);
        let Some(aside) = port.aside() else { return };
        let verdict = match port.is_aside_void(self.epoch) {
            true => Verdict::Over(PacketFate::Early),
            false => self.settle(port, &aside),
        };
        if let Verdict::Over(fate) = verdict {
            self.tally.add(fate);
            port.drop_aside();
        }
    }

    fn settle(&mut self, port: &mut Port, parked: &Parked) -> Verdict {
        let id = parked.packet.image_id;
        let now_ns = monotonic_ns();
        if !port.joins(&self.laps, self.epoch, self.contributor.run_after_ns(), id) {
            return Verdict::Over(PacketFate::Late);
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
            _ => self.far_ids.decide(lookup, id, quiet_ns, self.overload.lasts()),
        };
        match action {
            // None here: the image was closed in this moment; the next turn finds out what that means.
            Action::Place => self.place(port, parked, now_ns).map_or(Verdict::Waits, Verdict::Over),
            Action::Wait if waits => self.wait(port, parked, quiet_ns >= self.far_ids.pause_ns(), now_ns),
            Action::BeginRun if waits => {
                self.contributor.request_run(self.laps.in_field(id));
                Verdict::Waits
            }
            Action::Wait | Action::BeginRun | Action::DropEarly => Verdict::Over(PacketFate::Early),
            Action::DropLate => Verdict::Over(PacketFate::Late),
            // False here: the image has got a slot, or was closed, in this moment.
            Action::DropNoSlot if self.contributor.refuse(id) => Verdict::Over(PacketFate::NoSlot),
            Action::DropNoSlot => Verdict::Waits,
        }
    }

    /// A packet beyond the window: how far the port is, if it was quiet before it or another packet says the same.
    fn wait(&mut self, port: &mut Port, parked: &Parked, was_quiet: bool, now_ns: u64) -> Verdict {
        let agrees = |id: &u64| {
            let is_near = id.abs_diff(parked.packet.image_id) <= AGREE_IDS;
            is_near && matches!(self.contributor.lookup(*id), Lookup::Ahead(_))
        };
        let other = port.beside(parked).find(agrees);
        if !was_quiet && !parked.is_believed && other.is_none() {
            return Verdict::Aside;
        }
        port.believe(parked);
        let id = parked.packet.image_id;
        if was_quiet || other.is_some() {
            port.note_waiting(other.map_or(id, |other| other.min(id)), now_ns);
        }
        self.progress.note_packets(now_ns);
        self.last_heard_ns = now_ns;
        Verdict::Waits
    }

    /// Moves a packet from staging to its place. None if the image was closed meanwhile.
    fn place(&mut self, port: &mut Port, parked: &Parked, now_ns: u64) -> Option<PacketFate> {
        let Self { detector, contributor, placer, .. } = self;
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
        unsafe { placer.place(placement, &access, image, index, port.payload(parked)) };
        self.tally.moved += 1;
        self.last_heard_ns = now_ns;
        Some(mark_one(placer, &access, image, index, &parked.packet, now_ns))
    }

    /// Counts what the kernel dropped since the last time.
    pub fn count_kernel_dropped(&self, ports: &mut [Port]) {
        let dropped = ports.iter_mut().map(|port| port.socket.look().dropped).sum();
        self.contributor.count_kernel_dropped(dropped);
    }

    /// Counts the packets that still wait when the readout ends: their images did not open in time. Opens the gates.
    pub fn give_up_parked(&mut self, ports: &mut [Port]) {
        ports.iter_mut().for_each(|port| port.socket.open());
        let given_up = ports.iter_mut().map(Port::give_up_waiting).sum();
        self.tally.add_many(PacketFate::Early, given_up);
        self.finish_turn(ports);
    }

    /// Throws away what a port holds that cannot be told from what other images have (L5 of `laps`).
    fn catch_up(&mut self, port: &mut Port, looked: Moment) -> io::Result<()> {
        if !port.is_out_of_step(&self.laps, self.epoch, looked.window_begin) {
            return Ok(());
        }
        let discarded = socket::discard(port.socket.fd(), SHED_PACKETS_MAX)?;
        self.tally.add_many(PacketFate::Shed, discarded + port.give_up_waiting());
        if discarded < SHED_PACKETS_MAX {
            port.note_empty(looked);
        }
        Ok(())
    }

    /// Looks at the ports' buffers in an overload: gates open, and it is over, though nothing comes any more.
    pub fn watch_gates(&mut self, ports: &mut [Port]) {
        if self.overload.lasts() {
            (0..ports.len()).for_each(|index| self.look_for_overload(ports, index));
        }
    }

    /// Whether the detector sends more than is received, and how often gates were shut for that.
    pub fn overload(&self) -> (bool, u64) {
        (self.overload.lasts(), self.times_shut)
    }

    /// Counts what the kernel dropped, and shuts or opens gates.
    fn look_for_overload(&mut self, ports: &mut [Port], index: usize) {
        let level = ports[index].socket.look();
        if level.dropped > 0 {
            self.contributor.count_kernel_dropped(level.dropped);
        }
        let lasted = self.overload.lasts();
        match self.overload.note(index, ports.len(), level, ports[index].emptied_ns(), monotonic_ns()) {
            Some(Gates::Shut) => {
                if !lasted {
                    tracing::warn!(
                        "more packets come than are received: whole images are given up, so that others are whole"
                    );
                }
                self.times_shut += 1;
                if let Err(error) = ports.iter_mut().try_for_each(|port| port.socket.shut()) {
                    tracing::warn!(%error, "the kernel shuts no gate");
                    ports.iter_mut().for_each(|port| port.socket.open());
                    self.overload = Overload::default();
                }
            }
            Some(Gates::Open) => ports.iter_mut().for_each(|port| port.socket.open()),
            None => {}
        }
    }

    /// Forgets what was known of the run when a new one has begun; ports join it one by one.
    fn follow_run(&mut self) {
        let epoch = self.contributor.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            self.far_ids.forget_run();
        }
    }

    /// As [`Self::follow_run`]; what waits on this port may stand for other images then (P7).
    fn follow_run_with(&mut self, port: &mut Port) {
        self.follow_run();
        port.renew_ids(self.epoch, |id| self.laps.extend(id, self.contributor.window_begin()));
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

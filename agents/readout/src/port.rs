//! What is known of one port: which packet comes next, how far it is in the run, and which of its packets
//! wait for their image to open.

use crate::{
    batch::{Batch, Landed},
    laps::Laps,
    runs::NEAR_IDS,
    senders::Senders,
    socket::PortSocket,
};
use ecs_schemas::detector::{PacketHeader, Placement};
use std::{collections::VecDeque, mem};

/// One detector port of this process.
pub struct Port {
    pub socket: PortSocket,
    /// Index of its module: its packets are `module * packets_per_module + number`. Another port may bring other images
    /// of the same module.
    pub module: usize,
    pub batch: Batch,
    senders: Senders,
    /// Packets of the last batch that are still in its staging place. While there are any, the port
    /// receives no more: the kernel's buffer holds what comes, and other ports go on.
    pub parked: VecDeque<Parked>,
    /// One beyond the window that no other packet agrees with yet, out of the batch: the port receives on.
    aside: Option<Parked>,
    aside_payload: Vec<u8>,
    /// The run in which the ids of what waits were looked up.
    ids_of_epoch: u64,
    /// It is not waited for: packets came behind it whose images are far before its own, so it is none of the detector's; or
    /// it is of the run before.
    is_aside_void: bool,
    /// Image and number that follow the packet that came last.
    next: Option<(u64, usize)>,
    /// The run that this port takes part in; see [`Port::joins`].
    epoch: u64,
    /// Id of the last packet, in whatever run.
    last_id: Option<u64>,
    /// Highest id of this run that two packets in a row have shown: one stray packet is no progress.
    highest_id: Option<u64>,
    /// When a packet was last placed, or waited for; and when the socket was last seen empty.
    heard_ns: u64,
    emptied: Moment,
    packets_per_module: usize,
    packet_bytes: usize,
    /// Taken since the socket's buffer was looked at.
    unlooked_bytes: u64,
}

/// A look at a socket's buffer costs a system call: there is one when this part of it was taken, so that what is known of
/// it is not wrong by much more.
const LOOK_PART: u64 = 32;
/// What a packet takes of the buffer beyond its own bytes, at least: the kernel's books of it, and what it rounds up.
const BOOK_BYTES: usize = 768;

/// A time, and where the window began then or just before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    pub window_begin: u64,
    pub now_ns: u64,
}

/// A packet that did not come where it was expected.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    /// Its place in the batch; none if it was put aside.
    pub landed: Option<Landed>,
    pub packet: PacketHeader,
    /// When it came: it does not wait for ever.
    pub since_ns: u64,
    /// Its id, beyond the window, was found to be the detector's: it is waited for.
    pub is_believed: bool,
}

impl Port {
    pub fn new(socket: PortSocket, module: usize, placement: &Placement, senders: Senders) -> Self {
        let mut batch = Batch::new(placement);
        if !senders.is_everybody() {
            batch.ask_for_sources();
        }
        Self {
            socket,
            module,
            batch,
            senders,
            parked: VecDeque::with_capacity(crate::batch::STAGED_PACKETS),
            aside: None,
            aside_payload: Vec::new(),
            ids_of_epoch: 0,
            is_aside_void: false,
            next: None,
            epoch: 0,
            last_id: None,
            highest_id: None,
            heard_ns: 0,
            emptied: Moment::default(),
            packets_per_module: placement.packets_per_module,
            packet_bytes: placement.packet_bytes(),
            unlooked_bytes: 0,
        }
    }

    /// Whether message `m` of the batch is of somebody who is listened to.
    pub fn is_listed(&mut self, m: usize) -> bool {
        self.senders.is_everybody() || self.senders.allow(self.batch.source(m))
    }

    /// The packet that is to be expected next in this run, if one came before.
    pub fn expected(&self, epoch: u64) -> Option<(u64, usize)> {
        self.next.filter(|_| self.epoch == epoch)
    }

    /// Whether this port takes part in the run; see [`Port::joins`].
    pub fn takes_part(&self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    /// A good packet came: its successor is expected next.
    pub fn note_packet(&mut self, id: u64, number: usize, packets_per_module: usize) {
        self.next = Some(successor((id, number), packets_per_module));
    }

    /// A coalesced message held so many packets, before which `before` was the packet that was expected next.
    pub fn note_held(&mut self, before: Option<(u64, usize)>, packets: usize) {
        let is_in_order = |&(_, number): &(u64, usize)| {
            self.next.is_some_and(|(_, next)| next == (number + packets) % self.packets_per_module)
        };
        let began = before.filter(is_in_order);
        self.batch.note_held(began.map(|(_, number)| (number, packets)));
    }

    /// So many packets were taken. Whether the socket's buffer is to be looked at: it is empty, or a part of what it holds
    /// has been taken since the last look.
    pub fn is_to_be_looked_at(&mut self, packets: usize, is_emptied: bool) -> bool {
        self.unlooked_bytes += (packets * (self.packet_bytes + BOOK_BYTES)) as u64;
        let looks = self.unlooked_bytes > 0
            && (is_emptied || self.unlooked_bytes >= self.socket.receive_buffer.given_bytes / LOOK_PART);
        if looks {
            self.unlooked_bytes = 0;
        }
        looks
    }

    /// So many packets of this id were placed, one after the other.
    pub fn note_ids(&mut self, id: u64, packets: usize, now_ns: u64) {
        (0..packets.min(2)).for_each(|_| self.note_id(id, now_ns)); // two show an id, and a third shows no more
    }

    /// A packet of this id was placed.
    pub fn note_id(&mut self, id: u64, now_ns: u64) {
        let confirmed = self.last_id.map(|last_id| last_id.min(id));
        let is_stray = |aside: Parked| !aside.is_believed && id + NEAR_IDS < aside.packet.image_id;
        self.is_aside_void |= self.aside.is_some_and(is_stray);
        self.highest_id = self.highest_id.max(confirmed);
        self.last_id = Some(id);
        self.heard_ns = now_ns;
    }

    /// A packet that waits shows how far the port is: the window may move up to it once every port is as far.
    pub fn note_waiting(&mut self, id: u64, now_ns: u64) {
        self.highest_id = self.highest_id.max(Some(id));
        self.heard_ns = now_ns;
    }

    /// Whether a packet waits, in the batch or aside: it is to be looked at again though nothing comes.
    pub fn is_waiting(&self) -> bool {
        !self.parked.is_empty() || self.aside.is_some()
    }

    /// Run `epoch` goes on, or has begun: what waits from before may stand for other images in it, as `extend` says.
    pub fn renew_ids(&mut self, epoch: u64, extend: impl Fn(u64) -> u64) {
        if mem::replace(&mut self.ids_of_epoch, epoch) != epoch {
            for waiting in self.parked.iter_mut().chain(&mut self.aside) {
                waiting.packet.image_id = extend(waiting.packet.image_id);
            }
        }
    }

    /// Takes the first parked packet out of the batch. Returns the one that was aside before.
    pub fn put_aside(&mut self) -> Option<Parked> {
        let before = self.aside.take();
        if let Some(first) = self.parked.pop_front() {
            self.aside_payload.clear();
            let payload = first.landed.map(|landed| self.batch.payload(landed)).unwrap_or_default();
            self.aside_payload.extend_from_slice(payload);
            self.aside = Some(Parked { landed: None, ..first });
            self.is_aside_void = false;
        }
        before
    }

    pub fn aside(&self) -> Option<Parked> {
        self.aside
    }

    /// Whether the one that is aside is not waited for in this run.
    pub fn is_aside_void(&self, epoch: u64) -> bool {
        self.is_aside_void || self.epoch != epoch
    }

    pub fn drop_aside(&mut self) -> Option<Parked> {
        self.aside.take()
    }

    /// Lets go of all packets that wait. Returns how many.
    pub fn give_up_waiting(&mut self) -> u64 {
        let aside = u64::from(self.drop_aside().is_some());
        aside + self.parked.drain(..).len() as u64
    }

    /// The payload of a packet that waits, wherever it is.
    pub fn payload(&self, parked: &Parked) -> &[u8] {
        parked.landed.map_or(&self.aside_payload, |landed| self.batch.payload(landed))
    }

    /// Other packets that wait beside `parked`, the next ones: what it says is more likely if they say it, too.
    pub fn beside(&self, parked: &Parked) -> impl Iterator<Item = u64> {
        let (behind, other) = match parked.landed {
            Some(_) => (self.parked.get(1), self.aside.as_ref()),
            None => (self.parked.front(), None),
        };
        [behind, other].into_iter().flatten().map(|parked| parked.packet.image_id)
    }

    /// It is the detector's: whatever comes, it waits until its image opens.
    pub fn believe(&mut self, parked: &Parked) {
        let it = if parked.landed.is_some() { self.parked.front_mut() } else { self.aside.as_mut() };
        it.into_iter().for_each(|it| it.is_believed = true);
    }

    /// When a packet was last placed, or waited for.
    pub fn heard_ns(&self) -> u64 {
        self.heard_ns
    }

    /// The socket was empty: what it holds from now on came later. What waits here came before.
    pub fn note_empty(&mut self, looked: Moment) {
        if self.parked.is_empty() {
            self.emptied = looked;
        }
    }

    pub fn emptied_ns(&self) -> u64 {
        self.emptied.now_ns
    }

    /// Whether what the socket holds may be of another lap of the id's field than the window's, which begins at
    /// `window_begin` now: L5 of `laps`.
    pub fn is_out_of_step(&self, laps: &Laps, epoch: u64, window_begin: u64) -> bool {
        let seen = self.emptied.window_begin.max(self.highest_id.unwrap_or(0));
        self.epoch == epoch && laps.is_out_of_step(seen, window_begin)
    }

    /// Whether a packet of this id belongs to run `epoch`, which began after the last packet before it was
    /// placed at `run_after_ns`. A port that lagged behind still holds packets of the old run, and their
    /// ids may be open in the new one: it takes part only once its socket was empty since then, or its
    /// own ids have jumped as they do between runs.
    pub fn joins(&mut self, laps: &Laps, epoch: u64, run_after_ns: u64, id: u64) -> bool {
        if self.epoch == epoch {
            return true;
        }
        let jumped = |last_id: u64| !laps.goes_on(last_id, id);
        let joins = self.last_id.is_none_or(jumped) || self.emptied.now_ns >= run_after_ns;
        if joins {
            (self.epoch, self.highest_id, self.last_id) = (epoch, None, None);
            self.emptied.window_begin = id; // what follows is of the new run
            self.is_aside_void = true; // it came in the run before
        } else {
            self.last_id = Some(id);
        }
        joins
    }
}

/// The packet after this one, as a detector sends them.
pub fn successor((id, number): (u64, usize), packets_per_module: usize) -> (u64, usize) {
    if number + 1 < packets_per_module { (id, number + 1) } else { (id + 1, 0) }
}

/// How far these ports are: the lowest of their highest ids, ports that are silent left out. A port is
/// silent when nothing was placed for `deadline_ns` since it, or any of them after a pause, was heard.
pub struct Progress {
    deadline_ns: u64,
    last_packet_ns: u64,
    resumed_ns: u64,
}

impl Progress {
    pub fn new(deadline_ns: u64) -> Self {
        Self { deadline_ns, last_packet_ns: 0, resumed_ns: 0 }
    }

    pub fn note_packets(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.last_packet_ns) > self.deadline_ns {
            self.resumed_ns = now_ns;
        }
        self.last_packet_ns = now_ns;
    }

    /// None while a port that may still speak has not.
    pub fn of(&self, ports: &[Port], epoch: u64, now_ns: u64) -> Option<u64> {
        let heard_ns = |port: &Port| port.heard_ns.max(self.resumed_ns);
        let speaking = ports.iter().filter(|port| now_ns.saturating_sub(heard_ns(port)) < self.deadline_ns);
        speaking.map(|port| port.highest_id.filter(|_| port.epoch == epoch)).try_fold(
            None,
            |lowest: Option<u64>, highest| {
                let highest = highest?;
                Some(Some(lowest.map_or(highest, |lowest| lowest.min(highest))))
            },
        )?
    }
}

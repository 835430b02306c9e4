//! Whether a ring's invariants hold, as far as the file alone can tell.
//!
//! | | holds at every moment, also in a ring whose owner was killed |
//! |---|---|
//! | K1 | the window is a row of ids from the base on, each at its own index, each slot in it once |
//! | K2 | a slot of the window is open, with that image of this run; or it is just being closed |
//! | K3 | a slot's state is one of four; sequences of committed slots are their own, and below the head |
//! | K4 | each step from the reclaimed one to the head is in its entry, and its image in a committed slot |
//! | K5 | a committed image has as many packets marked as it says, and no bit beyond its packets |
//! | K6 | cursors are not beyond the head; what a living reliable reader wants is there |
//! | K7 | hazard words name slots that there are |
//! | K8 | the counters are not more than the steps, nor images than were opened; no more slots in quarantine than there are |
//! | K9 | words of a run name this one, or the one before or after |
//! | K10 | losses of one step rise, and end where the step says that all is accounted for |

use super::{CommitSeen, Inspection, Seat, SlotOfImage, SlotSeen, StateSeen, look_at};
use crate::{
    limits::IMAGE_ID_MAX,
    mapping::{self, RingError},
    participant::Role,
    process::Liveness,
};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// How often a ring in which something is wrong is looked at: what is wrong in each look is wrong; what was only
/// in motion is somewhere else in the next one.
pub const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(3);

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The rule of the module header, and what it is of: the same in each look.
    pub rule: &'static str,
    pub of: String,
    pub found: String,
}

/// Looks at a ring, and tells what is wrong with it.
///
/// # Errors
/// It is missing, or not a ring of this version, or cut.
pub fn check(path: &Path, liveness: &dyn Liveness) -> Result<(Inspection, Vec<Fault>), RingError> {
    let ring = mapping::open_to_look(path)?;
    let mut seen = look_at(&ring, liveness);
    let mut faults = faults(&seen);
    for _ in 1..LOOKS {
        if faults.is_empty() {
            break;
        }
        std::thread::sleep(BETWEEN_LOOKS);
        seen = look_at(&ring, liveness);
        let again = self::faults(&seen);
        faults = again.into_iter().filter(|fault| faults.iter().any(|old| old.is_same(fault))).collect();
    }
    Ok((seen, faults))
}

impl Fault {
    fn new(rule: &'static str, of: impl Into<String>, found: impl Into<String>) -> Self {
        Self { rule, of: of.into(), found: found.into() }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.rule == other.rule && self.of == other.of
    }
}

/// What is wrong in one look.
fn faults(seen: &Inspection) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_run_words(seen, &mut faults);
    check_window(seen, &mut faults);
    check_slots(seen, &mut faults);
    seen.commits.iter().for_each(|step| check_step(seen, step, &mut faults));
    seen.seats.iter().for_each(|seat| check_seat(seen, seat, &mut faults));
    check_counters(seen, &mut faults);
    faults
}

fn check_run_words(seen: &Inspection, faults: &mut Vec<Fault>) {
    let tag = |epoch: u64| epoch & 0xffff;
    let (now, next) = (tag(seen.epoch), tag(seen.epoch.wrapping_add(1)));
    let is_near = |epoch: u64| epoch == now || epoch == next;
    if seen.base.id.is_some() && !is_near(seen.base.epoch) || seen.epoch > 0 && seen.base.id.is_none() {
        faults.push(Fault::new("K9", "base", format!("{:?} in run {}", seen.base, seen.epoch)));
    }
    if seen.reclaimed_seq > seen.later.commit_head {
        let found = format!("{} are reclaimed, the head is at {}", seen.reclaimed_seq, seen.later.commit_head);
        faults.push(Fault::new("K4", "reclaimed", found));
    }
}

fn check_window(seen: &Inspection, faults: &mut Vec<Fault>) {
    let window = u64::from(seen.geometry.window);
    let (base, later_base) = (seen.base.id.unwrap_or(0), seen.later.base.id.unwrap_or(0));
    let end = later_base.saturating_add(window);
    let mut used = BTreeSet::new();
    // A run that begins moves the base anywhere; its window is looked at in the next look.
    if seen.base.epoch != seen.later.base.epoch {
        return;
    }
    for entry in &seen.window {
        let of = || format!("window entry {}", entry.index);
        let is_in_row = (base..=end).contains(&entry.id); // the last one may be opened before the base moves
        if entry.id % window != entry.index as u64 || !is_in_row || entry.id > IMAGE_ID_MAX.saturating_add(window) {
            faults.push(Fault::new("K1", of(), format!("image {}, the base is at {base}", entry.id)));
        }
        let SlotOfImage::Slot(slot) = entry.slot else { continue };
        if !seen.later.window.contains(entry) {
            continue; // closed meanwhile
        }
        if !used.insert(slot) {
            faults.push(Fault::new("K1", of(), format!("slot {slot} is in the window twice")));
        }
        match seen.slots.get(slot as usize) {
            None => faults.push(Fault::new("K1", of(), format!("slot {slot} of {}", seen.slots.len()))),
            Some(found) if is_open_with(found, entry.id, seen.epoch) => {}
            Some(found) => {
                let found = format!("image {} is in slot {slot}, which is {found:?}", entry.id);
                faults.push(Fault::new("K2", of(), found));
            }
        }
    }
}

fn is_open_with(slot: &SlotSeen, id: u64, epoch: u64) -> bool {
    slot.state == StateSeen::Open && slot.image_id == id && slot.epoch == epoch
}

fn check_slots(seen: &Inspection, faults: &mut Vec<Fault>) {
    let mut sequences = BTreeSet::new();
    for slot in &seen.slots {
        let of = || format!("slot {}", slot.slot);
        if slot.state == StateSeen::Unknown {
            faults.push(Fault::new("K3", of(), "bits that no owner writes"));
        }
        if slot.state != StateSeen::Committed {
            continue;
        }
        // An owner may have died between the slot's word and the head.
        if slot.tag > seen.later.commit_head || !sequences.insert(slot.tag) {
            let found = format!("sequence {}, the head is at {}", slot.tag, seen.later.commit_head);
            faults.push(Fault::new("K3", of(), found));
        }
        if slot.is_steady && (slot.packets_marked != slot.packets_received || slot.stray_bits > 0) {
            let found = format!(
                "{} packets, {} marked, {} bits beyond them",
                slot.packets_received, slot.packets_marked, slot.stray_bits
            );
            faults.push(Fault::new("K5", of(), found));
        }
    }
}

fn check_step(seen: &Inspection, step: &CommitSeen, faults: &mut Vec<Fault>) {
    let of = || format!("sequence {}", step.seq);
    if step.seq < seen.later.reclaimed_seq {
        return; // taken back meanwhile
    }
    if step.found != Some(step.seq) {
        faults.push(Fault::new("K4", of(), format!("its entry names {:?}", step.found)));
        return;
    }
    let holds = |slot: u32| {
        let slot = seen.slots.get(slot as usize);
        slot.is_some_and(|slot| slot.holds(step.seq) && slot.epoch == step.epoch)
    };
    if let Some(slot) = step.slot.filter(|&slot| !holds(slot)) {
        let found = seen.slots.get(slot as usize);
        faults.push(Fault::new("K4", of(), format!("slot {slot} does not hold it: {found:?}")));
    }
    if step.epoch > seen.epoch {
        faults.push(Fault::new("K9", of(), format!("run {}, this one is {}", step.epoch, seen.epoch)));
    }
    let mut next = 0;
    for range in &step.lost {
        let end = range.first_id.saturating_add(range.count);
        if range.count == 0 || range.first_id < next || end > step.accounted_id {
            faults.push(Fault::new("K10", of(), format!("{range:?}, accounted to {}", step.accounted_id)));
        }
        next = end;
    }
}

fn check_seat(seen: &Inspection, seat: &Seat, faults: &mut Vec<Fault>) {
    let of = || format!("place {}", seat.place);
    let role = seat.status.role;
    if role.reads() && seat.cursor > seen.later.commit_head {
        let found = format!("its cursor is at {}, the head at {}", seat.cursor, seen.later.commit_head);
        faults.push(Fault::new("K6", of(), found));
    }
    if role == Role::ReliableReader
        && seat.is_alive
        && let Some((step, false)) = &seat.wants
    {
        faults.push(Fault::new("K6", of(), format!("it wants sequence {}, which is gone: {step:?}", step.seq)));
    }
    if let Some(slot) = seat.inside.iter().find(|&&slot| slot as usize >= seen.slots.len()) {
        faults.push(Fault::new("K7", of(), format!("it is inside slot {slot} of {}", seen.slots.len())));
    }
}

fn check_counters(seen: &Inspection, faults: &mut Vec<Fault>) {
    let status = &seen.status;
    let images = status.images_complete.saturating_add(status.images_partial);
    // The head was read behind the counters. One may be counted and not published: the journal takes it back.
    let steps = seen.later.commit_head;
    if images > steps.saturating_add(1) {
        faults.push(Fault::new("K8", "images", format!("{images} in {steps} steps")));
    }
    let closed = images.saturating_add(status.images_discarded);
    if closed > status.images_opened {
        faults.push(Fault::new("K8", "opened", format!("{} opened, {closed} closed", status.images_opened)));
    }
    if status.slots_in_quarantine > u64::from(status.slots) {
        faults.push(Fault::new(
            "K8",
            "quarantine",
            format!("{} of {} slots", status.slots_in_quarantine, status.slots),
        ));
    }
}

//! `ecs-cli ring`: what is in a ring, live or left over. It asks nobody and changes nothing.

use crate::{
    exit::Exit,
    human, report,
    table::{Cell, Mood, Table},
};
use clap::{Args, Subcommand};
use ecs_shm_buffer::{
    LossCause, Proc, Role,
    inspect::{self, Fault, Inspection, RunWord, Seat, SlotOfImage, SlotSeen, StateSeen},
};
use serde_json::{Value, json};
use std::{
    io::{self, Write},
    path::PathBuf,
};

const STAT_EXAMPLES: &str = "\
Examples:
  ecs-cli ring stat /dev/shm/ecs-x01.ring
  ecs-cli ring stat /dev/shm/ecs-x01.ring --json";

const DUMP_EXAMPLES: &str = "\
Examples:
  ecs-cli ring dump /dev/shm/ecs-x01.ring
  ecs-cli ring dump /dev/shm/ecs-x01.ring --json";

const CHECK_EXAMPLES: &str = "\
Examples:
  ecs-cli ring check /dev/shm/ecs-x01.ring
  ecs-cli ring check /dev/shm/ecs-x01.ring --json || echo broken

Exit code 1 and what is wrong, if a rule of the ring does not hold; the rules are in shm-buffer/src/inspect/check.rs.";

/// Look at a ring: live or left over, with nobody's help, changing nothing.
#[derive(Debug, Args)]
pub struct Ring {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Geometry, owner, participants, slots and counters
    #[command(after_help = STAT_EXAMPLES)]
    Stat(Target),
    /// The same, and every slot, window entry and commit step
    #[command(after_help = DUMP_EXAMPLES)]
    Dump(Target),
    /// Whether the ring's invariants hold
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Target),
}

#[derive(Debug, Args)]
struct Target {
    /// The ring's file: `ring.path` of the beamline's file
    path: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

impl Ring {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.what {
            What::Stat(target) => target.show(false),
            What::Dump(target) => target.show(true),
            What::Check(target) => target.check(),
        }
    }
}

impl Target {
    fn show(&self, with_all: bool) -> anyhow::Result<Exit> {
        let seen = inspect::look(&self.path, &Proc)?;
        if self.json {
            report::print_json(&as_json(&seen, with_all))?;
            return Ok(Exit::Ok);
        }
        writeln!(io::stdout(), "ring {}\n", self.path.display())?;
        summary(&seen).print()?;
        print_unless_empty(&participants(&seen))?;
        if with_all {
            print_unless_empty(&slots(&seen))?;
            print_unless_empty(&window(&seen))?;
            print_unless_empty(&steps(&seen))?;
        }
        print_unless_empty(&counters(&seen))?;
        Ok(Exit::Ok)
    }

    fn check(&self) -> anyhow::Result<Exit> {
        let (_, faults) = inspect::check(&self.path, &Proc)?;
        if self.json {
            let all: Vec<Value> = faults.iter().map(fault_as_json).collect();
            report::print_json(&json!({ "is_whole": faults.is_empty(), "faults": all }))?;
        } else if faults.is_empty() {
            writeln!(io::stdout(), "ring {} is whole", self.path.display())?;
        } else {
            let mut table = Table::new(["rule", "of", "found"]);
            for fault in &faults {
                table.row([Cell::new(fault.rule, Mood::Bad), fault.of.clone().into(), fault.found.clone().into()]);
            }
            table.print()?;
        }
        Ok(if faults.is_empty() { Exit::Ok } else { Exit::Error })
    }
}

fn print_unless_empty(table: &Table) -> io::Result<()> {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(io::stdout())?;
    table.print()
}

fn summary(seen: &Inspection) -> Table {
    let geometry = &seen.geometry;
    let count = |state| seen.slots.iter().filter(|slot| slot.state == state).count();
    let image = format!("{} x {} of {} bytes", geometry.height, geometry.width, geometry.pixel_bytes);
    let states = format!(
        "{} committed, {} open, {} closing, {} free",
        count(StateSeen::Committed),
        count(StateSeen::Open),
        count(StateSeen::Closing),
        count(StateSeen::Free)
    );
    let mut table = Table::new([]);
    table.row(["owner".into(), owner(seen)]);
    table.row(["size".into(), human::bytes(seen.file_bytes as f64).into()]);
    table.row([
        "images".into(),
        format!("{image}, {} packets, fill {:#x}", geometry.packets_per_image, geometry.fill).into(),
    ]);
    table.row(["slots".into(), format!("{}: {states}", geometry.slots).into()]);
    table.row(["window".into(), format!("{} images, from {}", geometry.window, run_word(seen.base)).into()]);
    table.row(["run".into(), format!("{}, counted from {}", seen.epoch, run_word(seen.counts_from)).into()]);
    let steps = format!("{}, {} of them still there", human::count(seen.commit_head), seen.commits.len());
    table.row(["steps".into(), steps.into()]);
    table
}

fn owner(seen: &Inspection) -> Cell {
    match seen.owner {
        _ if seen.is_closed => Cell::new("none: it was closed", Mood::Warning),
        None => Cell::new("none yet", Mood::Warning),
        Some(owner) if owner.is_alive => {
            Cell::new(format!("process {}, the {}. owner", owner.process.pid, owner.owners), Mood::Good)
        }
        Some(owner) => Cell::new(format!("process {}, which is dead", owner.process.pid), Mood::Bad),
    }
}

fn run_word(word: RunWord) -> String {
    word.id.map_or_else(|| "none".to_owned(), |id| format!("image {id}"))
}

fn participants(seen: &Inspection) -> Table {
    let mut table = Table::new([
        "place",
        "name",
        "role",
        "process",
        "delivered",
        "behind",
        "overtaken",
        "refused",
        "inside",
        "packets",
    ]);
    for seat in &seen.seats {
        let process = match seat.is_alive {
            true => Cell::new(format!("{}", seat.status.process.pid), Mood::Good),
            false => Cell::new(format!("{}, dead", seat.status.process.pid), Mood::Bad),
        };
        let (is_reader, inside) = (reads(seat), seat.inside.iter().map(u32::to_string).collect::<Vec<_>>());
        let of_reader = |number: u64| if is_reader { human::count(number) } else { String::new() };
        let packets = if is_reader { String::new() } else { human::count(seat.status.packets.received) };
        table.row([
            seat.place.to_string().into(),
            seat.status.name.as_str().into(),
            role(seat.status.role).into(),
            process,
            of_reader(seat.status.delivered).into(),
            of_reader(seat.status.behind).into(),
            of_reader(seat.status.overtaken).into(),
            of_reader(seat.status.refused).into(),
            inside.join(" ").into(),
            packets.into(),
        ]);
    }
    table
}

fn reads(seat: &Seat) -> bool {
    matches!(seat.status.role, Role::ReliableReader | Role::LossyReader)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Joining => "joining",
        Role::Contributor => "contributor",
        Role::ReliableReader => "reliable reader",
        Role::LossyReader => "lossy reader",
    }
}

fn state(state: StateSeen) -> &'static str {
    match state {
        StateSeen::Free => "free",
        StateSeen::Open => "open",
        StateSeen::Closing => "closing",
        StateSeen::Committed => "committed",
        StateSeen::Unknown => "unknown",
    }
}

fn slots(seen: &Inspection) -> Table {
    let mut table = Table::new(["slot", "state", "sequence", "run", "image", "packets", "marked"]);
    for slot in &seen.slots {
        let is_used = slot.state != StateSeen::Free;
        let text = |text: String| Cell::from(if is_used { text } else { String::new() });
        table.row([
            slot.slot.to_string().into(),
            state(slot.state).into(),
            Cell::from(sequence(slot).map_or_else(String::new, |seq| seq.to_string())),
            text(slot.epoch.to_string()),
            text(slot.image_id.to_string()),
            text(slot.packets_received.to_string()),
            text(slot.packets_marked.to_string()),
        ]);
    }
    table
}

fn sequence(slot: &SlotSeen) -> Option<u64> {
    (slot.state == StateSeen::Committed).then_some(slot.tag)
}

fn window(seen: &Inspection) -> Table {
    let mut table = Table::new(["window", "image", "slot"]);
    for entry in &seen.window {
        let slot = match entry.slot {
            SlotOfImage::Slot(slot) => slot.to_string(),
            SlotOfImage::NoSlot => "none free".to_owned(),
            SlotOfImage::Refused => "none free, lost".to_owned(),
        };
        table.row([entry.index.to_string().into(), entry.id.to_string().into(), slot.into()]);
    }
    table
}

fn steps(seen: &Inspection) -> Table {
    let mut table = Table::new(["sequence", "run", "slot", "ids up to", "lost before"]);
    for step in &seen.commits {
        let lost = step.lost.iter().map(|range| format!("{} from {}: {:?}", range.count, range.first_id, range.cause));
        table.row([
            step.seq.to_string().into(),
            step.epoch.to_string().into(),
            step.slot.map_or_else(|| "none".to_owned(), |slot| slot.to_string()).into(),
            step.accounted_id.to_string().into(),
            lost.collect::<Vec<_>>().join(", ").into(),
        ]);
    }
    table
}

/// Counters by name; those of the packets are of all contributors, also of those that left.
fn numbers(seen: &Inspection) -> Vec<(&'static str, u64)> {
    let (status, packets) = (&seen.status, &seen.status.packets);
    let mut numbers = vec![
        ("images_complete", status.images_complete),
        ("images_partial", status.images_partial),
        ("images_opened", status.images_opened),
        ("images_open", status.images_open),
        ("images_discarded", status.images_discarded),
        ("missing_packets", status.missing_packets),
        ("slots_in_quarantine", status.slots_in_quarantine),
    ];
    let names = ["lost_not_received", "lost_ring_full", "lost_readout_stuck", "lost_assembler_down", "lost_several"];
    const { assert!(LossCause::ALL.len() == 5) };
    numbers.extend(names.into_iter().zip(status.lost));
    numbers.extend([
        ("packets_received", packets.received),
        ("packets_placed", packets.placed),
        ("packets_moved", packets.moved),
        ("dropped_duplicate", packets.duplicate),
        ("dropped_late", packets.late),
        ("dropped_early", packets.early),
        ("dropped_no_slot", packets.no_slot),
        ("dropped_foreign", packets.foreign),
        ("dropped_malformed", packets.malformed),
        ("dropped_shed", packets.shed),
        ("dropped_unlisted", packets.unlisted),
        ("dropped_by_kernel", packets.kernel_dropped),
        ("bytes", packets.bytes),
    ]);
    numbers
}

fn counters(seen: &Inspection) -> Table {
    let mut table = Table::new(["counter", ""]);
    for (name, value) in numbers(seen).into_iter().filter(|(_, value)| *value > 0) {
        table.row([name.replace('_', " ").into(), human::count(value).into()]);
    }
    table
}

fn fault_as_json(fault: &Fault) -> Value {
    json!({ "rule": fault.rule, "of": fault.of, "found": fault.found })
}

fn as_json(seen: &Inspection, with_all: bool) -> Value {
    let geometry = &seen.geometry;
    let owner =
        seen.owner.map(|owner| json!({ "pid": owner.process.pid, "is_alive": owner.is_alive, "owners": owner.owners }));
    let seats = seen.seats.iter().map(|seat| {
        json!({
            "place": seat.place, "name": seat.status.name, "role": role(seat.status.role),
            "pid": seat.status.process.pid, "is_alive": seat.is_alive, "inside": seat.inside,
            "behind": seat.status.behind, "overtaken": seat.status.overtaken, "delivered": seat.status.delivered,
            "refused": seat.status.refused, "cursor": reads(seat).then_some(seat.cursor),
            "packets_received": seat.status.packets.received,
        })
    });
    let mut all = json!({
        "geometry": {
            "slots": geometry.slots, "window": geometry.window, "height": geometry.height, "width": geometry.width,
            "pixel_bytes": geometry.pixel_bytes, "packets_per_image": geometry.packets_per_image, "fill": geometry.fill,
        },
        "file_bytes": seen.file_bytes, "owner": owner, "is_closed": seen.is_closed, "run": seen.epoch,
        "base": seen.base.id, "counts_from": seen.counts_from.id, "commit_head": seen.commit_head,
        "reclaimed_seq": seen.reclaimed_seq, "participants": seats.collect::<Vec<_>>(),
        "counters": numbers(seen).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    if with_all {
        all["slots"] = seen.slots.iter().map(slot_as_json).collect();
        all["window"] = seen
            .window
            .iter()
            .map(|entry| {
                let slot = if let SlotOfImage::Slot(slot) = entry.slot { Some(slot) } else { None };
                json!({ "image": entry.id, "slot": slot, "is_refused": entry.slot == SlotOfImage::Refused })
            })
            .collect();
        all["steps"] = seen
            .commits
            .iter()
            .map(|step| {
                let lost = step.lost.iter().map(|range| {
                json!({ "first_id": range.first_id, "count": range.count, "cause": format!("{:?}", range.cause) })
            });
                json!({
                    "sequence": step.seq, "run": step.epoch, "slot": step.slot, "lost": lost.collect::<Vec<_>>(),
                    "commit_utc_ns": step.slot.map(|_| step.commit_utc_ns),
                })
            })
            .collect();
    }
    all
}

fn slot_as_json(slot: &SlotSeen) -> Value {
    json!({
        "slot": slot.slot, "state": state(slot.state), "sequence": sequence(slot), "run": slot.epoch,
        "image": slot.image_id, "packets_received": slot.packets_received, "packets_marked": slot.packets_marked,
    })
}

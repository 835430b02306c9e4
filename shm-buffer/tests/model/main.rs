//! Random operations against a plain sequential model; the invariants are checked after each of them.
//!
//! The model is what a notebook could hold: which packets were placed in which image, who hangs, who
//! died. `PROPTEST_CASES` raises the number of cases; a failure prints the operations that lead to it
//! and is kept under `proptest-regressions`.

#[path = "../common/mod.rs"]
mod common;
mod world;

use proptest::prelude::*;
use world::{LANES, World};

/// What may happen. Ids are told relative to the lowest open one; lanes are disjoint sets of packets.
#[derive(Debug, Clone)]
enum Op {
    Place { lane: usize, ahead: i64, packets: u8 },
    PlaceWhole { ahead: i64 },
    Refuse { lane: usize, ahead: i64 },
    Jump { ids: u64 },
    Progress { lane: usize, ahead: Option<i64> },
    Restart { lane: usize, id: u64 },
    Hang { lane: usize, ahead: i64 },
    Step { ns: u64 },
    JoinReader { reliable: bool, from_oldest: bool },
    Read { reader: usize, steps: usize },
    LeaveReader { reader: usize },
    KillReader { reader: usize },
    LeaveContributor { lane: usize },
    KillContributor { lane: usize, inside_ahead: Option<i64> },
    KillOwner,
    KillOwnerFilling { ns: u64 },
    KillOwnerAsking { questions: u32, ns: u64 },
    Reopen,
}

fn ahead() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0..4_i64, 2 => -3..8_i64, 1 => -20..40_i64]
}

fn nanoseconds() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..2_000_000_u64, 2 => Just(common::DEADLINE_NS), 1 => Just(100_000_000_u64)]
}

fn op() -> impl Strategy<Value = Op> {
    let lane = 0..LANES;
    let reader = 0..4_usize;
    prop_oneof![
        20 => (lane.clone(), ahead(), any::<u8>()).prop_map(|(lane, ahead, packets)| Op::Place { lane, ahead, packets }),
        20 => (0..3_i64).prop_map(|ahead| Op::PlaceWhole { ahead }),
        3 => (lane.clone(), ahead()).prop_map(|(lane, ahead)| Op::Refuse { lane, ahead }),
        1 => (0..1_u64 << 40).prop_map(|ids| Op::Jump { ids }),
        5 => (lane.clone(), prop::option::of(ahead())).prop_map(|(lane, ahead)| Op::Progress { lane, ahead }),
        3 => (lane.clone(), 0..30_u64).prop_map(|(lane, id)| Op::Restart { lane, id }),
        1 => (lane.clone(), 0..3_i64).prop_map(|(lane, ahead)| Op::Hang { lane, ahead }),
        25 => nanoseconds().prop_map(|ns| Op::Step { ns }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(reliable, from_oldest)| Op::JoinReader { reliable, from_oldest }),
        12 => (reader.clone(), 1..6_usize).prop_map(|(reader, steps)| Op::Read { reader, steps }),
        1 => reader.clone().prop_map(|reader| Op::LeaveReader { reader }),
        1 => reader.prop_map(|reader| Op::KillReader { reader }),
        1 => lane.clone().prop_map(|lane| Op::LeaveContributor { lane }),
        1 => (lane, prop::option::of(0..3_i64)).prop_map(|(lane, inside_ahead)| Op::KillContributor { lane, inside_ahead }),
        1 => Just(Op::KillOwner),
        1 => nanoseconds().prop_map(|ns| Op::KillOwnerFilling { ns }),
        1 => (1..6_u32, nanoseconds()).prop_map(|(questions, ns)| Op::KillOwnerAsking { questions, ns }),
        1 => Just(Op::Reopen),
    ]
}

fn apply(world: &mut World, op: &Op) {
    match *op {
        Op::Place { lane, ahead, packets } => world.place(lane, ahead, packets),
        Op::PlaceWhole { ahead } => (0..LANES).for_each(|lane| world.place(lane, ahead, u8::MAX)),
        Op::Refuse { lane, ahead } => world.refuse(lane, ahead),
        Op::Jump { ids } => world.jump(ids),
        Op::Progress { lane, ahead } => world.progress(lane, ahead),
        Op::Restart { lane, id } => world.tell(lane, |contributor, _| contributor.request_run(id)),
        Op::Hang { lane, ahead } => world.hang(lane, ahead),
        Op::Step { ns } => world.step(ns),
        Op::JoinReader { reliable, from_oldest } => world.join_reader(reliable, from_oldest),
        Op::Read { reader, steps } => world.read(reader, steps),
        Op::LeaveReader { reader } => world.leave_reader(reader),
        Op::KillReader { reader } => world.kill_reader(reader),
        Op::LeaveContributor { lane } => world.leave_contributor(lane),
        Op::KillContributor { lane, inside_ahead } => world.kill_contributor(lane, inside_ahead),
        Op::KillOwner => world.replace_owner(),
        Op::KillOwnerFilling { ns } => world.kill_owner_filling(ns),
        Op::KillOwnerAsking { questions, ns } => world.kill_owner_asking(questions, ns),
        Op::Reopen => world.reopen(),
    }
}

proptest! {
    #[test]
    fn any_operations_in_any_order_keep_the_invariants(
        window in 1..=4_u32,
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let _watchdog = common::Watchdog::start(std::time::Duration::from_secs(60));
        let mut world = World::new(window);
        for op in &ops {
            apply(&mut world, op);
            world.check();
        }
        world.end();
    }
}

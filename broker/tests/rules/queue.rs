//! The queues: who gets the next job, and what people change.

use crate::world::{TIMEOUT_S, World, code, submit_write};
use ecs_broker::core::Input;
use ecs_schemas::{
    error_code::ErrorCode,
    job::{CancelJob, GetJob, HoldJob, JobId, JobRecord, JobState, ListJobs, MoveJob, ReleaseJob, Submit},
    registry::ServiceOffer,
};

const ONE: JobId = JobId(1);
const TWO: JobId = JobId(2);
const THREE: JobId = JobId(3);

fn service(name: &str, jobs_at_once: u32) -> ServiceOffer {
    ServiceOffer { jobs_at_once, ..ServiceOffer::new(name) }
}

fn submit_to(world: &mut World, service: &str, key: &str) -> JobId {
    let submit = Submit { service: service.to_owned(), key: key.to_owned(), ..Submit::default() };
    world.ask("client", &submit).unwrap().id
}

fn to_priority(id: JobId, priority: i32) -> MoveJob {
    MoveJob { id, priority: Some(priority), before: None }
}

fn to_before(id: JobId, before: JobId) -> MoveJob {
    MoveJob { id, priority: None, before: Some(before) }
}

/// A world whose writer has job 1, and jobs 2 to `last` wait.
fn with_waiting(last: u64) -> World {
    let mut world = World::with_writer();
    (1..=last).for_each(|number| drop(world.submit(&number.to_string()).unwrap()));
    assert_eq!(world.runs("a"), [ONE]);
    world
}

/// The jobs in the order in which the writer gets them, one after the other.
fn order_of_runs(world: &mut World) -> Vec<u64> {
    let mut order = vec![];
    let mut current = ONE;
    loop {
        world.report("a", current, JobState::Done).unwrap();
        match world.runs("a")[..] {
            [next] => current = next,
            [] => return order,
            _ => panic!("one at a time"),
        }
        order.push(current.0);
    }
}

/// Places in the queue by job, as the list shows them.
fn positions(world: &mut World) -> Vec<(u64, u32)> {
    let list = world.ask("client", &ListJobs { limit: 100, ..ListJobs::default() }).unwrap();
    let mut positions: Vec<_> = list.jobs.iter().filter_map(|job| Some((job.position?, job.id.0))).collect();
    positions.sort_unstable();
    positions.into_iter().map(|(position, id)| (id, position)).collect()
}

#[test]
fn agent_gets_as_many_jobs_of_each_service_as_it_says_and_no_more() {
    let mut world = World::new();
    world.offer("a", &[service("write", 1), service("reduce", 2)]).unwrap();
    for (number, name) in ["reduce", "write", "reduce", "reduce", "write"].iter().enumerate() {
        submit_to(&mut world, name, &number.to_string());
    }
    assert_eq!(world.runs("a"), [JobId(1), JobId(2), JobId(3)], "a full queue does not stop the other one");
    world.report("a", JobId(2), JobState::Failed).unwrap();
    assert_eq!(world.runs("a"), [JobId(5)]);
    world.report("a", JobId(1), JobState::Done).unwrap();
    assert_eq!(world.runs("a"), [JobId(4)]);
}

#[test]
fn jobs_go_to_the_agent_that_has_fewest_of_their_service() {
    let mut world = World::new();
    world.offer("a", &[service("reduce", 3)]).unwrap();
    world.offer("b", &[service("reduce", 2)]).unwrap();
    for number in 0..6 {
        submit_to(&mut world, "reduce", &number.to_string());
    }
    assert_eq!((world.runs("a"), world.runs("b")), (vec![ONE, THREE, JobId(5)], vec![TWO, JobId(4)]));
    assert_eq!(world.state(JobId(6)), JobState::Submitted);
}

#[test]
fn second_request_while_one_runs_waits_and_is_done_then() {
    let mut world = with_waiting(2);
    world.report("a", ONE, JobState::Running).unwrap();
    world.pass(60, &["a"]);
    assert_eq!((world.state(TWO), world.job(TWO).position), (JobState::Submitted, Some(1)));
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.runs("a"), [TWO]);
}

#[test]
fn higher_priority_goes_first_and_equal_ones_by_age() {
    let mut world = with_waiting(3);
    for (key, priority) in [("low", -1), ("high", 5), ("high too", 5), ("highest", i32::MAX)] {
        world.ask("client", &Submit { priority, ..submit_write(key) }).unwrap();
    }
    assert_eq!(positions(&mut world), [(7, 1), (5, 2), (6, 3), (2, 4), (3, 5), (4, 6)]);
    assert_eq!(order_of_runs(&mut world), [7, 5, 6, 2, 3, 4]);
}

#[test]
fn held_job_is_passed_over_keeps_its_place_and_runs_when_it_is_released() {
    let mut world = with_waiting(4);
    assert!(world.ask("client", &HoldJob { id: TWO }).unwrap().held);
    assert!(world.ask("client", &HoldJob { id: TWO }).unwrap().held, "again is once");
    assert_eq!(positions(&mut world), [(3, 1), (4, 2)]);
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.runs("a"), [THREE]);
    let released = world.ask("client", &ReleaseJob { id: TWO }).unwrap();
    assert_eq!((released.held, released.position), (false, Some(1)), "before the younger one");
    world.report("a", THREE, JobState::Done).unwrap();
    assert_eq!(world.runs("a"), [TWO]);
    assert_eq!(world.ask("client", &ReleaseJob { id: TWO }).unwrap().agent.as_deref(), Some("x01/writer"));
}

#[test]
fn job_submitted_held_waits_though_an_agent_is_free_and_ends_when_it_is_cancelled() {
    let mut world = World::with_writer();
    for key in ["k", "other"] {
        let record = world.ask("client", &Submit { hold: true, ..submit_write(key) }).unwrap();
        assert_eq!((record.held, record.position), (true, None));
    }
    world.pass(5, &["a"]);
    assert_eq!(world.runs("a"), []);
    world.ask("client", &ReleaseJob { id: ONE }).unwrap();
    assert_eq!(world.runs("a"), [ONE]);
    let ended = world.ask("client", &CancelJob { id: TWO }).unwrap();
    assert_eq!((ended.state, ended.held), (JobState::Cancelled, false));
}

#[test]
fn job_that_an_agent_has_or_that_has_ended_is_neither_held_nor_moved() {
    let mut world = with_waiting(2);
    for state in [JobState::Accepted, JobState::Running, JobState::Done] {
        for target in [to_priority(ONE, 1), to_before(ONE, TWO), to_before(TWO, ONE)] {
            assert_eq!(code(world.ask("client", &target)), ErrorCode::Conflict, "{target:?}");
        }
        let refusal = world.ask("client", &HoldJob { id: ONE }).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Conflict);
        assert!(refusal.message.contains("only a job that waits can be held"), "{refusal}");
        world.report("a", ONE, state).unwrap();
    }
    assert_eq!(code(world.ask("client", &HoldJob { id: THREE })), ErrorCode::NoSuchJob);
    assert_eq!(code(world.ask("client", &ReleaseJob { id: THREE })), ErrorCode::NoSuchJob);
    assert!(!world.job(ONE).held);
}

#[test]
fn move_to_a_priority_or_before_a_job_changes_who_is_next() {
    let mut world = with_waiting(6);
    world.ask("client", &to_before(JobId(6), THREE)).unwrap();
    world.ask("client", &to_priority(JobId(4), 9)).unwrap();
    let moved = world.ask("client", &to_before(JobId(5), JobId(4))).unwrap();
    assert_eq!((moved.priority, moved.position), (9, Some(1)), "it takes the priority of the one it is before");
    assert_eq!(positions(&mut world), [(5, 1), (4, 2), (2, 3), (6, 4), (3, 5)]);
    world.ask("client", &to_priority(JobId(6), 0)).unwrap();
    assert_eq!(positions(&mut world), [(5, 1), (4, 2), (2, 3), (3, 4), (6, 5)], "by its age again");
    assert_eq!(order_of_runs(&mut world), [5, 4, 2, 3, 6]);
}

#[test]
fn move_to_nowhere_to_two_places_or_to_another_queue_is_refused() {
    let mut world = with_waiting(3);
    world.offer("b", &[service("reduce", 1)]).unwrap();
    let running = submit_to(&mut world, "reduce", "r1");
    let other = submit_to(&mut world, "reduce", "r2");
    let cases = [
        (MoveJob { id: TWO, priority: None, before: None }, ErrorCode::BadParameter),
        (MoveJob { id: TWO, priority: Some(1), before: Some(THREE) }, ErrorCode::BadParameter),
        (to_before(TWO, TWO), ErrorCode::BadParameter),
        (to_before(TWO, other), ErrorCode::BadParameter),
        (to_before(TWO, running), ErrorCode::Conflict),
        (to_before(TWO, JobId(99)), ErrorCode::NoSuchJob),
        (to_priority(JobId(99), 1), ErrorCode::NoSuchJob),
    ];
    let before = world.disk.jobs.clone();
    for (order, expected) in cases {
        assert_eq!(code(world.ask("client", &order)), expected, "{order:?}");
    }
    assert_eq!(world.disk.jobs, before, "a refused move changes nothing");
}

/// Each move halves the room between two jobs, so that it is used up again and again.
#[test]
fn any_number_of_moves_to_one_place_finds_room() {
    let mut world = with_waiting(5);
    for round in 0..100 {
        let (id, before) = if round % 2 == 0 { (JobId(5), JobId(4)) } else { (JobId(4), JobId(5)) };
        world.ask("client", &to_before(id, before)).unwrap();
        let order = if round % 2 == 0 { [5, 4] } else { [4, 5] };
        let expected = [(2, 1), (3, 2), (order[0], 3), (order[1], 4)];
        assert_eq!(positions(&mut world), expected, "round {round}");
    }
    world.submit("late").unwrap();
    assert_eq!(order_of_runs(&mut world), [2, 3, 4, 5, 6], "a new one comes behind all");
}

#[test]
fn order_and_holds_survive_a_restart_of_the_broker() {
    let mut world = with_waiting(5);
    world.ask("client", &to_before(JobId(5), THREE)).unwrap();
    world.ask("client", &to_priority(JobId(4), 1)).unwrap();
    world.ask("client", &HoldJob { id: TWO }).unwrap();
    let before = positions(&mut world);
    assert_eq!(before, [(4, 1), (5, 2), (3, 3)]);
    world.restart_broker();
    assert_eq!((positions(&mut world), world.job(TWO).held), (before, true));
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!(order_of_runs(&mut world), [4, 5, 3], "the held one is not run");
}

#[test]
fn change_of_the_queue_that_cannot_be_stored_is_refused_and_undone() {
    let mut world = with_waiting(3);
    world.disk_works = false;
    assert_eq!(code(world.ask("client", &HoldJob { id: TWO })), ErrorCode::StoreFailed);
    assert_eq!(code(world.ask("client", &to_before(THREE, TWO))), ErrorCode::StoreFailed);
    assert_eq!(positions(&mut world), [(2, 1), (3, 2)]);
    world.disk_works = true;
    assert_eq!(order_of_runs(&mut world), [2, 3]);
}

#[test]
fn held_job_that_an_agent_comes_back_with_is_not_given_back_to_it() {
    let mut world = with_waiting(1);
    world.pass(TIMEOUT_S, &[]);
    world.ask("client", &HoldJob { id: ONE }).unwrap();
    world.register("b", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!(world.kills("b"), [ONE]);
    world.ask("client", &ReleaseJob { id: ONE }).unwrap();
    world.pass(2, &["b"]);
    assert_eq!(world.runs("b"), [], "not before it has ended it, or that end would be this job's");
    assert_eq!(code(world.report("b", ONE, JobState::Cancelled)), ErrorCode::Conflict);
    world.batch(&[Input::Tick]);
    assert_eq!(world.runs("b"), [ONE]);
    world.report("b", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

/// A record of before there was an order has 0.
#[test]
fn jobs_stored_without_an_order_are_taken_by_age_before_younger_ones() {
    let mut world = with_waiting(4);
    let old = |record: &mut JobRecord| (record.order, record.priority) = (0, 0);
    world.disk.jobs.values_mut().take(3).for_each(old);
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    world.submit("new").unwrap();
    assert_eq!(positions(&mut world), [(2, 1), (3, 2), (4, 3), (5, 4)]);
    world.ask("client", &to_before(JobId(5), THREE)).unwrap();
    assert_eq!(positions(&mut world), [(2, 1), (5, 2), (3, 3), (4, 4)]);
    assert_eq!(world.ask("client", &GetJob { id: JobId(5) }).unwrap().position, Some(2));
}

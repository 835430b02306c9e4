//! What holds when the disk fails: nothing that is not stored is said, and all works again when it does.

use crate::world::{TIMEOUT_S, World, code, submit_write};
use ecs_broker::{core::Input, limits::LOST_GRACE};
use ecs_schemas::{
    error_code::ErrorCode,
    job::{CancelJob, JobId, JobState, Submit},
    registry::GetStatus,
};

const ONE: JobId = JobId(1);

#[test]
fn submission_that_cannot_be_stored_is_refused_and_leaves_no_job() {
    let mut world = World::with_writer();
    world.disk_works = false;
    assert_eq!(code(world.submit("k")), ErrorCode::StoreFailed);
    assert_eq!((world.runs("a"), world.status().broker.jobs_open), (vec![], 0));
    let published = world.published.iter().any(|publication| publication.topic.starts_with("x01/jobs"));
    assert!(!published, "nobody is told of a job that is not stored");
    world.disk_works = true;
    assert_eq!(world.submit("k").unwrap().id, ONE);
    assert_eq!(world.runs("a"), [ONE]);
}

#[test]
fn report_that_cannot_be_stored_is_refused_and_taken_when_it_is_repeated() {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    world.disk_works = false;
    assert_eq!(code(world.report("a", ONE, JobState::Done)), ErrorCode::StoreFailed);
    assert_eq!(code(world.ask("client", &CancelJob { id: ONE })), ErrorCode::StoreFailed);
    assert_eq!((world.state(ONE), world.job(ONE).cancel_requested), (JobState::Submitted, false));
    world.disk_works = true;
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

#[test]
fn requests_that_need_no_disk_are_answered_beside_one_that_does() {
    let mut world = World::with_writer();
    world.disk_works = false;
    let submit = submit_write("k");
    let (status_id, status) = world.request_input("client", &GetStatus {});
    let (submit_id, submit) = world.request_input("client", &submit);
    world.batch(&[status, submit, Input::Tick]);
    assert!(world.take_answer::<GetStatus>("client", status_id).is_ok());
    assert_eq!(code(world.take_answer::<Submit>("client", submit_id)), ErrorCode::StoreFailed);
}

#[test]
fn message_of_an_undone_batch_counts_once() {
    let mut world = World::with_writer();
    let before = world.status().broker.received;
    world.disk_works = false;
    let _ = world.submit("k");
    assert_eq!(world.status().broker.received, before + 2);
}

#[test]
fn agents_come_and_go_while_the_disk_fails() {
    let mut world = World::with_writer();
    world.disk_works = false;
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(code(world.heartbeat("a")), ErrorCode::NotRegistered);
    world.register("b", "x01/writer", 2, &[]).unwrap();
    world.heartbeat("b").unwrap();
}

#[test]
fn loss_that_could_not_be_stored_is_stored_when_the_disk_works_again() {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Running).unwrap();
    world.disk_works = false;
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs() + 5, &[]);
    assert_eq!((world.state(ONE), world.stored[&ONE].state), (JobState::Running, JobState::Running));
    world.disk_works = true;
    world.pass(1, &[]);
    assert_eq!((world.state(ONE), world.stored[&ONE].state), (JobState::Lost, JobState::Lost));
}

//! What holds when the disk fails: nothing that is not stored is said, and all works again when it does.

use crate::world::{TIMEOUT_S, World, code, submit_write, subsystem};
use ecs_broker::{
    core::{Changes, Input, StoredSubsystem, StoredValue, Unstored},
    limits::LOST_GRACE,
    store::Store,
};
use ecs_schemas::{
    alarm::{Alarm, ListAlarms, Raise, Severity},
    error_code::ErrorCode,
    job::{CancelJob, JobId, JobState, Submit},
    kv::Reading,
    registry::{GetStatus, Leave},
    subsystem::Describe,
    value::Value,
};
use std::time::Duration;

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

/// An agent goes with a job that it had not accepted: that it is queued again cannot be stored.
#[test]
fn agents_come_and_go_while_the_disk_fails_and_what_it_means_for_jobs_follows() {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    assert_eq!(world.runs("a"), [ONE]);
    world.disk_works = false;
    world.pass(TIMEOUT_S, &[]);
    world.register("b", "x01/other", 2, &[]).unwrap();
    world.heartbeat("b").unwrap();
    assert_eq!(world.runs("b"), [], "it is not given what is not stored");
    world.ask("b", &Leave {}).unwrap();
    world.register("b", "x01/other", 2, &[]).unwrap();
    world.disk_works = true;
    world.batch(&[Input::Tick]);
    assert_eq!(world.runs("b"), [ONE]);
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
    assert_eq!((world.state(ONE), world.disk.jobs[&ONE].state), (JobState::Running, JobState::Running));
    world.disk_works = true;
    world.pass(1, &[]);
    assert_eq!((world.state(ONE), world.disk.jobs[&ONE].state), (JobState::Lost, JobState::Lost));
}

/// In the real store: what holds is what the description says, whatever was stored before.
#[test]
fn values_are_stored_with_their_description_and_forgotten_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let value = |item: &str, revision| StoredValue {
        subsystem: "x01/pump".to_owned(),
        item: item.to_owned(),
        reading: Reading { value: Value::from(7), revision, time_ns: 1 },
    };
    let stored = || {
        let (_, stored) = Store::open(folder.path()).unwrap();
        let values: Vec<_> = stored.values.into_iter().map(|value| (value.item, value.reading.revision)).collect();
        (stored.subsystems.len(), values)
    };
    let (mut store, _) = Store::open(folder.path()).unwrap();
    let other = StoredValue { subsystem: "x01/pum".to_owned(), ..value("other", 9) };
    store.save(&Changes { jobs: vec![], values: vec![value("a", 1), value("b", 1), other] }, Duration::ZERO).unwrap();
    let description = StoredSubsystem { description: subsystem("x01/pump"), agent: "x01/pumps".to_owned() };
    let described = Unstored {
        name: "x01/pump".to_owned(),
        subsystem: Some(description),
        items: ["b".to_owned(), "c".to_owned()].into(),
        values: vec![value("c", 3)],
    };
    store.save_subsystems(std::slice::from_ref(&described)).unwrap();
    let text = |item: &str, revision| (item.to_owned(), revision);
    assert_eq!(stored(), (1, vec![text("b", 1), text("other", 9), text("c", 3)]));
    let removed = Unstored { subsystem: None, items: [].into(), values: vec![], ..described };
    store.save_subsystems(&[removed]).unwrap();
    assert_eq!(stored(), (0, vec![text("other", 9)]));
}

/// Handled again behind the alarm, the description would clear it.
#[test]
fn a_disk_that_fails_does_not_put_a_description_behind_the_alarm_that_came_after_it() {
    let mut world = World::with_writer();
    world.host("p", "x01/pumps", 1, &[subsystem("x01/pump")]);
    let describe = Describe { description: subsystem("x01/pump") };
    let alarm = Alarm { code: "HOT".to_owned(), severity: Severity::Warn, text: "hot".to_owned(), since_ns: 0 };
    let raise = Raise { subsystem: "x01/pump".to_owned(), alarm };
    world.disk_works = false;
    let (job, submit) = world.request_input("c", &submit_write("k"));
    let (described, describe) = world.request_input("p", &describe);
    let (raised, raise) = world.request_input("p", &raise);
    world.batch(&[submit, describe, raise]);
    assert_eq!(code(world.take_answer::<Submit>("c", job)), ErrorCode::StoreFailed);
    world.take_answer::<Describe>("p", described).unwrap();
    world.take_answer::<Raise>("p", raised).unwrap();
    assert_eq!(world.ask("c", &ListAlarms {}).unwrap().alarms.len(), 1);
}

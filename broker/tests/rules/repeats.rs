//! Jobs that may be repeated when their agent is lost.

use crate::world::{TIMEOUT_S, World, code, submit_write};
use ecs_broker::limits::LOST_GRACE;
use ecs_schemas::{
    error_code::ErrorCode,
    job::{CancelJob, JobId, JobState, REPEATS_MAX, ReportJob, Submit},
};

const ONE: JobId = JobId(1);

/// A world whose writer runs job 1, which may be repeated.
fn with_repeatable() -> World {
    let mut world = World::with_writer();
    world.ask("client", &Submit { repeat_if_lost: true, ..submit_write("k") }).unwrap();
    assert_eq!(world.runs("a"), [ONE]);
    world.report("a", ONE, JobState::Running).unwrap();
    world
}

#[test]
fn lost_job_is_queued_again_with_the_reason_in_its_history_and_goes_to_another_agent() {
    let mut world = with_repeatable();
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs() - 1, &["b"]);
    assert_eq!(world.state(ONE), JobState::Running);
    world.pass(1, &["b"]);
    assert_eq!(world.runs("b"), [ONE]);
    let job = world.job(ONE);
    assert_eq!((job.agent.as_deref(), job.repeats(), job.reason), (Some("x01/writer-b"), 1, None));
    let again = job.history.last().unwrap();
    let reason = again.reason.clone().unwrap();
    assert_eq!((again.state, reason.code), (JobState::Submitted, ErrorCode::AgentLost));
    assert!(reason.message.contains("x01/writer is gone") && reason.message.ends_with("1 of 3"), "{reason}");
    world.report("b", ONE, JobState::Done).unwrap();
    assert_eq!((world.state(ONE), world.disk.jobs[&ONE].repeats()), (JobState::Done, 1));
}

#[test]
fn job_that_takes_its_agent_down_each_time_is_lost_in_the_end() {
    let mut world = with_repeatable();
    for start in 0..REPEATS_MAX {
        world.pass(TIMEOUT_S, &[]);
        world.register("a", "x01/writer", u64::from(start) + 2, &[]).unwrap();
        assert_eq!(world.runs("a"), [ONE], "repeat {}", start + 1);
        world.report("a", ONE, JobState::Accepted).unwrap();
    }
    world.pass(TIMEOUT_S, &[]);
    world.register("a", "x01/writer", 99, &[]).unwrap();
    let job = world.job(ONE);
    assert_eq!((job.state, job.repeats(), world.runs("a")), (JobState::Lost, REPEATS_MAX, vec![]));
    assert_eq!(job.reason.unwrap().code, ErrorCode::AgentLost);
}

#[test]
fn cancelled_job_is_not_repeated() {
    let mut world = with_repeatable();
    world.ask("client", &CancelJob { id: ONE }).unwrap();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &[]);
    assert_eq!(world.state(ONE), JobState::Lost);
}

#[test]
fn repeat_survives_a_restart_of_the_broker_and_a_disk_that_fails() {
    let mut world = with_repeatable();
    world.disk_works = false;
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs() + 3, &[]);
    assert_eq!(world.state(ONE), JobState::Running);
    world.disk_works = true;
    world.pass(1, &[]);
    assert_eq!((world.state(ONE), world.disk.jobs[&ONE].repeats()), (JobState::Submitted, 1));
    world.restart_broker();
    assert_eq!((world.state(ONE), world.job(ONE).position), (JobState::Submitted, Some(1)));
    world.register("a", "x01/writer", 5, &[]).unwrap();
    assert_eq!(world.runs("a"), [ONE]);
}

#[test]
fn agent_that_comes_back_with_a_job_that_is_queued_again_goes_on_with_it() {
    let mut world = with_repeatable();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &[]);
    assert_eq!(world.state(ONE), JobState::Submitted);
    world.register("b", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!((world.runs("b"), world.kills("b")), (vec![], vec![]));
    world.report("b", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

/// The first agent is cut off; the second takes the repeat and dies; the first is back meanwhile.
#[test]
fn agent_that_still_ends_an_earlier_attempt_is_not_given_the_next_one() {
    let mut world = with_repeatable();
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &["b"]);
    assert_eq!(world.runs("b"), [ONE]);
    world.report("b", ONE, JobState::Running).unwrap();
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!(world.kills("a"), [ONE]);
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &["a"]);
    assert_eq!((world.state(ONE), world.runs("a")), (JobState::Submitted, vec![]));
    world.report("a", ONE, JobState::Cancelled).unwrap_err();
    world.pass(1, &["a"]);
    assert_eq!(world.runs("a"), [ONE]);
    assert_eq!(world.state(ONE), JobState::Submitted, "the end of the first attempt is not the job's");
}

#[test]
fn report_of_an_attempt_that_is_over_is_refused_and_the_agent_is_told_to_run_the_present_one() {
    let mut world = with_repeatable();
    let report = |attempt, state| ReportJob { id: ONE, attempt, state, reason: None, result: None };
    world.pass(TIMEOUT_S, &[]);
    world.register("b", "x01/writer", 2, &[]).unwrap(); // started again: the job is given to it anew
    assert_eq!((world.runs("b"), world.job(ONE).attempt), (vec![ONE], 2));
    for state in [JobState::Running, JobState::Cancelled, JobState::Done] {
        assert_eq!(code(world.ask("b", &report(1, state))), ErrorCode::Conflict, "{state:?}");
    }
    assert_eq!(world.state(ONE), JobState::Submitted);
    world.pass(1, &["b"]);
    assert_eq!(world.runs("b"), [ONE]);
    world.ask("b", &report(2, JobState::Running)).unwrap();
    world.ask("b", &report(1, JobState::Cancelled)).unwrap_err();
    world.pass(3, &["b"]);
    assert_eq!((world.state(ONE), world.runs("b")), (JobState::Running, vec![]), "it is known to have this one");
    world.ask("b", &report(2, JobState::Done)).unwrap();
    world.ask("b", &report(1, JobState::Failed)).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

/// Its agent has an attempt that is over, and a later one was lost without a word.
#[test]
fn agent_that_comes_back_with_an_earlier_attempt_runs_the_present_one_once_that_has_ended() {
    let mut world = with_repeatable();
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &["b"]);
    assert_eq!((world.runs("b"), world.job(ONE).attempt), (vec![ONE], 2));
    world.pass(TIMEOUT_S, &[]);
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!(world.job(ONE).agent.as_deref(), Some("x01/writer"), "it lists a job that is queued");
    let stale = ReportJob { id: ONE, attempt: 1, state: JobState::Done, reason: None, result: None };
    assert_eq!(code(world.ask("a", &stale)), ErrorCode::Conflict);
    world.pass(1, &["a"]);
    assert_eq!((world.runs("a"), world.state(ONE)), (vec![ONE], JobState::Submitted));
}

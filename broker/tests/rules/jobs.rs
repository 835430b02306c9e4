//! A job's life.

use crate::world::{SECOND_NS, TIMEOUT_S, World, code, register};
use ecs_broker::{core::Input, limits::LOST_GRACE};
use ecs_schemas::{
    envelope::decode,
    error_code::{ErrorCode, Failure},
    job::{CancelJob, JobId, JobRecord, JobState, ListJobs, Progress, ReportJob, ReportProgress, Submit},
    registry::{AgentState, Heartbeat, Leave, Register, ServiceOffer},
    value::Value,
};

const ONE: JobId = JobId(1);
const TWO: JobId = JobId(2);

/// A world whose writer has job 1 in `state`.
fn with_job(state: JobState) -> World {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    assert_eq!(world.runs("a"), [ONE]);
    if state != JobState::Submitted {
        world.report("a", ONE, JobState::Accepted).unwrap();
    }
    if state == JobState::Running {
        world.report("a", ONE, JobState::Running).unwrap();
    }
    world
}

#[test]
fn job_goes_from_submitted_to_done_and_keeps_its_history_and_result() {
    let mut world = with_job(JobState::Running);
    world.notify("a", &ReportProgress { id: ONE, progress: Progress { done: 3, total: 9, ..Progress::default() } });
    assert_eq!(world.job(ONE).progress.map(|progress| progress.done), Some(3));
    let end = ReportJob { attempt: 0, id: ONE, state: JobState::Done, reason: None, result: Some(Value::from("file")) };
    world.ask("a", &end).unwrap();
    let job = world.job(ONE);
    let states: Vec<_> = job.history.iter().map(|step| step.state).collect();
    assert_eq!(states, [JobState::Submitted, JobState::Accepted, JobState::Running, JobState::Done]);
    assert_eq!((job.result, job.agent.as_deref()), (Some(Value::from("file")), Some("x01/writer")));
    assert_eq!(world.status().broker.jobs_open, 0);
}

#[test]
fn every_change_of_a_job_is_published_with_its_record() {
    let mut world = with_job(JobState::Running);
    world.notify("a", &ReportProgress { id: ONE, progress: Progress { done: 3, ..Progress::default() } });
    let records: Vec<JobRecord> = world
        .published
        .iter()
        .filter(|publication| &*publication.topic == "x01/jobs/1")
        .map(|publication| decode(&publication.payload).unwrap())
        .collect();
    let states: Vec<_> = records.iter().map(|record| record.state).collect();
    assert_eq!(states, [JobState::Submitted, JobState::Accepted, JobState::Running, JobState::Running]);
    assert_eq!(records[3].progress.as_ref().map(|progress| progress.done), Some(3));
}

#[test]
fn job_for_a_service_that_nobody_offers_is_refused_with_those_that_there_are() {
    let mut world = World::with_writer();
    let submit = Submit { service: "paint".to_owned(), key: "k".to_owned(), ..Submit::default() };
    let refusal = world.ask("client", &submit).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NoSuchService);
    assert_eq!(refusal.hint.unwrap(), "services that are offered now: write");
    let misspelt = Submit { service: "wirte".to_owned(), ..submit };
    let hint = world.ask("client", &misspelt).unwrap_err().hint.unwrap();
    assert_eq!(hint, "did you mean write? services that are offered now: write");
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(code(world.submit("k")), ErrorCode::NoSuchService, "an agent that is gone offers nothing");
}

#[test]
fn same_key_twice_is_one_job_also_after_its_end_and_a_restart() {
    let mut world = with_job(JobState::Running);
    assert_eq!(world.submit("k").unwrap().id, ONE);
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.submit("k").unwrap().state, JobState::Done);
    world.restart_broker();
    assert_eq!(world.submit("k").unwrap().id, ONE);
    assert_eq!(world.ask("client", &ListJobs { limit: 10, ..ListJobs::default() }).unwrap().jobs.len(), 1);
}

#[test]
fn agent_gets_one_job_at_a_time_and_the_others_wait_in_order() {
    let mut world = World::with_writer();
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    for key in ["1", "2", "3", "4"] {
        world.submit(key).unwrap();
    }
    assert_eq!((world.runs("a"), world.runs("b")), (vec![ONE], vec![TWO]));
    world.report("b", TWO, JobState::Done).unwrap();
    assert_eq!((world.runs("a"), world.runs("b")), (vec![], vec![JobId(3)]));
    world.report("a", ONE, JobState::Rejected).unwrap();
    assert_eq!(world.runs("a"), [JobId(4)]);
}

#[test]
fn agent_that_is_starting_gets_its_job_when_it_is_ready() {
    let mut world = World::with_writer();
    world.ask("a", &Heartbeat { state: AgentState::Starting }).unwrap();
    world.submit("k").unwrap();
    assert_eq!(world.runs("a"), []);
    world.heartbeat("a").unwrap();
    assert_eq!(world.runs("a"), [ONE]);
}

#[test]
fn order_to_run_is_repeated_until_the_agent_reports() {
    let mut world = with_job(JobState::Submitted);
    world.pass(2, &["a"]);
    assert_eq!(world.runs("a"), [ONE, ONE]);
    world.register("b", "x01/writer", 1, &[]).unwrap();
    assert_eq!(world.runs("b"), [ONE], "at once over a new connection");
    world.report("b", ONE, JobState::Accepted).unwrap();
    world.pass(5, &["b"]);
    assert_eq!(world.runs("b"), []);
}

#[test]
fn cancel_of_a_waiting_job_ends_it_at_once() {
    let mut world = with_job(JobState::Running);
    world.submit("waits").unwrap();
    let job = world.ask("client", &CancelJob { id: TWO }).unwrap();
    assert_eq!((job.state, job.reason.unwrap().code), (JobState::Cancelled, ErrorCode::Cancelled));
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.runs("a"), [], "it is not run any more");
}

#[test]
fn cancel_of_a_job_that_an_agent_has_is_repeated_until_the_agent_ends_it() {
    for state in [JobState::Submitted, JobState::Accepted, JobState::Running] {
        let mut world = with_job(state);
        let job = world.ask("client", &CancelJob { id: ONE }).unwrap();
        assert_eq!((job.state, job.cancel_requested), (state, true));
        assert_eq!(world.kills("a"), [ONE], "{state:?}");
        world.pass(2, &["a"]);
        assert_eq!(world.kills("a"), [ONE, ONE], "{state:?}");
        world.register("b", "x01/writer", 1, &[ONE]).unwrap();
        assert_eq!(world.kills("b"), [ONE], "{state:?}: at once over a new connection");
        world.report("b", ONE, JobState::Cancelled).unwrap();
        world.pass(3, &["b"]);
        assert_eq!((world.kills("b"), world.state(ONE)), (vec![], JobState::Cancelled));
    }
}

#[test]
fn cancel_of_a_job_that_has_ended_changes_nothing() {
    let mut world = with_job(JobState::Running);
    world.report("a", ONE, JobState::Done).unwrap();
    let job = world.ask("client", &CancelJob { id: ONE }).unwrap();
    assert_eq!((job.state, job.cancel_requested), (JobState::Done, false));
    assert_eq!(code(world.ask("client", &CancelJob { id: TWO })), ErrorCode::NoSuchJob);
}

#[test]
fn job_that_was_never_accepted_goes_to_another_agent_when_its_own_is_gone() {
    let mut world = with_job(JobState::Submitted);
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    world.pass(TIMEOUT_S, &["b"]);
    assert_eq!(world.runs("b"), [ONE]);
    assert_eq!(world.job(ONE).agent.as_deref(), Some("x01/writer-b"));
    world.register("a2", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!(world.kills("a2"), [ONE], "it comes back with a job that is another's now");
    assert_eq!(code(world.report("a2", ONE, JobState::Cancelled)), ErrorCode::Conflict);
    world.report("b", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

#[test]
fn cancelled_job_whose_agent_went_before_accepting_it_ends_cancelled() {
    let mut world = with_job(JobState::Submitted);
    world.ask("client", &CancelJob { id: ONE }).unwrap();
    world.pass(TIMEOUT_S, &[]);
    assert_eq!(world.state(ONE), JobState::Cancelled);
}

#[test]
fn running_job_is_lost_after_the_grace_when_its_agent_stays_away() {
    for state in [JobState::Accepted, JobState::Running] {
        let mut world = with_job(state);
        world.pass(TIMEOUT_S + LOST_GRACE.as_secs() - 1, &[]);
        assert_eq!(world.state(ONE), state);
        world.pass(1, &[]);
        let job = world.job(ONE);
        assert_eq!((job.state, job.reason.unwrap().code), (JobState::Lost, ErrorCode::AgentLost));
        world.register("b", "x01/writer", 1, &[ONE]).unwrap();
        assert_eq!(world.kills("b"), [ONE], "too late: it is told to end it");
        world.report("b", ONE, JobState::Done).unwrap();
        assert_eq!(world.state(ONE), JobState::Lost, "a job ends once");
    }
}

#[test]
fn running_job_goes_on_when_its_agent_comes_back_with_it() {
    let mut world = with_job(JobState::Running);
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs() - 1, &[]);
    world.register("b", "x01/writer", 2, &[ONE]).unwrap();
    world.pass(2 * LOST_GRACE.as_secs(), &["b"]);
    assert_eq!(world.state(ONE), JobState::Running);
    world.report("b", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

#[test]
fn accepted_job_that_a_restarted_agent_does_not_know_is_lost_at_once() {
    let mut world = with_job(JobState::Accepted);
    world.pass(TIMEOUT_S, &[]);
    world.register("b", "x01/writer", 2, &[]).unwrap();
    let job = world.job(ONE);
    assert_eq!((job.state, job.reason.unwrap().code), (JobState::Lost, ErrorCode::AgentLost));
    assert_eq!(world.submit("next").unwrap().id, TWO);
    assert_eq!(world.runs("b"), [TWO]);
}

#[test]
fn report_after_the_end_is_understood_and_ignored() {
    let mut world = with_job(JobState::Running);
    world.report("a", ONE, JobState::Done).unwrap();
    for late in [JobState::Failed, JobState::Running, JobState::Done, JobState::Cancelled] {
        world.report("a", ONE, late).unwrap();
    }
    let job = world.job(ONE);
    assert_eq!((job.state, job.history.len()), (JobState::Done, 4));
}

#[test]
fn report_that_cannot_be_is_refused() {
    let mut world = with_job(JobState::Accepted);
    world.register("b", "x01/other", 2, &[]).unwrap();
    let cases = [
        ("a", ONE, JobState::Lost, ErrorCode::BadParameter),
        ("a", ONE, JobState::Submitted, ErrorCode::BadParameter),
        ("a", ONE, JobState::Rejected, ErrorCode::Conflict),
        ("a", JobId(99), JobState::Done, ErrorCode::NoSuchJob),
        ("b", ONE, JobState::Done, ErrorCode::Conflict),
        ("client", ONE, JobState::Done, ErrorCode::NotRegistered),
    ];
    for (from, id, state, expected) in cases {
        assert_eq!(code(world.report(from, id, state)), expected, "{from} {id} {state:?}");
    }
    assert_eq!(world.state(ONE), JobState::Accepted);
}

#[test]
fn progress_of_another_agents_job_is_ignored() {
    let mut world = with_job(JobState::Running);
    world.register("b", "x01/other", 2, &[]).unwrap();
    world.notify("b", &ReportProgress { id: ONE, progress: Progress { done: 9, ..Progress::default() } });
    assert_eq!(world.job(ONE).progress, None);
}

#[test]
fn restarted_broker_waits_for_the_agent_of_a_running_job() {
    let mut world = with_job(JobState::Running);
    world.restart_broker();
    assert_eq!(code(world.heartbeat("a")), ErrorCode::NotRegistered);
    world.pass(LOST_GRACE.as_secs(), &[]);
    assert_eq!(world.state(ONE), JobState::Running);
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(ONE), JobState::Done);
}

#[test]
fn restarted_broker_loses_a_running_job_whose_agent_never_comes() {
    let mut world = with_job(JobState::Running);
    world.restart_broker();
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &[]);
    assert_eq!(world.state(ONE), JobState::Lost);
}

#[test]
fn restarted_broker_sends_a_job_again_that_was_only_assigned() {
    let mut world = with_job(JobState::Submitted);
    world.restart_broker();
    world.register("b", "x01/writer-b", 2, &[]).unwrap();
    assert_eq!(world.runs("b"), [], "its own agent has the time of a timeout to come back");
    world.register("a", "x01/writer", 1, &[]).unwrap();
    assert_eq!(world.runs("a"), [ONE]);
}

#[test]
fn restarted_broker_gives_ids_that_were_never_used() {
    let mut world = with_job(JobState::Running);
    world.report("a", ONE, JobState::Done).unwrap();
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[]).unwrap();
    assert_eq!(world.submit("another").unwrap().id, TWO);
}

#[test]
fn failed_job_keeps_its_reason() {
    let mut world = with_job(JobState::Accepted);
    let reason = Failure::new(ErrorCode::DiskFull, "no room").with_hint("make room");
    let end = ReportJob {
        attempt: 0,
        id: ONE,
        state: JobState::Failed,
        reason: Some(reason.clone()),
        result: Some(1.into()),
    };
    world.ask("a", &end).unwrap();
    let job = world.job(ONE);
    assert_eq!((job.state, job.reason, job.result), (JobState::Failed, Some(reason), Some(1.into())));
}

#[test]
fn jobs_are_listed_newest_first_up_to_the_limit() {
    let mut world = World::with_writer();
    for key in ["1", "2", "3"] {
        world.submit(key).unwrap();
    }
    let ids = |limit, world: &mut World| -> Vec<u64> {
        world
            .ask("client", &ListJobs { limit, ..ListJobs::default() })
            .unwrap()
            .jobs
            .into_iter()
            .map(|job| job.id.0)
            .collect()
    };
    assert_eq!(ids(2, &mut world), [3, 2]);
    assert_eq!(ids(u32::MAX, &mut world), [3, 2, 1]);
    world.now_ns += SECOND_NS;
    world.batch(&[Input::Tick]);
    assert_eq!(world.agent("x01/writer").jobs, [ONE]);
}

/// A number alone is no claim: the store may have been moved away, and its ids begin at 1 again.
#[test]
fn agent_that_lists_a_queued_job_that_it_cannot_have_been_given_must_end_it() {
    let mut world = World::with_writer();
    world.ask("a", &Heartbeat { state: AgentState::Starting }).unwrap();
    world.submit("k").unwrap();
    world.register("b", "x01/writer-b", 2, &[ONE]).unwrap();
    assert_eq!((world.kills("b"), world.job(ONE).agent), (vec![ONE], None), "it was never given to anybody");
    assert_eq!(code(world.report("b", ONE, JobState::Done)), ErrorCode::Conflict);
    world.ask("a", &Heartbeat { state: AgentState::Ready }).unwrap();
    assert_eq!((world.runs("a"), world.job(ONE).attempt), (vec![ONE], 1));
    world.pass(TIMEOUT_S, &["b"]);
    world.ask("b", &Leave {}).unwrap();
    let reducer = Register { services: vec![ServiceOffer::new("reduce")], ..register("x01/reducer", 1, &[ONE]) };
    world.ask("c", &reducer).unwrap();
    assert_eq!((world.kills("c"), world.job(ONE).agent), (vec![ONE], None), "it does not do such jobs");
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    assert_eq!((world.kills("a"), world.job(ONE).agent.as_deref()), (vec![], Some("x01/writer")));
}

#[test]
fn orders_that_are_repeated_and_a_new_connection_tell_nobody_that_the_job_is_another() {
    let mut world = with_job(JobState::Submitted);
    world.published.clear();
    world.pass(5, &["a"]);
    assert_eq!(world.runs("a").len(), 5, "it never says that it has it");
    world.register("a2", "x01/writer", 1, &[]).unwrap();
    assert_eq!(world.runs("a2"), [ONE]);
    assert_eq!(world.on_topic("x01/jobs/1"), []);
    world.ask("client", &CancelJob { id: ONE }).unwrap();
    world.pass(5, &["a2"]);
    assert_eq!((world.kills("a2").len(), world.on_topic("x01/jobs/1").len()), (6, 1));
}

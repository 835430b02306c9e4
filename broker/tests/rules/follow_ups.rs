//! What follows a job: one job for each following service, whatever happens, and what became of all.

use crate::world::{TIMEOUT_S, World, code, follower, register, submit_write};
use ecs_broker::{
    core::Input,
    limits::{FOLLOW_DEPTH_MAX, JOB_VALUE_BYTES_MAX, KEPT_JOBS_MAX, LOST_GRACE, OPEN_FOLLOWERS_MAX, OPEN_JOBS_MAX},
};
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, encode},
    error_code::{ErrorCode, Failure},
    job::{CancelJob, GetOutcome, HoldJob, JobId, JobRecord, JobState, ListJobs, ReportJob, Submit, follow_up_key},
    registry::{Leave, ServiceOffer},
    value::Value,
};

const ONE: JobId = JobId(1);
const TWO: JobId = JobId(2);

/// A writer, session `a`, and a reducer, session `r`, whose service follows `write`.
fn with_reducer() -> World {
    let mut world = World::with_writer();
    world.offer("r", &[follower("reduce", "write")]).unwrap();
    world
}

/// The jobs that follow `id`, as they are on the disk.
fn following(world: &World, id: JobId) -> Vec<JobRecord> {
    world.disk.jobs.values().filter(|record| record.follows == Some(id)).cloned().collect()
}

#[test]
fn job_of_the_following_service_is_queued_with_what_became_of_the_followed_one() {
    let mut world = with_reducer();
    world.ask("client", &Submit { priority: 4, ..submit_write("k") }).unwrap();
    assert_eq!(following(&world, ONE), [], "not before its end");
    let end = ReportJob { attempt: 0, id: ONE, state: JobState::Done, reason: None, result: Some("file".into()) };
    world.ask("a", &end).unwrap();
    assert_eq!(world.runs("r"), [TWO]);
    let job = world.job(TWO);
    assert_eq!((job.service.as_str(), job.follows, job.priority), ("reduce", Some(ONE), 4));
    assert_eq!(job.key, follow_up_key(ONE, "reduce"));
    let expected = Value::map([
        ("job", 1.into()),
        ("service", "write".into()),
        ("state", "done".into()),
        ("params", 1.into()),
        ("result", "file".into()),
        ("reason", Value::Null),
    ]);
    assert_eq!(job.params, expected);
    world.report("r", TWO, JobState::Done).unwrap();
    world.pass(5, &["a", "r"]);
    assert_eq!(world.disk.jobs.len(), 2, "nothing follows it");
}

#[test]
fn after_any_other_end_the_following_job_fails_at_once_with_the_reason_and_no_agent_gets_it() {
    let reason = || Some(Failure::new(ErrorCode::DiskFull, "no room in /data"));
    for state in [JobState::Failed, JobState::Rejected, JobState::Cancelled] {
        let mut world = with_reducer();
        world.submit("k").unwrap();
        world.ask("a", &ReportJob { attempt: 0, id: ONE, state, reason: reason(), result: None }).unwrap();
        let [job] = &following(&world, ONE)[..] else { panic!("one follows") };
        let refusal = job.reason.clone().unwrap();
        let expected = format!("job 1 (write) ended {}: no room in /data", state.as_str());
        assert_eq!((job.state, refusal.code, refusal.message), (JobState::Failed, ErrorCode::DiskFull, expected));
        assert_eq!((world.runs("r"), &job.agent), (vec![], &None));
    }
}

#[test]
fn job_that_is_cancelled_in_the_queue_or_lost_is_followed_too() {
    let mut world = with_reducer();
    world.submit("runs").unwrap();
    world.submit("waits").unwrap();
    world.report("a", ONE, JobState::Running).unwrap();
    world.ask("client", &CancelJob { id: TWO }).unwrap();
    assert_eq!(following(&world, TWO)[0].state, JobState::Failed);
    world.pass(TIMEOUT_S + LOST_GRACE.as_secs(), &["r"]);
    assert_eq!(world.state(ONE), JobState::Lost);
    let message = following(&world, ONE)[0].reason.clone().unwrap().message;
    assert!(message.starts_with("job 1 (write) ended lost: x01/writer is gone"), "{message}");
}

#[test]
fn every_service_that_follows_gets_one_job_and_so_do_those_that_follow_them() {
    let mut world = with_reducer();
    world.offer("c", &[follower("copy", "write"), follower("report", "reduce")]).unwrap();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    let services: Vec<_> = following(&world, ONE).into_iter().map(|record| record.service).collect();
    assert_eq!(services, ["copy", "reduce"]);
    let reduce = following(&world, ONE)[1].id;
    world.report("r", reduce, JobState::Done).unwrap();
    let [report] = &following(&world, reduce)[..] else { panic!("one follows") };
    assert_eq!(report.params.get("params").and_then(|params| params.get("job")), Some(&1.into()));
}

#[test]
fn failure_goes_down_the_whole_row() {
    let mut world = with_reducer();
    world.offer("p", &[follower("report", "reduce")]).unwrap();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Failed).unwrap();
    assert_eq!(world.state(TWO), JobState::Failed);
    let last = following(&world, TWO)[0].reason.clone().unwrap().message;
    assert_eq!(last, "job 2 (reduce) ended failed: job 1 (write) ended failed: no reason was given");
}

#[test]
fn following_service_that_is_away_gets_its_job_queued_also_after_a_restart_of_the_broker() {
    let mut world = with_reducer();
    world.ask("r", &Leave {}).unwrap();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.state(TWO), JobState::Submitted);
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[]).unwrap();
    let next = world.submit("next").unwrap().id;
    world.report("a", next, JobState::Done).unwrap();
    assert_eq!(following(&world, next).len(), 1, "what follows what is stored");
    world.offer("r", &[follower("reduce", "write")]).unwrap();
    assert_eq!(world.runs("r"), [TWO]);
}

#[test]
fn jobs_that_ended_before_a_service_began_to_follow_are_not_followed() {
    let mut world = World::with_writer();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    world.offer("r", &[follower("reduce", "write")]).unwrap();
    world.pass(3, &["a", "r"]);
    world.restart_broker();
    world.offer("r", &[follower("reduce", "write")]).unwrap();
    world.pass(3, &["r"]);
    assert_eq!(world.disk.jobs.len(), 1);
}

#[test]
fn service_that_is_offered_without_following_follows_no_more() {
    let mut world = with_reducer();
    assert_eq!(world.disk.followers.len(), 1);
    world.offer("r", &[ServiceOffer::new("reduce")]).unwrap();
    assert_eq!(world.disk.followers.len(), 0);
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(world.disk.jobs.len(), 1);
}

#[test]
fn two_agents_that_disagree_on_what_a_service_follows_are_not_both_taken_in() {
    let mut world = with_reducer();
    let refusal = world.offer("r2", &[ServiceOffer::new("reduce")]).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Conflict);
    let expected = "reduce follows write for x01/r, and no service for x01/r2";
    assert_eq!(refusal.message, expected);
    world.offer("r2", &[follower("reduce", "write")]).unwrap();
    world.ask("r", &Leave {}).unwrap();
    world.ask("r2", &Leave {}).unwrap();
    world.offer("r2", &[ServiceOffer::new("reduce")]).unwrap();
}

#[test]
fn circle_and_a_row_that_is_too_long_are_refused_at_the_registration() {
    let mut world = with_reducer();
    assert_eq!(code(world.offer("w", &[follower("write", "reduce")])), ErrorCode::BadParameter);
    for step in 1..FOLLOW_DEPTH_MAX {
        let before = if step == 1 { "reduce".to_owned() } else { format!("s{}", step - 1) };
        world.offer(&format!("agent-{step}"), &[follower(&format!("s{step}"), &before)]).unwrap();
    }
    let too_long = follower("last", &format!("s{}", FOLLOW_DEPTH_MAX - 1));
    assert_eq!(code(world.offer("z", &[too_long])), ErrorCode::BadParameter);
    assert_eq!(world.disk.followers.len(), FOLLOW_DEPTH_MAX);
}

/// The disk fails at the end of the job; the broker dies before and after.
#[test]
fn one_job_follows_whatever_fails_around_the_end() {
    let mut world = with_reducer();
    world.submit("k").unwrap();
    world.disk_works = false;
    for _ in 0..3 {
        assert_eq!(code(world.report("a", ONE, JobState::Done)), ErrorCode::StoreFailed);
        world.batch(&[Input::Tick]);
        assert_eq!(following(&world, ONE), []);
    }
    world.disk_works = true;
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    world.pass(2, &["a"]);
    assert_eq!(following(&world, ONE).len(), 1);
}

/// A record that an end was stored in without what follows it: of a broker that did it in two steps.
#[test]
fn end_that_is_still_to_be_followed_is_followed_by_the_next_broker_once() {
    let mut world = with_reducer();
    world.submit("k").unwrap();
    let record = world.disk.jobs.get_mut(&ONE).unwrap();
    (record.state, record.follow_up_due) = (JobState::Done, true);
    world.restart_broker();
    world.batch(&[Input::Tick]);
    world.restart_broker();
    world.batch(&[Input::Tick]);
    assert_eq!(following(&world, ONE).len(), 1);
    assert!(!world.disk.jobs[&ONE].follow_up_due);
}

#[test]
fn what_follows_is_learnt_again_when_it_could_not_be_stored() {
    let mut world = World::with_writer();
    world.disk_works = false;
    assert_eq!(code(world.offer("r", &[follower("reduce", "write")])), ErrorCode::StoreFailed);
    world.batch(&[Input::Tick]);
    assert_eq!(world.disk.followers.len(), 0);
    assert_eq!(world.core.changes().jobs, [], "it is undone");
    world.disk_works = true;
    world.batch(&[Input::Tick]);
    assert_eq!(world.disk.followers.len(), 1);
}

#[test]
fn outcome_is_of_the_job_and_all_that_follows_it() {
    let mut world = with_reducer();
    world.offer("p", &[follower("report", "reduce")]).unwrap();
    world.submit("k").unwrap();
    world.submit("another").unwrap();
    let outcome = |world: &mut World| {
        let outcome = world.ask("client", &GetOutcome { id: ONE }).unwrap();
        let ids: Vec<u64> = outcome.jobs.iter().map(|job| job.id.0).collect();
        (outcome.ended, outcome.failed, ids)
    };
    assert_eq!(outcome(&mut world), (false, false, vec![1]));
    world.report("a", ONE, JobState::Done).unwrap();
    assert_eq!(outcome(&mut world), (false, false, vec![1, 3]), "ended, but what follows has not");
    world.report("r", JobId(3), JobState::Done).unwrap();
    assert_eq!(outcome(&mut world), (false, false, vec![1, 3, 4]));
    world.report("p", JobId(4), JobState::Failed).unwrap();
    assert_eq!(outcome(&mut world), (true, true, vec![1, 3, 4]));
    assert_eq!(code(world.ask("client", &GetOutcome { id: JobId(9) })), ErrorCode::NoSuchJob);
}

#[test]
fn one_that_failed_is_seen_whatever_becomes_of_those_that_end_after_it() {
    for (reduced, zipped) in [(JobState::Failed, JobState::Done), (JobState::Done, JobState::Failed)] {
        let mut world = with_reducer();
        world.offer("z", &[follower("zip", "write")]).unwrap();
        world.submit("k").unwrap();
        world.report("a", ONE, JobState::Done).unwrap();
        world.report("r", TWO, reduced).unwrap();
        let outcome = world.ask("client", &GetOutcome { id: ONE }).unwrap();
        assert_eq!((outcome.ended, outcome.failed), (false, reduced == JobState::Failed));
        world.report("z", JobId(3), zipped).unwrap();
        let outcome = world.ask("client", &GetOutcome { id: ONE }).unwrap();
        assert_eq!((outcome.ended, outcome.failed), (true, true));
    }
}

#[test]
fn outcome_of_the_largest_jobs_fits_into_one_answer() {
    let mut world = World::with_writer();
    let at_once = |offer: ServiceOffer| ServiceOffer { jobs_at_once: 32, ..offer };
    let offers: Vec<_> = (0..16).map(|number| at_once(follower(&format!("f{number}"), "write"))).collect();
    world.offer("r", &offers).unwrap();
    world.offer("s", &(16..32).map(|number| follower(&format!("f{number}"), "write")).collect::<Vec<_>>()).unwrap();
    let large = || Value::Bytes(vec![0; JOB_VALUE_BYTES_MAX - 100]);
    world.ask("client", &Submit { params: large(), ..submit_write("k") }).unwrap();
    let end = |id| ReportJob { attempt: 0, id, state: JobState::Done, reason: None, result: Some(large()) };
    world.ask("a", &end(ONE)).unwrap();
    for id in 2..=33 {
        let from = if world.job(JobId(id)).agent.as_deref() == Some("x01/r") { "r" } else { "s" };
        let reason = Some(Failure::new(ErrorCode::Other, "r".repeat(JOB_VALUE_BYTES_MAX - 1000)));
        let failed = ReportJob { attempt: 0, id: JobId(id), state: JobState::Failed, reason, result: None };
        world.ask(from, &failed).unwrap();
    }
    let outcome = world.ask("client", &GetOutcome { id: ONE }).unwrap();
    assert_eq!((outcome.jobs.len(), outcome.ended, outcome.failed), (33, true, true));
    assert!(encode(&outcome).len() < BODY_BYTES_MAX);
    assert_eq!(outcome.jobs[0].result, Some(large()), "the job itself comes whole");
}

#[test]
fn following_service_that_never_comes_does_not_take_the_place_of_what_people_submit() {
    let mut world = with_reducer();
    world.ask("r", &Leave {}).unwrap();
    for number in 0..=OPEN_FOLLOWERS_MAX {
        let id = world.submit(&number.to_string()).unwrap().id;
        world.report("a", id, JobState::Done).unwrap();
    }
    assert_eq!(world.status().broker.jobs_open, OPEN_FOLLOWERS_MAX as u64);
    let list = world.ask("client", &ListJobs { limit: 1, ..ListJobs::default() }).unwrap();
    let last = &list.jobs[0];
    assert_eq!((last.state, last.reason.as_ref().map(|r| r.code)), (JobState::Failed, Some(ErrorCode::Busy)));
    for number in 0..OPEN_JOBS_MAX {
        world.submit(&format!("more {number}")).unwrap();
    }
    assert_eq!(code(world.submit("too many")), ErrorCode::Busy);
}

#[test]
fn job_is_followed_though_the_table_is_full_of_younger_ones() {
    let mut world = with_reducer();
    world.submit("old").unwrap();
    let mut done = world.disk.jobs[&ONE].clone();
    done.state = JobState::Done;
    for id in 2..=KEPT_JOBS_MAX as u64 + 50 {
        let record = JobRecord { id: JobId(id), key: id.to_string(), ..done.clone() };
        world.disk.jobs.insert(JobId(id), record);
    }
    world.restart_broker();
    world.register("a", "x01/writer", 1, &[ONE]).unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    let follower = world.disk.jobs.values().find(|record| record.follows == Some(ONE)).expect("it is followed");
    assert_eq!(follower.key, follow_up_key(ONE, "reduce"));
}

#[test]
fn following_job_is_held_and_cancelled_as_any_other() {
    let mut world = with_reducer();
    world.ask("r", &Leave {}).unwrap();
    world.submit("k").unwrap();
    world.report("a", ONE, JobState::Done).unwrap();
    world.ask("client", &HoldJob { id: TWO }).unwrap();
    world.ask("r", &register("x01/r", 2, &[])).unwrap();
    assert_eq!(world.runs("r"), []);
    assert_eq!(world.ask("client", &CancelJob { id: TWO }).unwrap().state, JobState::Cancelled);
    assert!(world.ask("client", &GetOutcome { id: ONE }).unwrap().failed);
}

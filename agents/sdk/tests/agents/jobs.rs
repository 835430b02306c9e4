//! Services: how jobs end, are killed, panic, and live through restarts.

use crate::setup::{
    Beamline, CALL, Scripted, WATCHDOG, failure, submit, wait_end, wait_for, wait_job, wait_running, wait_state,
};
use ecs_schemas::{
    error_code::ErrorCode,
    job::{CancelJob, GetOutcome, JobRecord, JobState},
    registry::{AgentState, ServiceOffer},
    value::Value,
};
use ecs_sdk::{Agent, AgentConfig, JobEnd};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

fn states(job: &JobRecord) -> Vec<JobState> {
    job.history.iter().map(|step| step.state).collect()
}

#[test]
fn each_end_of_a_job_arrives_as_the_service_said_it() {
    use JobState::{Accepted, Cancelled, Done, Failed, Rejected, Running, Submitted};
    let beamline = Beamline::new();
    let service = Scripted::new(|job| match job.id().0 {
        1 => {
            job.accept();
            job.running();
            job.running();
            JobEnd::Done(job.params().clone())
        }
        2 => JobEnd::Rejected(failure(ErrorCode::Output)),
        3 => {
            job.accept();
            JobEnd::Rejected(failure(ErrorCode::Output))
        }
        4 => {
            job.running();
            JobEnd::Failed { failure: failure(ErrorCode::DiskFull), result: Some(Value::from(1)) }
        }
        5 => JobEnd::Cancelled { result: None },
        _ => panic!("the test wants a panic"),
    });
    let _agent = beamline.agent(service);
    let client = beamline.client();
    let expected = [
        (vec![Submitted, Accepted, Running, Done], None, Some(Value::from(9))),
        (vec![Submitted, Rejected], Some(ErrorCode::Output), None),
        (vec![Submitted, Accepted, Failed], Some(ErrorCode::Output), None),
        (vec![Submitted, Accepted, Running, Failed], Some(ErrorCode::DiskFull), Some(Value::from(1))),
        (vec![Submitted, Cancelled], Some(ErrorCode::Cancelled), None),
        (vec![Submitted, Failed], Some(ErrorCode::Other), None),
    ];
    for (number, (history, code, result)) in expected.into_iter().enumerate() {
        let id = submit(&client, &number.to_string());
        let job = wait_end(&client, id);
        assert_eq!(states(&job), history, "job {id}");
        assert_eq!(job.reason.as_ref().map(|reason| reason.code), code, "job {id}");
        assert_eq!(job.result, result, "job {id}");
        if number == 5 {
            assert!(job.reason.unwrap().message.contains("the test wants a panic"));
        }
    }
}

#[test]
fn cancelled_job_is_killed_once_and_ends_with_what_it_has() {
    let beamline = Beamline::new();
    let service = Scripted::endless();
    let _agent = beamline.agent(Arc::clone(&service));
    let client = beamline.client();
    let id = submit(&client, "k");
    wait_job(&client, id, |job| job.progress.as_ref().is_some_and(|progress| progress.done == 1));
    assert!(client.call(&CancelJob { id }, CALL).unwrap().cancel_requested);
    let job = wait_end(&client, id);
    assert_eq!((job.state, job.result), (JobState::Cancelled, Some(Value::from("part"))));
    wait_for("on_kill was called", || service.kills.load(Ordering::Relaxed) == 1);
}

#[test]
fn job_goes_on_while_the_broker_restarts_and_is_done_once() {
    let mut beamline = Beamline::new();
    let gate = Arc::new(AtomicBool::new(false));
    let service = Scripted::until(Arc::clone(&gate));
    let agent = beamline.agent(Arc::clone(&service));
    let client = beamline.client();
    let id = submit(&client, "k");
    wait_running(&client, id);
    for _ in 0..2 {
        beamline.stop_broker();
        wait_for("the agent noticed", || !agent.is_connected());
        beamline.start_broker();
        wait_for("the agent is back", || agent.is_connected());
        assert_eq!(wait_running(&beamline.client(), id).id, id);
    }
    gate.store(true, Ordering::Relaxed);
    let job = wait_end(&beamline.client(), id);
    assert_eq!((job.state, job.result), (JobState::Done, Some(Value::from(5))));
    assert_eq!(service.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn end_of_a_job_without_a_broker_is_reported_to_the_next_one() {
    let mut beamline = Beamline::new();
    let gate = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let service = Scripted::new({
        let (gate, ended) = (Arc::clone(&gate), Arc::clone(&ended));
        move |job| {
            job.running();
            wait_for("the gate opens", || gate.load(Ordering::Relaxed));
            ended.store(true, Ordering::Relaxed);
            JobEnd::Done(Value::from(7))
        }
    });
    let _agent = beamline.agent(service);
    let id = submit(&beamline.client(), "k");
    wait_running(&beamline.client(), id);
    beamline.stop_broker();
    gate.store(true, Ordering::Relaxed);
    wait_for("the job ended", || ended.load(Ordering::Relaxed));
    beamline.start_broker();
    let job = wait_end(&beamline.client(), id);
    assert_eq!((job.state, job.result), (JobState::Done, Some(Value::from(7))));
}

/// The first agent is a process that was killed: plain messages, then silence. The second is its successor.
#[test]
fn restarted_agent_reports_the_end_of_a_job_from_before() {
    let beamline = Beamline::new();
    let client = beamline.client();
    let gate = Arc::new(AtomicBool::new(false));
    let first = beamline.agent(Scripted::until(Arc::clone(&gate)));
    let id = submit(&client, "k");
    wait_running(&client, id);
    drop(first); // leaves without saying how the job ended
    wait_state(&client, "x01/writer", AgentState::Gone);
    let end = JobEnd::Failed { failure: failure(ErrorCode::Other), result: Some(Value::from("found in the journal")) };
    let config = AgentConfig { ended_jobs: vec![(id, end)], ..beamline.config() };
    let _second = Agent::start(config, vec![]).unwrap();
    let job = wait_end(&client, id);
    assert_eq!((job.state, job.result), (JobState::Failed, Some(Value::from("found in the journal"))));
    gate.store(true, Ordering::Relaxed);
}

#[test]
fn stop_kills_the_job_and_reports_its_end_before_it_returns() {
    let beamline = Beamline::new();
    let agent = beamline.agent(Scripted::endless());
    let client = beamline.client();
    let id = submit(&client, "k");
    wait_running(&client, id);
    let waiting = submit(&client, "waits");
    agent.stop(WATCHDOG);
    let job = wait_job(&client, id, |_| true);
    assert_eq!((job.state, job.result), (JobState::Cancelled, Some(Value::from("part"))));
    assert_eq!(wait_job(&client, waiting, |_| true).state, JobState::Submitted, "the next one was not begun");
}

#[test]
fn stop_waits_for_a_job_that_does_not_end_no_longer_than_it_may() {
    let beamline = Beamline::new();
    let gate = Arc::new(AtomicBool::new(false));
    let agent = beamline.agent(Scripted::until(Arc::clone(&gate)));
    let client = beamline.client();
    let id = submit(&client, "k");
    wait_running(&client, id);
    let started = Instant::now();
    agent.stop(Duration::from_millis(300));
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&started.elapsed()));
    wait_state(&client, "x01/writer", AgentState::Gone);
    gate.store(true, Ordering::Relaxed);
}

#[test]
fn result_that_the_broker_refuses_does_not_leave_the_job_open() {
    let beamline = Beamline::new();
    let _agent = beamline.agent(Scripted::new(|job| {
        job.accept();
        JobEnd::Done(Value::Bytes(vec![0; 1_000_000]))
    }));
    let client = beamline.client();
    let id = submit(&client, "k");
    let job = wait_end(&client, id);
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.unwrap().message.starts_with("done, but its report was refused"));
}

/// The jobs only end once three of them run; the fourth must wait.
#[test]
fn service_runs_as_many_jobs_at_once_as_it_says_and_the_next_one_waits() {
    let beamline = Beamline::new();
    let together = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
    let its_own = Arc::clone(&together);
    let offer = ServiceOffer { jobs_at_once: 3, ..ServiceOffer::new("write") };
    let service = Scripted::offering(offer, move |job| {
        let (now, most) = &*its_own;
        job.running();
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        wait_for("three run", || most.load(Ordering::SeqCst) >= 3);
        now.fetch_sub(1, Ordering::SeqCst);
        JobEnd::Done(Value::Null)
    });
    let _agent = beamline.agent(service);
    let client = beamline.client();
    let ids: Vec<_> = ["1", "2", "3", "4"].map(|key| submit(&client, key)).into();
    for id in ids {
        assert_eq!(wait_end(&client, id).state, JobState::Done);
    }
    assert_eq!(together.1.load(Ordering::SeqCst), 3);
}

#[test]
fn service_that_follows_is_asked_once_with_the_result_of_each_job_that_is_done() {
    let beamline = Beamline::new();
    let write = Scripted::new(|job| {
        job.running();
        JobEnd::Done(Value::from("run7.h5"))
    });
    let offer = ServiceOffer { follows: Some("write".to_owned()), ..ServiceOffer::new("reduce") };
    let reduce = Scripted::offering(offer, |job| JobEnd::Done(job.params().clone()));
    let agent = Agent::start(beamline.config(), vec![write, Arc::clone(&reduce) as Arc<_>]).unwrap();
    agent.set_state(AgentState::Ready);
    let client = beamline.client();
    let id = submit(&client, "k");
    let mut jobs = vec![];
    wait_for("all has ended", || {
        let outcome = client.call(&GetOutcome { id }, CALL).unwrap();
        jobs = outcome.jobs;
        outcome.ended
    });
    let result = jobs[1].result.as_ref().unwrap();
    assert_eq!((jobs.len(), result.get("result"), result.get("job")), (2, Some(&"run7.h5".into()), Some(&1.into())));
    assert_eq!(reduce.requests.load(Ordering::Relaxed), 1);
}

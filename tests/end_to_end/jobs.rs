//! Jobs: one after the other, cancelled, submitted twice, held, moved, followed.

use crate::support::{Beamline, Detector, Outcome, PATIENCE, check_images, send, wait_for};
use ecs_schemas::registry::AgentState;
use ecs_sdk::{Agent, AgentConfig, Job, JobEnd, Service};
use serde_json::Value;
use std::{
    process::Stdio,
    sync::{Arc, Mutex},
};

/// A service of the test's own: it notes the order of its jobs, and each ends with its parameters.
struct Reduce {
    follows: Option<&'static str>,
    order: Mutex<Vec<u64>>,
}

impl Service for Reduce {
    fn name(&self) -> &str {
        "reduce"
    }

    fn follows(&self) -> Option<&str> {
        self.follows
    }

    fn on_request(&self, job: &Job) -> JobEnd {
        job.running();
        self.order.lock().unwrap().push(job.id().0);
        JobEnd::Done(job.params().clone())
    }
}

/// An agent of the beamline that offers `reduce`, and what it was asked. It takes its leave when it is dropped.
fn reducer(beamline: &Beamline, follows: Option<&'static str>) -> (Agent, Arc<Reduce>) {
    let service = Arc::new(Reduce { follows, order: Mutex::default() });
    let config = AgentConfig {
        name: format!("{}/reducer", beamline.name),
        kind: "reducer".to_owned(),
        request_endpoint: format!("ipc://{}", beamline.path("req").display()),
        ended_jobs: vec![],
    };
    let agent = Agent::start(config, vec![Arc::clone(&service) as Arc<dyn Service>]).unwrap();
    agent.set_state(AgentState::Ready);
    wait_for("the reducer", PATIENCE, || {
        let status = beamline.status();
        let agents = status["agents"].as_array()?;
        agents.iter().any(|agent| agent["kind"] == "reducer" && agent["state"] == "ready").then_some(())
    });
    (agent, service)
}

fn ids(jobs: &Value) -> Vec<u64> {
    jobs["jobs"].as_array().unwrap().iter().filter_map(|job| job["id"].as_u64()).collect()
}

#[test]
fn a_write_is_followed_by_the_service_that_follows_it_and_waited_for_with_it() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, service) = reducer(&beamline, Some("write"));
    let job = beamline.submit_running("run.h5", 50, &["--start", "1"]);
    let waiter = beamline.command(&["job", &job.to_string(), "--wait-all", "--json"]).stdout(Stdio::piped()).spawn();
    Outcome::of(&mut beamline.sim(50, 500, &[])).ok();
    let waited = waiter.unwrap().wait_with_output().unwrap();
    let outcome: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!((waited.status.code(), outcome["jobs"].as_array().map(Vec::len)), (Some(0), Some(2)), "{outcome:#}");
    let told = &outcome["jobs"][1]["result"];
    assert_eq!((&told["job"], &told["result"]["written"]), (&job.into(), &50.into()), "{told:#}");
    let refused = beamline.call(&["submit", "write", "--output", "run.h5", "--images", "50", "--json"]).ok().json();
    let id = refused["id"].to_string();
    let waited = beamline.call(&["job", &id, "--wait-all"]);
    waited.fails_with(3, "");
    assert_eq!(service.order.lock().unwrap().len(), 1, "what follows a failed job reaches no agent");
    let failed = beamline.call(&["jobs", "--state", "failed", "--service", "reduce", "--json"]).ok().json();
    let reason = failed["jobs"][0]["reason"]["message"].as_str().unwrap();
    assert!(reason.starts_with(&format!("job {id} (write) ended rejected: ")), "{reason}");
}

/// The writer is done while the reducer is away; the broker is killed before it comes.
#[test]
fn a_following_service_that_was_away_gets_its_jobs_when_it_comes_back_also_from_a_killed_broker() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    drop(reducer(&beamline, Some("write")));
    let job = beamline.submit_running("run.h5", 20, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(20, 500, &[])).ok();
    assert_eq!(beamline.wait_end(job)["state"], "done");
    send(beamline.pid("broker"), libc::SIGKILL);
    wait_for("the next broker", PATIENCE, || (beamline.call(&["status"]).code == 0).then_some(()));
    let (_agent, service) = reducer(&beamline, Some("write"));
    beamline.call(&["job", &job.to_string(), "--wait-all"]).ok();
    assert_eq!(*service.order.lock().unwrap(), [job + 1]);
}

#[test]
fn held_jobs_wait_and_moved_ones_go_first_also_after_the_broker_was_killed() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (agent, service) = reducer(&beamline, None);
    let submit = |arguments: &[&str]| {
        let job = beamline.call(&[&["submit", "reduce", "--hold", "--json"], arguments].concat()).ok().json();
        job["id"].as_u64().unwrap()
    };
    let first = submit(&["file=run1.h5", "bins=512", "sample=\"LaB6\""]);
    let (second, third) = (submit(&["file=run2.h5", "--priority", "-3"]), submit(&["file=run3.h5"]));
    let record = beamline.job(first);
    assert_eq!((&record["params"]["bins"], &record["params"]["sample"]), (&512.into(), &"LaB6".into()), "{record:#}");
    beamline.call(&["move", &third.to_string(), "--before", &first.to_string()]).ok();
    send(beamline.pid("broker"), libc::SIGKILL);
    wait_for("the next broker", PATIENCE, || (beamline.call(&["status"]).code == 0).then_some(()));
    agent.set_state(AgentState::Starting); // so that all are in the queue before the first is given
    wait_for("the reducer starts", PATIENCE, || {
        let status = beamline.status();
        let agents = status["agents"].as_array()?;
        agents.iter().any(|agent| agent["kind"] == "reducer" && agent["state"] == "starting").then_some(())
    });
    for id in [first, second, third] {
        beamline.call(&["release", &id.to_string()]).ok();
    }
    let table = beamline.call(&["jobs", "--state", "submitted"]).ok().stdout;
    assert!(table.contains("3 (priority -3)"), "{table}");
    assert!(service.order.lock().unwrap().is_empty());
    agent.set_state(AgentState::Ready);
    beamline.call(&["job", &second.to_string(), "--wait"]).ok();
    assert_eq!(*service.order.lock().unwrap(), [third, first, second]);
    beamline.call(&["hold", &first.to_string()]).fails_with(1, "only a job that waits can be held");
}

#[test]
fn jobs_are_found_by_what_is_known_of_them_and_an_unknown_service_names_those_there_are() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _service) = reducer(&beamline, None);
    for file in ["run1.h5", "run2.h5"] {
        beamline.call(&["submit", "reduce", &format!("file={file}"), "--wait", "--timeout", "30"]).ok();
    }
    beamline
        .call(&["submit", "write", "--output", "/no/such/folder/x.h5", "--images", "1", "--wait"])
        .fails_with(3, "");
    let found = |arguments: &[&str]| ids(&beamline.call(&[&["jobs", "--json"], arguments].concat()).ok().json());
    assert_eq!(found(&["--text", "RUN2"]), [2]);
    assert_eq!(found(&["--service", "reduce", "--state", "done", "--state", "lost"]), [2, 1]);
    assert_eq!(found(&["--since", "1h", "--limit", "1"]), [3]);
    assert_eq!(found(&["--until", "1h"]), [0_u64; 0]);
    beamline
        .call(&["submit", "redduce"])
        .fails_with(1, "did you mean reduce? services that are offered now: reduce, write");
    beamline.call(&["submit", "reduce", "x"]).fails_with(1, "KEY=VALUE");
    beamline.call(&["jobs", "--state", "over"]).fails_with(2, "submitted, accepted");
    beamline.call(&["submit", "reduce", "--hold", "--wait", "--timeout", "0.5"]).fails_with(1, "goes on");
}

#[test]
fn jobs_wait_for_each_other_and_each_gets_its_own_images() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let first = beamline.submit_running("first.h5", 50, &["--start", "1"]);
    let second = beamline.call(&["submit", "write", "--output", "second.h5", "--images", "50", "--json"]).ok().json();
    assert_eq!(second["state"], "submitted");
    Outcome::of(&mut beamline.sim(5000, 500, &[])).ok();
    for (job, file) in [(first, "first.h5"), (second["id"].as_u64().unwrap(), "second.h5")] {
        let ended = beamline.wait_end(job);
        assert_eq!((&ended["state"], &ended["result"]["written"]), (&"done".into(), &50.into()), "{ended:#}");
        assert_eq!(check_images(&beamline.path(file), &[])["complete"], 50);
    }
}

#[test]
fn a_cancelled_job_ends_its_file_cleanly_with_what_it_has() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("run.h5", 100_000, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(120, 500, &[])).ok();
    beamline.wait_job(job, |job| job["progress"]["done"].as_u64() == Some(120));
    beamline.call(&["cancel", &job.to_string()]).ok();
    let ended = beamline.wait_end(job);
    assert_eq!(ended["state"], "cancelled", "{ended:#}");
    let counts = check_images(&beamline.path("run.h5"), &[]);
    assert_eq!(
        (&counts["complete"], &counts["rows"], &counts["state"]),
        (&120.into(), &120.into(), &"cancelled".into())
    );
    assert_eq!(counts["lost"]["cancelled"], 100_000 - 120, "{counts:#}");
}

#[test]
fn a_waiting_job_is_cancelled_at_once_and_the_running_one_goes_on() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let running = beamline.submit_running("a.h5", 10, &["--start", "1"]);
    let waiting = beamline.call(&["submit", "write", "--output", "b.h5", "--images", "10", "--json"]).ok().json();
    let waiting = waiting["id"].as_u64().unwrap();
    beamline.call(&["cancel", &waiting.to_string()]).ok();
    assert_eq!(beamline.job(waiting)["state"], "cancelled");
    Outcome::of(&mut beamline.sim(10, 100, &[])).ok();
    assert_eq!(beamline.wait_end(running)["state"], "done");
    assert!(!beamline.path("b.h5").exists());
}

#[test]
fn the_same_key_twice_is_one_job() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let submit = ["submit", "write", "--output", "a.h5", "--images", "10", "--once", "run 7", "--json"];
    let (first, second) = (beamline.call(&submit).ok().json(), beamline.call(&submit).ok().json());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(beamline.call(&["jobs", "--json"]).ok().json()["jobs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_wait_ends_with_3_when_an_image_is_not_whole_and_with_0_when_all_are() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let job = beamline.submit_running("partial.h5", 50, &["--start", "1"]);
    Outcome::of(&mut beamline.sim(50, 200, &["--drop", "0.05", "--seed", "3"])).ok();
    beamline.call(&["job", &job.to_string(), "--wait"]).fails_with(3, "partial");
    let job = beamline.submit_running("whole.h5", 50, &["--start", "1001"]);
    Outcome::of(&mut beamline.sim(50, 200, &["--start", "1001"])).ok();
    beamline.call(&["job", &job.to_string(), "--wait"]).ok();
}

#[test]
fn a_second_run_with_the_same_ids_is_a_run_of_its_own() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    for run in 0..3 {
        let file = format!("run{run}.h5");
        let job = beamline.submit_running(&file, 40, &["--start", "1"]);
        let seed = run.to_string();
        Outcome::of(&mut beamline.sim(40, 400, &["--seed", &seed])).ok();
        let ended = beamline.wait_end(job);
        assert_eq!(
            (&ended["state"], &ended["result"]["written"]),
            (&"done".into(), &40.into()),
            "run {run}: {ended:#}"
        );
        assert_eq!(check_images(&beamline.path(&file), &["--seed", &seed])["complete"], 40);
    }
}

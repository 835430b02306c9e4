//! What must be when nobody is killed any more.

use super::{
    agent_process::{FOLLOWING, SERVICE, subsystem_of},
    clients::{Shared, code, read_item},
    ledger::lock,
    processes::Processes,
    schedule::Target,
};
use crate::support::{Beamline, wait_for};
use ecs_schemas::{
    error_code::ErrorCode,
    job::{GetJob, JobRecord, JobState, ListJobs, Submit, follow_up_key},
    kv::{Get, Update},
    registry::{AgentState, GetStatus},
    value::Value,
};
use ecs_sdk::Client;
use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

/// All agents are ready again after this long; on two cores five of them start at once, two with Python.
const WELL_PATIENCE: Duration = Duration::from_secs(20);
/// The last jobs have ended after this long: those of an agent that does not come back are lost after 30 s.
const END_PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Ends all kills and waits until every agent is ready, under load.
pub fn wait_well(beamline: &Beamline, shared: &Shared, processes: &mut Processes) {
    processes.mend();
    let (begun, client) = (Instant::now(), shared.client());
    let is_well = || {
        let status = client.call(&GetStatus {}, TIMEOUT).ok()?;
        let is_ready =
            |name: &String| status.agents.iter().any(|agent| agent.name == *name && agent.state == AgentState::Ready);
        (status.ready && shared.agents.iter().all(is_ready)).then_some(())
    };
    while is_well().is_none() {
        processes.unexpected_ends().into_iter().for_each(|end| shared.ledger.find(format!("afterwards: {end}")));
        if begun.elapsed() > WELL_PATIENCE {
            shared.ledger.find(format!("not well after {WELL_PATIENCE:?}: {:#}", beamline.status()));
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("well again after {:?}", begun.elapsed());
    if beamline.call(&["status", "--wait", "1"]).code != 0 {
        shared.ledger.find("`ecs-cli status --wait 1` is not ready, and all agents are".to_owned());
    }
    let begun = Instant::now();
    while let Some(behind) = first_behind(shared, &client) {
        if begun.elapsed() > WELL_PATIENCE {
            shared.ledger.find(format!("L7: the newest value of {behind:?} is not told on its topic"));
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An item whose newest value was not told on its topic, or that cannot be read.
fn first_behind(shared: &Shared, client: &Client) -> Option<(String, &'static str)> {
    let told = lock(&shared.topics).clone();
    let mut items =
        shared.agents.iter().flat_map(|agent| ["setpoint", "count"].map(|item| (subsystem_of(agent), item)));
    items.find(|(subsystem, item)| {
        let get = Get { subsystem: subsystem.clone(), item: (*item).to_owned() };
        let reading = match client.call(&get, TIMEOUT) {
            Ok(reading) => reading,
            answer => return code(&answer) != Some(ErrorCode::NotSet), // what was never set is not told
        };
        let newest = lock(&shared.topics).get(&format!("{subsystem}/kv/{item}")).copied().unwrap_or_default();
        let before = told.get(&format!("{subsystem}/kv/{item}")).copied().unwrap_or_default();
        // A value that moves on was told while it was read, or just before.
        newest < (reading.revision, reading.time_ns) && before == newest
    })
}

/// After the load: the queue works, every job has ended once, nothing that was acknowledged is missing, also not after
/// one more kill; and all processes end when they are told to.
pub fn check(beamline: &Beamline, shared: &Shared, processes: &mut Processes) {
    if !shared.ledger.findings().is_empty() {
        return; // what is looked for is known
    }
    work_is_done(shared);
    wait_for_last_jobs(shared);
    let before = check_jobs(shared);
    processes.end(Target::Broker, libc::SIGKILL);
    processes.start_broker();
    wait_for("the broker", WELL_PATIENCE, || (beamline.call(&["status"]).code == 0).then_some(()));
    let after = check_jobs(shared);
    for (id, record) in &before {
        let same = after.get(id).is_some_and(|its| {
            (its.state, &its.result, &its.history) == (record.state, &record.result, &record.history)
        });
        if !same {
            shared.ledger.find(format!("L1: before the last kill {record:?}, after it {:?}", after.get(id)));
        }
    }
    let client = shared.client();
    for agent in &shared.agents {
        read_item(shared, &client, &subsystem_of(agent), "setpoint");
    }
    read_item(shared, &client, &subsystem_of(&format!("{}/ledger", shared.beamline)), "entry");
    check_reader(shared, processes);
    check_ends(beamline, shared, processes);
}

fn work_is_done(shared: &Shared) {
    let client = shared.client();
    for number in 0..10 {
        let params = Value::map([("n", number.into()), ("ms", 1.into()), ("end", "done".into())]);
        let key = format!("afterwards-{number}");
        let submit = Submit { service: SERVICE.to_owned(), params, key: key.clone(), ..Submit::default() };
        let submitted = client.call(&submit, TIMEOUT).map(|record| record.id);
        let Ok(id) = submitted else {
            return shared.ledger.find(format!("afterwards {key} cannot be submitted: {submitted:?}"));
        };
        wait_for("a job afterwards", END_PATIENCE, || {
            let record = client.call(&GetJob { id }, TIMEOUT).ok()?;
            (record.state == JobState::Done).then_some(())
        });
    }
}

fn wait_for_last_jobs(shared: &Shared) {
    let (client, begun) = (shared.client(), Instant::now());
    loop {
        let open = client.call(&GetStatus {}, TIMEOUT).map(|status| status.broker.jobs_open);
        if open.as_ref().is_ok_and(|open| *open == 0) {
            return println!("all jobs have ended after {:?}", begun.elapsed());
        }
        // Those that end only when they are killed, and whose cancellation was not acknowledged.
        let states = vec![JobState::Submitted, JobState::Accepted, JobState::Running];
        let list = ListJobs { limit: 100, states, ..ListJobs::default() };
        let jobs = client.call(&list, TIMEOUT).map(|list| list.jobs).unwrap_or_default();
        for job in &jobs {
            let _ = client.call(&ecs_schemas::job::CancelJob { id: job.id }, TIMEOUT);
        }
        if begun.elapsed() > END_PATIENCE {
            return shared.ledger.find(format!("after {END_PATIENCE:?} jobs are open: {open:?} {jobs:?}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// All jobs, by id; those that were acknowledged must be among them, each followed once.
fn check_jobs(shared: &Shared) -> HashMap<u64, JobRecord> {
    let (client, mut all, mut before) = (shared.client(), HashMap::new(), None);
    loop {
        let asked = Instant::now();
        let list = ListJobs { limit: 500, before, ..ListJobs::default() };
        let page = match client.call(&list, TIMEOUT) {
            Ok(page) => page,
            Err(error) => {
                shared.ledger.find(format!("jobs cannot be listed: {error}"));
                break;
            }
        };
        for job in page.jobs {
            shared.ledger.job(&job, "job.list", Some(asked));
            all.insert(job.id.0, job);
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let mut by_key: HashMap<&str, usize> = HashMap::new();
    all.values().for_each(|job| *by_key.entry(job.key.as_str()).or_default() += 1);
    for (key, id) in shared.ledger.acknowledged_jobs() {
        let followed = follow_up_key(id, FOLLOWING);
        let (own, following) = (by_key.get(key.as_str()), by_key.get(followed.as_str()));
        if (own, following) != (Some(&1), Some(&1)) {
            shared
                .ledger
                .find(format!("L1: job {id} ({key}) is there {own:?} times, what follows it {following:?} times"));
        }
    }
    all
}

/// What the process that was stopped again and again has been told: JSON, a line each.
fn check_reader(shared: &Shared, processes: &mut Processes) {
    let text = fs::read_to_string(processes.reader_path()).unwrap_or_default();
    let mut newest = 0;
    for line in text.lines() {
        let update: Update = match serde_json::from_str(line) {
            Ok(update) => update,
            Err(error) => return shared.ledger.find(format!("kv watch printed {line:?}: {error}")),
        };
        let path = format!("{}/{}", update.subsystem, update.item);
        shared.ledger.value(&path, update.revision, &update.value, "kv watch");
        if update.revision < newest {
            shared.ledger.find(format!("L7: kv watch was at revision {newest}, then {update:?}"));
        }
        newest = update.revision;
        shared.ledger.count("updates of the reading process");
    }
    let client = shared.client();
    let get = Get { subsystem: subsystem_of(&shared.agents[0]), item: "setpoint".to_owned() };
    let Ok(reading) = client.call(&get, TIMEOUT) else {
        return shared.ledger.find("the last setpoint cannot be read".to_owned());
    };
    wait_for("the newest value at the reading process", WELL_PATIENCE, || {
        let text = fs::read_to_string(processes.reader_path()).unwrap_or_default();
        let last: Option<Update> = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
        last.filter(|update| update.revision >= reading.revision)
    });
}

/// Each process ends well when it is told to, and none is left.
fn check_ends(beamline: &Beamline, shared: &Shared, processes: &mut Processes) {
    let mut targets: Vec<Target> = (0..shared.agents.len()).map(Target::Agent).collect();
    targets.push(Target::Broker);
    for target in targets {
        let status = processes.end(target, libc::SIGTERM);
        if status.and_then(|status| status.code()) != Some(0) {
            shared.ledger.find(format!("{target:?} was told to end: {status:?}"));
        }
    }
    processes.end(Target::Reader, libc::SIGKILL);
    let folder = beamline.folder.path().display().to_string();
    let is_left = |pid: &str| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let folder_of = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&folder) || folder_of.starts_with(&folder)
    };
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let left: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|pid| is_left(pid)).collect();
    if !left.is_empty() {
        shared.ledger.find(format!("processes that are left: {left:?}"));
    }
}

//! Two processes of one name, by mistake: one has it, the other waits for it, whoever is killed or stopped.

use super::{
    agent_process::subsystem_of,
    clients::Shared,
    configured,
    processes::Processes,
    schedule::{Planned, Step, Target},
    shared,
};
use crate::support::{PATIENCE, wait_for};
use ecs_schemas::{
    exchange::{CallEvent, TargetEnd},
    registry::{AgentState, GetStatus},
};
use ecs_sdk::Client;
use std::{thread, time::Duration};

/// Of the broker here: so much later at most a dead holder is known as gone.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A claimant tries again within this long (the SDK's longest pause, and the broker's timeout), several times over.
const SETTLED: Duration = Duration::from_secs(3);

/// Process id of who has the name and is ready.
fn holder(shared: &Shared, client: &Client) -> Option<i32> {
    let status = shared.call(client, &GetStatus {}, PATIENCE).ok()?;
    let its = status.agents.into_iter().find(|agent| agent.name == shared.agents[0])?;
    (its.state == AgentState::Ready).then_some(its.pid as i32)
}

fn answers(shared: &Shared, client: &Client) -> bool {
    let targets = vec![subsystem_of(&shared.agents[0])];
    let params = [("n".to_owned(), 1.into())].into();
    let asked = CallEvent { event: "tick".to_owned(), targets, params };
    shared.call(client, &asked, PATIENCE).is_ok_and(|results| results.results[0].end == TargetEnd::Ok)
}

#[test]
fn of_two_processes_with_one_name_one_has_it_and_the_other_takes_over_when_it_is_gone() {
    let beamline = configured(1);
    let shared = shared(&beamline, 1, Duration::ZERO);
    let same = [shared.agents[0].clone(), shared.agents[0].clone()];
    let mut processes = Processes::new(&beamline, &same, &shared.request_endpoint);
    let step = |processes: &mut Processes<'_>, step, target| {
        processes.carry_out(&Planned { at: Duration::ZERO, target, step });
    };
    processes.start_broker();
    wait_for("the broker", PATIENCE, || (beamline.call(&["status"]).code != 1).then_some(()));
    let client = shared.client();
    step(&mut processes, Step::Start, Target::Agent(0));
    let first = processes.pid(Target::Agent(0));
    wait_for("the first", PATIENCE, || (holder(&shared, &client) == first).then_some(()));
    step(&mut processes, Step::Start, Target::Agent(1));
    thread::sleep(SETTLED);
    for round in 0..6 {
        let (has, waits) = (round % 2, 1 - round % 2);
        let (holds, takes_over) = (processes.pid(Target::Agent(has)), processes.pid(Target::Agent(waits)));
        assert_eq!(holder(&shared, &client), holds, "round {round}");
        let how = [Step::Kill, Step::Stop][round / 2 % 2];
        step(&mut processes, how, Target::Agent(has));
        wait_for("the other to take over", PATIENCE, || (holder(&shared, &client) == takes_over).then_some(()));
        step(&mut processes, if how == Step::Kill { Step::Start } else { Step::Continue }, Target::Agent(has));
        thread::sleep(SETTLED); // the one that is back tries, and stays refused
        assert_eq!(holder(&shared, &client), takes_over, "round {round}: the name was taken from its holder");
        assert!(answers(&shared, &client), "round {round}");
    }
    step(&mut processes, Step::Kill, Target::Broker);
    step(&mut processes, Step::Start, Target::Broker);
    let either = [0, 1].map(|agent| processes.pid(Target::Agent(agent)));
    let now = wait_for("one of them at the new broker", PATIENCE, || {
        holder(&shared, &client).filter(|pid| either.contains(&Some(*pid)))
    });
    thread::sleep(SETTLED.max(2 * TIMEOUT));
    assert_eq!(holder(&shared, &client), Some(now), "the two take the name from each other");
    assert!(answers(&shared, &client));
}

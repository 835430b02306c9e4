//! What the broker knows without listening: names of everything, and the topics that follow from them.
//!
//! Used by `topic ls`, by the words that a shell completes, and where an unknown name offers the nearest.

use crate::values::shown_type;
use ecs_schemas::{
    alarm::ListAlarms,
    envelope::Request,
    exchange::event_topic,
    kv::{ItemList, ListItems},
    nearest::nearest,
    registry::{AgentStatus, GetStatus, Status},
    subsystem::{Description, GetSubsystem, Handled, ListSubsystems, Listed, description_topic},
    telemetry::{state_topic, telemetry_topic},
};
use ecs_sdk::{CallError, Client};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Descriptions that are asked for at once: far fewer than messages that may wait in a connection.
const ASKED_AT_ONCE: usize = 256;

/// Asks the broker several things within one time.
pub struct Registered<'a> {
    client: &'a Client,
    until: Instant,
}

/// A topic that somebody may publish, by the registry's word.
#[derive(Debug, Clone, PartialEq)]
pub struct Topic {
    pub name: String,
    /// `value`, `telemetry`, …: one of the words of [`what`].
    pub what: &'static str,
    /// Type, range and unit, as they are shown.
    pub kind: String,
    pub unit: Option<String>,
    /// Sequence and time of the last message, where the registry has them.
    pub last: Option<(u64, u64)>,
    /// The agent that it comes from, or `broker`.
    pub from: String,
}

impl<'a> Registered<'a> {
    pub fn new(client: &'a Client, patience: Duration) -> Self {
        Self { client, until: Instant::now() + patience }
    }

    fn rest(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// # Errors
    /// Nobody answers in time, or the broker refuses; so for all that follow.
    pub fn call<R: Request>(&self, request: &R) -> Result<R::Reply, CallError> {
        self.client.call(request, self.rest())
    }

    pub fn status(&self) -> Result<Status, CallError> {
        self.call(&GetStatus {})
    }

    pub fn subsystems(&self, prefix: &str) -> Result<Vec<Listed>, CallError> {
        Ok(self.call(&ListSubsystems { prefix: prefix.to_owned() })?.subsystems)
    }

    pub fn items(&self, prefix: &str) -> Result<ItemList, CallError> {
        self.call(&ListItems { prefix: prefix.to_owned() })
    }

    /// Descriptions of these subsystems; one that has gone meanwhile is left out.
    pub fn descriptions<'b>(&self, names: impl Iterator<Item = &'b str>) -> Result<Vec<Description>, CallError> {
        let names: Vec<&str> = names.collect();
        let mut descriptions = Vec::new();
        for some in names.chunks(ASKED_AT_ONCE) {
            let requests: Vec<_> = some.iter().map(|name| GetSubsystem { name: (*name).to_owned() }).collect();
            for pending in self.client.start_all(&requests, self.rest())? {
                match self.client.finish(pending) {
                    Ok(its) => descriptions.push(its.description),
                    Err(CallError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(descriptions)
    }

    /// Events that some subsystem that is known handles, each as often as it is handled.
    pub fn events(&self) -> Result<Vec<Handled>, CallError> {
        let subsystems = self.subsystems("")?;
        let some = subsystems.iter().filter(|its| its.events > 0).map(|its| its.name.as_str());
        Ok(self.descriptions(some)?.into_iter().flat_map(|its| its.events).collect())
    }

    /// Calls, as [`Registered::events`].
    pub fn calls(&self) -> Result<Vec<Handled>, CallError> {
        let subsystems = self.subsystems("")?;
        let some = subsystems.iter().filter(|its| its.calls > 0).map(|its| its.name.as_str());
        Ok(self.descriptions(some)?.into_iter().flat_map(|its| its.calls).collect())
    }

    /// Topics whose names begin with `prefix`, by name. Of jobs there is one entry for all, which ends in `/`: a
    /// beamline has many.
    pub fn topics(&self, prefix: &str) -> Result<Vec<Topic>, CallError> {
        let status = self.status()?;
        let subsystems = self.subsystems("")?; // of those below the prefix, and of those that it goes into
        let mut topics: Vec<Topic> = status.agents.iter().flat_map(of_agent).collect();
        topics.push(Topic::map(format!("{}/jobs/", status.broker.beamline), what::JOBS, "broker"));
        topics
            .extend(subsystems.iter().map(|its| Topic::map(description_topic(&its.name), what::DESCRIPTION, "broker")));
        let agents: BTreeMap<&str, &str> =
            subsystems.iter().map(|its| (its.name.as_str(), its.agent.as_str())).collect();
        let agent_of = |subsystem: &str| agents.get(subsystem).copied().unwrap_or_default();
        topics.extend(self.values(agent_of)?);
        for alarm in self.call(&ListAlarms {})?.alarms {
            let name = format!("{}/alarm/{}", alarm.subsystem, alarm.alarm.code);
            topics.push(Topic::map(name, what::ALARM, agent_of(&alarm.subsystem)));
        }
        let with_events = subsystems.iter().filter(|its| its.events > 0).map(|its| its.name.as_str());
        for its in self.descriptions(with_events)? {
            let event = |event: &str| Topic::map(event_topic(&its.name, event), what::EVENT, agent_of(&its.name));
            topics.extend(its.events.iter().map(|handled| event(&handled.name)));
        }
        topics.retain(|topic| topic.name.starts_with(prefix));
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    fn values<'b>(&self, agent_of: impl Fn(&str) -> &'b str) -> Result<Vec<Topic>, CallError> {
        let items = self.items("")?.items.into_iter().filter(|listed| listed.item.published);
        Ok(items
            .map(|listed| Topic {
                name: format!("{}/kv/{}", listed.subsystem, listed.item.name),
                what: what::VALUE,
                kind: shown_type(&listed.item.kind),
                unit: listed.item.kind.unit.clone(),
                last: listed.reading.as_ref().map(|reading| (reading.revision, reading.time_ns)),
                from: agent_of(&listed.subsystem).to_owned(),
            })
            .collect())
    }
}

/// `; the nearest is NAME`, to be said behind a name that is not known; empty where none is near.
pub fn near<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    nearest(word, names).map(|name| format!("; the nearest is {name}")).unwrap_or_default()
}

/// What a topic carries, in one word.
pub mod what {
    pub const VALUE: &str = "value";
    pub const ALARM: &str = "alarm";
    pub const EVENT: &str = "event";
    pub const TELEMETRY: &str = "telemetry";
    pub const STATE: &str = "state";
    pub const DESCRIPTION: &str = "description";
    pub const JOB: &str = "job";
    pub const JOBS: &str = "jobs";

    /// By the topic's name alone (`spec/telemetry.md`); these words are no parts of subsystems' names.
    pub fn of(topic: &str) -> &'static str {
        let parts: Vec<&str> = topic.split('/').collect();
        match parts.as_slice() {
            [.., "kv", _] => VALUE,
            [.., "alarm", _] => ALARM,
            [.., "event", _] => EVENT,
            [_, "jobs", _] => JOB,
            [.., "telemetry"] => TELEMETRY,
            [.., "state"] => STATE,
            [.., "description"] => DESCRIPTION,
            _ => "?",
        }
    }
}

impl Topic {
    fn map(name: String, what: &'static str, from: &str) -> Self {
        Self { name, what, kind: "map".to_owned(), unit: None, last: None, from: from.to_owned() }
    }
}

/// One that never told a figure has no topic for them.
fn of_agent(agent: &AgentStatus) -> Vec<Topic> {
    let state = Topic::map(state_topic(&agent.name), what::STATE, "broker");
    let telemetry = Topic::map(telemetry_topic(&agent.name), what::TELEMETRY, &agent.name);
    if agent.telemetry.is_empty() { vec![state] } else { vec![state, telemetry] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_tell_by_their_names_what_they_carry() {
        let cases = [
            ("x01/pump/kv/pressure", "value"),
            ("x01/vacuum/pump/alarm/HOT", "alarm"),
            ("x01/pump/event/vent", "event"),
            ("x01/jobs/7", "job"),
            ("x01/writer/telemetry", "telemetry"),
            ("x01/writer/state", "state"),
            ("x01/pump/description", "description"),
            ("x01/other", "?"),
            ("", "?"),
        ];
        for (topic, expected) in cases {
            assert_eq!(what::of(topic), expected, "{topic}");
        }
    }
}

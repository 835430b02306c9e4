//! What the commands that listen share: the subscription, and a word to who waits for a topic that is silent.

use crate::{
    connection::{CALL_TIMEOUT, Connection},
    human,
    registered::{Registered, Topic, near},
};
use clap::Args;
use ecs_schemas::registry::AgentState;
use ecs_sdk::{CallError, Client, Published, Subscriber};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// After this long without a message a person is told why none may come. Telemetry comes each second.
const SILENCE: Duration = Duration::from_secs(3);
/// Topics of one prefix that are told of when all are silent.
const TOLD_MAX: usize = 3;

#[derive(Debug, Args)]
pub struct Endpoint {
    /// The broker's publish endpoint [default: as the beamline's file says, or one port above --broker]
    #[arg(long, value_name = "ENDPOINT")]
    publish: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub struct Listening {
    client: Client,
    subscriber: Subscriber,
    prefixes: Vec<String>,
    began: Instant,
    /// The broker's clock when listening began: what was published before is a last value.
    began_ns: u64,
    /// Whether a last value will do, or who waits wants something new.
    takes_last_values: bool,
    has_heard: bool,
    has_told: bool,
}

impl Endpoint {
    /// Listens to all topics that begin with one of the prefixes. `takes_last_values`: they are what the caller shows too.
    ///
    /// # Errors
    /// Nobody answers: a subscriber alone cannot tell a silent broker from one that is not there.
    pub fn listen(&self, prefixes: Vec<String>, takes_last_values: bool) -> anyhow::Result<Listening> {
        let client = self.connection.client()?;
        let status = Registered::new(&client, CALL_TIMEOUT).status()?;
        let endpoint = match &self.publish {
            Some(endpoint) => endpoint.clone(),
            None => self.connection.endpoints()?.publish_endpoint,
        };
        let subscriber = Subscriber::new(&endpoint, &prefixes)?;
        let (began, began_ns) = (Instant::now(), status.broker.now_ns);
        Ok(Listening {
            client,
            subscriber,
            prefixes,
            began,
            began_ns,
            takes_last_values,
            has_heard: false,
            has_told: false,
        })
    }
}

impl Listening {
    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether a message was published before this began.
    pub fn is_last_value(&self, message: &Published) -> bool {
        message.header.time_ns < self.began_ns
    }

    /// The next message. When for `SILENCE` none has come, stderr says once why that may be.
    pub fn next(&mut self, timeout: Duration) -> Option<Published> {
        let message = self.subscriber.next_published(timeout);
        let is_wanted = |message: &Published| self.takes_last_values || !self.is_last_value(message);
        self.has_heard |= message.as_ref().is_some_and(is_wanted);
        if !self.has_heard && self.elapsed() >= SILENCE {
            self.tell_why_silent();
        }
        message
    }

    /// Says on stderr what is known of each prefix, once.
    pub fn tell_why_silent(&mut self) {
        if std::mem::replace(&mut self.has_told, true) {
            return;
        }
        for prefix in &self.prefixes {
            match why_silent(&self.client, prefix) {
                Ok(why) => eprintln!("{why}"),
                Err(error) => eprintln!("nothing has come: {error}"),
            }
        }
    }
}

/// What the registry knows of topics from which nothing comes.
fn why_silent(client: &Client, prefix: &str) -> Result<String, CallError> {
    let registered = Registered::new(client, CALL_TIMEOUT);
    let topics = registered.topics("")?;
    let matching: Vec<&Topic> = topics.iter().filter(|topic| topic.name.starts_with(prefix)).collect();
    if matching.is_empty() && !topics.iter().any(|topic| prefix.starts_with(&topic.name)) {
        return Ok(format!(
            "no topic begins with {prefix:?}{}; `ecs-cli topic ls` lists all",
            near_topic(prefix, &topics)
        ));
    }
    let status = registered.status()?;
    let is_gone = |agent: &str| {
        status.agents.iter().any(|its| its.name == agent && matches!(its.state, AgentState::Gone | AgentState::Missing))
    };
    let mut words: Vec<String> = matching.iter().take(TOLD_MAX).map(|topic| of_topic(topic, &is_gone)).collect();
    if matching.len() > TOLD_MAX {
        words.push(format!("and {} more", matching.len() - TOLD_MAX));
    }
    Ok(format!("nothing new from {prefix:?} yet: {}", words.join("; ")))
}

fn of_topic(topic: &Topic, is_gone: &impl Fn(&str) -> bool) -> String {
    let when = match topic.last {
        Some((_, time_ns)) => format!("last {} ago", human::between(time_ns, human::now_ns())),
        None => "comes when there is news".to_owned(),
    };
    let gone = if is_gone(&topic.from) { ", which is gone" } else { "" };
    format!("{} of {}{gone}, {when}", topic.name, topic.from)
}

/// The nearest topic, or the nearest beginning of one that is as deep.
fn near_topic(prefix: &str, topics: &[Topic]) -> String {
    let parts = prefix.trim_end_matches('/').split('/').count();
    let beginnings: BTreeSet<String> =
        topics.iter().map(|topic| topic.name.split('/').take(parts).collect::<Vec<_>>().join("/")).collect();
    near(prefix.trim_end_matches('/'), beginnings.iter().map(String::as_str))
}

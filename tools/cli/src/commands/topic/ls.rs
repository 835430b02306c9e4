//! `ecs-cli topic ls`: the topics that the registry knows, and those that are heard.

use super::listening::{Endpoint, Listening};
use crate::{
    completing,
    connection::CALL_TIMEOUT,
    exit::Exit,
    human,
    registered::{Registered, Topic, what},
    report,
    table::{Cell, Mood, Table},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_sdk::Published;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// Topics that are only heard and that one listing takes in. Others that come then are not listed.
const HEARD_MAX: usize = 32_768;

const EXAMPLES: &str = "\
Examples:
  ecs-cli topic ls
  ecs-cli topic ls x01/pump
  ecs-cli topic ls x01/ --seconds 3
  ecs-cli topic ls --json

Without --seconds these are the topics that the registry knows: values, alarms that are raised, events that are handled,
agents and their figures. Each job has a topic of its own below BEAMLINE/jobs/. With --seconds it listens too, and the
last column says how many new messages came. `heard` without `registry`: nobody has described this topic.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ls {
    /// Only topics that begin so
    #[arg(default_value = "", hide_default_value = true, add = ArgValueCompleter::new(completing::topics))]
    prefix: String,
    /// Listen for so long, and say what was heard
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::seconds)]
    seconds: Option<f64>,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    endpoint: Endpoint,
}

/// What was heard of one topic.
#[derive(Debug, Default)]
struct Heard {
    /// Published while we listened; the last value that comes at once is none.
    messages: u64,
    seq: u64,
    time_ns: u64,
    from: String,
}

struct Row {
    topic: Topic,
    is_registered: bool,
    /// None where nobody listened.
    messages: Option<u64>,
}

impl Ls {
    pub fn run(self) -> anyhow::Result<Exit> {
        let mut listening = self.endpoint.listen(vec![self.prefix.clone()], true)?;
        let heard = match self.seconds {
            Some(seconds) => hear(&mut listening, Duration::from_secs_f64(seconds)),
            None => BTreeMap::new(),
        };
        let topics = Registered::new(listening.client(), CALL_TIMEOUT).topics(&self.prefix)?;
        let rows = merge(topics, heard, self.seconds.is_some());
        if self.json {
            report::print_json(&json!({ "topics": rows.iter().map(as_json).collect::<Vec<_>>() }))?;
        } else if rows.is_empty() {
            listening.tell_why_silent();
        } else {
            table(&rows).print()?;
        }
        Ok(Exit::Ok)
    }
}

fn hear(listening: &mut Listening, patience: Duration) -> BTreeMap<String, Heard> {
    let mut all: BTreeMap<String, Heard> = BTreeMap::new();
    while let Some(rest) = patience.checked_sub(listening.elapsed()).filter(|rest| !rest.is_zero()) {
        let Some(message) = listening.next(rest) else { continue };
        let is_new = !listening.is_last_value(&message);
        if all.len() >= HEARD_MAX && !all.contains_key(&message.topic) {
            continue;
        }
        let Published { topic, header, .. } = message;
        let heard = all.entry(topic).or_default();
        heard.messages += u64::from(is_new);
        (heard.seq, heard.time_ns, heard.from) = (header.seq, header.time_ns, header.source);
    }
    all
}

/// What was heard is newer than what the registry says.
fn merge(topics: Vec<Topic>, mut heard: BTreeMap<String, Heard>, has_listened: bool) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for mut topic in topics {
        let heard = heard.remove(&topic.name);
        topic.last = heard.as_ref().map(|heard| (heard.seq, heard.time_ns)).or(topic.last);
        let messages = has_listened.then(|| heard.map_or(0, |heard| heard.messages));
        rows.push(Row { topic, is_registered: true, messages });
    }
    for (name, heard) in heard {
        let what = what::of(&name);
        let kind = if what == "?" || what == what::VALUE { "?" } else { "map" };
        let last = Some((heard.seq, heard.time_ns));
        let topic = Topic { name, what, kind: kind.to_owned(), unit: None, last, from: heard.from };
        // A job is known to the registry, though not listed one by one.
        rows.push(Row { is_registered: what == what::JOB, topic, messages: Some(heard.messages) });
    }
    rows.sort_by(|one, other| one.topic.name.cmp(&other.topic.name));
    rows
}

fn table(rows: &[Row]) -> Table {
    let now_ns = human::now_ns();
    let mut table = Table::new(["topic", "what", "type", "seq", "last", "from", "known by"]);
    for row in rows {
        let topic = &row.topic;
        let (seq, age) = match topic.last {
            Some((seq, time_ns)) => (seq.to_string(), format!("{} ago", human::between(time_ns, now_ns))),
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row([
            topic.name.clone().into(),
            topic.what.into(),
            topic.kind.clone().into(),
            seq.into(),
            age.into(),
            topic.from.clone().into(),
            known_by(row),
        ]);
    }
    table
}

fn known_by(row: &Row) -> Cell {
    match (row.is_registered, row.messages) {
        (true, Some(messages)) if messages > 0 => format!("registry, heard {messages}").into(),
        (true, _) => "registry".into(),
        (false, messages) => Cell::new(format!("heard {}", messages.unwrap_or(0)), Mood::Warning),
    }
}

fn as_json(row: &Row) -> serde_json::Value {
    let Topic { name, what, kind, unit, last, from } = &row.topic;
    json!({
        "topic": name, "what": what, "type": kind, "unit": unit, "from": from,
        "seq": last.map(|(seq, _)| seq), "time_ns": last.map(|(_, time_ns)| time_ns),
        "registered": row.is_registered, "heard": row.messages,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, last: Option<(u64, u64)>) -> Topic {
        let kind = "f64".to_owned();
        Topic { name: name.to_owned(), what: what::of(name), kind, unit: None, last, from: "x/agent".to_owned() }
    }

    #[test]
    fn heard_and_registered_topics_are_one_list_that_says_which_is_which() {
        let registered = vec![topic("x/pump/kv/a", Some((3, 30))), topic("x/pump/kv/b", Some((1, 10)))];
        let heard = [
            ("x/pump/kv/a".to_owned(), Heard { messages: 2, seq: 5, time_ns: 50, from: "x/agent".to_owned() }),
            ("x/jobs/7".to_owned(), Heard { messages: 1, seq: 1, time_ns: 9, from: "broker".to_owned() }),
            ("x/strange".to_owned(), Heard { messages: 0, seq: 8, time_ns: 2, from: "x/agent".to_owned() }),
        ];
        let rows = merge(registered, heard.into(), true);
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.topic.name.as_str(), row.is_registered, row.messages, row.topic.last.map(|last| last.0)))
            .collect();
        assert_eq!(
            found,
            [
                ("x/jobs/7", true, Some(1), Some(1)),
                ("x/pump/kv/a", true, Some(2), Some(5)),
                ("x/pump/kv/b", true, Some(0), Some(1)),
                ("x/strange", false, Some(0), Some(8)),
            ]
        );
    }
}

//! `ecs-cli topic pub`: a value of a subsystem that this process hosts for the time.
//!
//! ```text
//! agent.register, with itself as a temporary subsystem of one item ─▶ kv.publish … ─▶ agent.leave
//! ```
//!
//! # Rules
//! P1  The agent has the subsystem's name, so that the broker refuses a name that another one holds. Both go together.
//! P2  Nor is a name taken that somebody will come back to: of an agent of the configuration, of a subsystem that is
//!     gone. Describing it here would drop what is kept of it.
//! P3  Each publication is answered before the next: what the broker refuses ends the command with its reason.
//! P4  A broker that is away is waited for, and told all of it again when it is back.

use crate::{
    connection::{CALL_TIMEOUT, Connection},
    exit::Exit,
    human, params,
    registered::Registered,
    values,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use ecs_schemas::{
    envelope::Request,
    error_code::ErrorCode,
    kv::{self, Item},
    registry::{AgentState, AgentStatus, Heartbeat, Leave, Register, Registered as Welcome},
    subsystem::Description,
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{CallError, Client, stop};
use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

/// What such an agent is called in `status`.
pub const KIND: &str = "topic-pub";
/// Each publication is a question and its answer; more per second is a benchmark's work.
const RATE_HZ_MAX: f64 = 1000.0;
/// Once in eleven days: what is rarer is once, and longer times than these are none that a clock has.
const RATE_HZ_MIN: f64 = 1e-6;

const EXAMPLES: &str = "\
Examples:
  ecs-cli topic pub x01/test/setpoint 2.5 --unit mm
  ecs-cli topic pub x01/test/setpoint 2.5 --rate 10 --count 100
  ecs-cli topic pub x01/test/label 12 --type string --seconds 60
  ecs-cli topic pub x01/test/roi x=10 y=20 width=512

The topic is SUBSYSTEM/kv/ITEM. Subsystem and value are there as long as the command runs: without --rate and --count it
publishes once and keeps the value until Ctrl-C or --seconds. With --count 1 it publishes once and ends: who listens then
has seen the value, and it is no more. With keys it needs the role agent.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Publish {
    /// SUBSYSTEM/ITEM; the subsystem must be nobody else's
    path: String,
    /// The value: JSON where it parses as JSON, else text. Or KEY=VALUE words and @FILE.json, which make a map
    #[arg(required = true, allow_negative_numbers = true, value_name = "VALUE|KEY=VALUE")]
    value: Vec<String>,
    /// Type of the item [default: the value's]
    #[arg(long = "type", value_name = "TYPE", value_parser = form)]
    form: Option<Form>,
    /// Unit of the item
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Publish so often per second [default: once; 1 with --count above 1]
    #[arg(long, value_name = "HZ", value_parser = rate)]
    rate: Option<f64>,
    /// End after so many publications; the value goes with the last
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::seconds)]
    seconds: Option<f64>,
    #[command(flatten)]
    connection: Connection,
}

/// Types that a value on a command line can have.
const FORMS: [Form; 7] = [Form::Any, Form::Bool, Form::I64, Form::F64, Form::String, Form::List, Form::Map];

fn form(text: &str) -> anyhow::Result<Form> {
    let found = FORMS.into_iter().find(|form| form.as_str() == text);
    found.ok_or_else(|| anyhow!("a type is one of {}", FORMS.map(Form::as_str).join(", ")))
}

fn rate(text: &str) -> Result<f64, String> {
    let hz = text.parse::<f64>().ok().filter(|hz| (RATE_HZ_MIN..=RATE_HZ_MAX).contains(hz));
    hz.ok_or_else(|| format!("a rate of {RATE_HZ_MIN} up to {RATE_HZ_MAX} per second"))
}

impl Publish {
    pub fn run(self) -> anyhow::Result<Exit> {
        let stop = stop::install();
        let (subsystem, item) = values::split_path(&self.path)?;
        let value = self.value()?;
        let kind = self.kind(&value)?;
        let client = self.connection.client()?;
        check_free(&client, &subsystem)?;
        let register = register(&subsystem, &item, kind);
        let publish = kv::Publish { subsystem, item, value, skipped: 0 };
        let mut hosted = Hosted::begin(client, register, publish)?;
        let outcome = self.publish_until_over(&mut hosted, &|| stop.is_set());
        hosted.leave();
        let published = outcome?;
        eprintln!("{} published, and the subsystem is no more", human::count(published));
        Ok(Exit::Ok)
    }

    fn value(&self) -> anyhow::Result<Value> {
        match (self.value.as_slice(), self.form) {
            ([word], Some(Form::String)) => Ok(Value::from(word.as_str())),
            ([word], _) if !is_parameter(word) => Ok(values::parse(word, &ValueType::default())),
            (words, _) => params::parse(words),
        }
    }

    fn kind(&self, value: &Value) -> anyhow::Result<ValueType> {
        let form = self.form.unwrap_or_else(|| form_of(value));
        let kind = ValueType { unit: self.unit.clone(), ..ValueType::of(form) };
        kind.check("the value", value).map_err(|failure| anyhow!("{}", failure.message))?;
        Ok(kind)
    }

    /// How many were published.
    fn publish_until_over(&self, hosted: &mut Hosted, is_stopped: &dyn Fn() -> bool) -> anyhow::Result<u64> {
        let start = Instant::now();
        let end = self.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
        let interval = self.interval();
        let (mut published, mut due) = (0, Some(start));
        loop {
            let now = Instant::now();
            let is_over = end.is_some_and(|end| now >= end) || self.count == Some(published);
            if is_stopped() || is_over {
                return Ok(published);
            }
            if due.is_some_and(|due| now >= due) {
                let revision = hosted.publish()?;
                published += u64::from(revision.is_some());
                // What could not be kept up with is left out, not made up for.
                due = interval.map(|interval| due.map_or(now, |due| due + interval).max(Instant::now()));
                if let (1, Some(revision)) = (published, revision) {
                    hosted.tell(revision, &self.how());
                }
            }
            let until = [due, end, Some(hosted.heartbeat_at)].into_iter().flatten().min().unwrap_or(now);
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(STOP_LOOK));
            hosted.keep_alive()?;
        }
    }

    /// How often it publishes and how long it lasts, for a person.
    fn how(&self) -> String {
        match self.interval() {
            Some(interval) => format!("every {}; Ctrl-C ends it", human_interval(interval)),
            None if self.count == Some(1) => "once, and ends".to_owned(),
            None => "once, and keeps it; Ctrl-C ends it".to_owned(),
        }
    }

    fn interval(&self) -> Option<Duration> {
        let rate_hz = self.rate.or(self.count.filter(|count| *count > 1).map(|_| 1.0));
        rate_hz.map(|rate_hz| Duration::from_secs_f64(1.0 / rate_hz))
    }
}

/// A Ctrl-C is seen this soon.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// `KEY=VALUE` or `@FILE`, not `"a=b"` and not `{"a": "="}`.
fn is_parameter(word: &str) -> bool {
    let is_name = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    word.starts_with('@') || word.split_once('=').is_some_and(|(key, _)| is_name(key))
}

fn form_of(value: &Value) -> Form {
    match value {
        Value::Bool(_) => Form::Bool,
        Value::Int(_) | Value::Uint(_) => Form::I64,
        Value::Float(_) => Form::F64,
        Value::Text(_) => Form::String,
        Value::List(_) => Form::List,
        Value::Map(_) => Form::Map,
        _ => Form::Any,
    }
}

/// Rule P2.
fn check_free(client: &Client, name: &str) -> anyhow::Result<()> {
    let registered = Registered::new(client, CALL_TIMEOUT);
    let status = registered.status()?;
    let held = |by: &str, state: &str| {
        anyhow!(
            "{name} is held by {by}, which is {state}: stop it, or choose another name; `ecs-cli ls` lists those that are taken"
        )
    };
    let is_name = |agent: &&AgentStatus| agent.name == name;
    if status.agents.iter().find(is_name).is_some_and(|agent| agent.state == AgentState::Missing) {
        bail!("{name} is an agent of the beamline's file, which has not come yet: choose another name");
    }
    if let Some(agent) = status.agents.iter().filter(is_name).find(|agent| agent.kind != KIND) {
        return Err(held(&format!("the agent {name} (process {} on {})", agent.pid, agent.host), agent.state.as_str()));
    }
    match registered.subsystems(name)?.into_iter().find(|its| its.name == name && !its.temporary) {
        Some(its) => Err(held(&format!("the agent {}", its.agent), its.state.as_str())),
        None => Ok(()),
    }
}

/// Rule P1.
fn register(name: &str, item: &str, kind: ValueType) -> Register {
    let item = Item { name: item.to_owned(), kind, help: "Published by hand".to_owned(), ..Item::default() };
    let description = Description {
        name: name.to_owned(),
        temporary: true,
        help: "ecs-cli topic pub".to_owned(),
        items: vec![item],
        ..Description::default()
    };
    Register {
        name: name.to_owned(),
        kind: KIND.to_owned(),
        host: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        pid: std::process::id(),
        version: ecs_schemas::VERSION.to_owned(),
        instance: RandomState::new().hash_one(human::now_ns()), // seeded by the system's random numbers
        state: AgentState::Ready,
        services: Vec::new(),
        jobs: Vec::new(),
        subsystems: vec![description],
    }
}

/// The agent and its one item, at the broker.
struct Hosted {
    client: Client,
    register: Register,
    publish: kv::Publish,
    heartbeat: Duration,
    heartbeat_at: Instant,
    /// A broker that needed another one does not know the value.
    registrations: u64,
    /// Said on stderr, so that it is said once.
    is_away: bool,
}

impl Hosted {
    fn begin(client: Client, register: Register, publish: kv::Publish) -> anyhow::Result<Self> {
        let mut hosted = Self {
            client,
            register,
            publish,
            heartbeat: Duration::ZERO,
            heartbeat_at: Instant::now(),
            registrations: 0,
            is_away: false,
        };
        hosted.register()?;
        Ok(hosted)
    }

    fn register(&mut self) -> Result<(), CallError> {
        let Welcome { heartbeat_ms, .. } = self.client.call(&self.register, CALL_TIMEOUT)?;
        self.registrations += 1;
        self.heartbeat = Duration::from_millis(heartbeat_ms.into());
        self.heartbeat_at = Instant::now() + self.heartbeat;
        Ok(())
    }

    /// The revision that the value has; none while the broker is away.
    fn publish(&mut self) -> anyhow::Result<Option<u64>> {
        let publish = self.publish.clone();
        Ok(self.ask(&publish)?.map(|published| published.revision))
    }

    /// Shows that the agent lives, when that is due. A broker that has restarted knows neither it nor the value.
    fn keep_alive(&mut self) -> anyhow::Result<()> {
        if Instant::now() < self.heartbeat_at {
            return Ok(());
        }
        let before = self.registrations;
        self.ask(&Heartbeat { state: AgentState::Ready })?;
        if self.registrations > before {
            self.publish()?;
        }
        Ok(())
    }

    /// Rules P3 and P4.
    fn ask<R: Request>(&mut self, request: &R) -> anyhow::Result<Option<R::Reply>> {
        self.heartbeat_at = Instant::now() + self.heartbeat; // any message is a sign of life
        let answer = match self.client.call(request, CALL_TIMEOUT) {
            Err(CallError::Refused(failure)) if failure.code == ErrorCode::NotRegistered => {
                self.is_away = true; // it was, unseen
                self.register().and_then(|()| self.client.call(request, CALL_TIMEOUT))
            }
            other => other,
        };
        match answer {
            Ok(reply) => {
                if std::mem::replace(&mut self.is_away, false) {
                    eprintln!("{} is published again", self.path());
                }
                Ok(Some(reply))
            }
            Err(error @ (CallError::NoBroker { .. } | CallError::Timeout { .. })) => {
                if !std::mem::replace(&mut self.is_away, true) {
                    eprintln!("{} waits for the broker: {error}", self.path());
                }
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot publish {}", self.path())),
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.publish.subsystem, self.publish.item)
    }

    fn tell(&self, revision: u64, how: &str) {
        let kind = &self.register.subsystems[0].items[0].kind;
        let (value, path) = (values::shown_short(&self.publish.value, kind), self.path());
        let form = kind.form.as_str();
        eprintln!("publishes {path} = {value} ({form}), from seq {revision}, {how}");
    }

    /// At the end nobody is left to tell that it did not work: the broker notices by itself.
    fn leave(&self) {
        let _ = self.client.call(&Leave {}, CALL_TIMEOUT);
    }
}

fn human_interval(interval: Duration) -> String {
    match interval.as_millis() {
        0..1000 => format!("{} ms", interval.as_secs_f64() * 1e3),
        _ => format!("{} s", interval.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        publish: Publish,
    }

    fn parsed(words: &[&str]) -> Publish {
        Line::try_parse_from([&["pub", "x/test/item"], words].concat()).expect("a command line").publish
    }

    #[test]
    fn type_is_that_of_the_value_unless_it_is_named() {
        let cases: [(&[&str], Form, Value); 10] = [
            (&["true"], Form::Bool, true.into()),
            (&["-5"], Form::I64, (-5).into()),
            (&["2.5"], Form::F64, 2.5.into()),
            (&["5", "--type", "f64"], Form::F64, 5.into()),
            (&["open"], Form::String, "open".into()),
            (&["12", "--type", "string"], Form::String, "12".into()),
            (&["a=b", "--type", "string"], Form::String, "a=b".into()),
            (&["[1, 2]"], Form::List, vec![1, 2].into()),
            (&["x=1", "name=a"], Form::Map, Value::map([("x", 1.into()), ("name", "a".into())])),
            (&["{\"a\": \"=\"}"], Form::Map, Value::map([("a", "=".into())])),
        ];
        for (words, form, value) in cases {
            let publish = parsed(words);
            let found = publish.value().expect("a value");
            assert_eq!((publish.kind(&found).expect("a type").form, found), (form, value), "{words:?}");
        }
        let wrong = parsed(&["open", "--type", "f64"]);
        let value = wrong.value().expect("a value");
        assert!(wrong.kind(&value).expect_err("text is no number").to_string().contains("f64"));
        assert!(parsed(&["1", "2"]).value().is_err(), "two values are none");
    }

    #[test]
    fn what_is_told_says_whether_the_value_stays() {
        assert_eq!(parsed(&["1"]).how(), "once, and keeps it; Ctrl-C ends it");
        assert_eq!(parsed(&["1", "--seconds", "5"]).how(), "once, and keeps it; Ctrl-C ends it");
        assert_eq!(parsed(&["1", "--count", "1"]).how(), "once, and ends");
        assert_eq!(parsed(&["1", "--count", "2"]).how(), "every 1 s; Ctrl-C ends it");
    }

    #[test]
    fn once_is_the_rule_and_a_count_repeats_each_second() {
        assert_eq!(parsed(&["1"]).interval(), None);
        assert_eq!(parsed(&["1", "--count", "1"]).interval(), None);
        assert_eq!(parsed(&["1", "--count", "5"]).interval(), Some(Duration::from_secs(1)));
        assert_eq!(parsed(&["1", "--rate", "4"]).interval(), Some(Duration::from_millis(250)));
        assert!(["0", "1001", "nan", "inf", "-1", "1e-7", "1e-20", "1e-320"].iter().all(|text| rate(text).is_err()));
        assert!(parsed(&["1", "--rate", "0.000001"]).interval().is_some());
    }
}

//! What `call`, `event call` and `sync` share: parameters, patience, and the words that come before the answer.

use crate::{
    completing,
    connection::{CALL_TIMEOUT, Connection},
    human::printable,
    registered::{Registered, near},
    values::{parse_params, shown},
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    envelope::{Notice, Request, decode},
    exchange::{Feedback, Params},
    value_type::ValueType,
};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Asking {
    /// KEY=VALUE, or @FILE with a JSON object
    #[arg(add = ArgValueCompleter::new(completing::parameters))]
    params: Vec<String>,
    /// How long to wait for the last answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = crate::options::seconds)]
    timeout: f64,
    /// Print what is answered as JSON
    #[arg(long)]
    pub json: bool,
    /// Print the id for `ecs-cli trace` on stderr
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Asking {
    /// # Errors
    /// A parameter is none.
    pub fn params(&self) -> anyhow::Result<Params> {
        parse_params(&self.params)
    }

    /// What to say of an event that nobody handles: the nearest that somebody does.
    pub fn near_event(&self, event: &str) -> String {
        let events = || {
            let client = self.connection.client().ok()?;
            Registered::new(&client, CALL_TIMEOUT).events().ok()
        };
        let known = events().unwrap_or_default();
        let near = near(event, known.iter().map(|handled| handled.name.as_str()));
        if near.is_empty() { "; `ecs-cli show SUBSYSTEM` lists what each handles".to_owned() } else { near }
    }

    /// Asks; feedback goes to stderr as it comes.
    ///
    /// # Errors
    /// Nobody answers, or the broker refuses.
    pub fn ask<R: Request>(&self, request: &R) -> anyhow::Result<R::Reply> {
        let client = self.connection.client()?;
        let on_notice = |kind: &str, body: &[u8]| {
            if let (false, Feedback::KIND, Ok(feedback)) = (self.json, kind, decode::<Feedback>(body)) {
                eprintln!("{}: {}", feedback.target, printable(&shown(&feedback.value, &ValueType::default())));
            }
        };
        let answer = client.call_with(request, Duration::from_secs_f64(self.timeout), on_notice);
        if self.trace {
            eprintln!("trace {:016x}", client.last_trace().unwrap_or(0));
        }
        Ok(answer?)
    }
}

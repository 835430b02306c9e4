//! Events: whom they go to, and who cannot even be asked.

use super::{
    Core,
    asking::{gone, target},
    exchanges::{Ask, Ended, Target},
    parameters::{check_against, check_params},
    registry::Presence,
    requests::{Answer, Call},
    subsystems::no_such_subsystem,
};
use crate::limits::{FANOUT_BYTES_MAX, SUGGESTIONS_MAX, TARGETS_MAX};
use ecs_schemas::{
    envelope::{Request, encode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, Params, RunEvent, TargetEnd},
    nearest::{nearest, quoted},
    registry::NAME_BYTES_MAX,
    subsystem::{Description, Handled},
};
use std::collections::BTreeSet;

impl Core {
    /// # Errors
    /// `bad_parameter`, `busy`. What is wrong for one target is that target's end.
    pub(super) fn call_event(&mut self, call: &Call<'_>, event: CallEvent) -> Answer {
        let bytes = check_params(&event.params)?;
        let targets = self.event_targets(&event)?;
        if bytes.saturating_mul(targets.len()) > FANOUT_BYTES_MAX {
            let message =
                format!("{bytes} bytes of parameters to {} targets; at most {FANOUT_BYTES_MAX}", targets.len());
            return Err(Failure::new(ErrorCode::BadParameter, message).with_hint("publish large values as an item"));
        }
        self.exchanges.admit(call.session, call.header.id)?;
        let CallEvent { event, params, .. } = event;
        let (mut asks, mut all, mut unknown) = (Vec::new(), Vec::new(), 0);
        for (index, name) in targets.into_iter().enumerate() {
            let agent = self.subsystems.agent_of(&name).unwrap_or_default().to_owned();
            let end = match self.subsystems.description(&name) {
                Some(description) => self.cannot_handle(description, &agent, &event, &params),
                None => {
                    unknown += 1;
                    Some(self.unknown_target(&name, unknown <= SUGGESTIONS_MAX))
                }
            };
            if end.is_none() {
                let run = RunEvent {
                    subsystem: name.clone(),
                    event: event.clone(),
                    params: params.clone(),
                    by: call.by.to_string(),
                };
                asks.push((index, encode(&run)));
            }
            all.push(Target { end, ..target(&name, &agent) });
        }
        let exchange = Self::new_exchange(call, Ask::Event { name: event.into() }, all);
        if asks.is_empty() {
            return Ok(Some(exchange.answer(Ok(0), call.now_ns).body));
        }
        let number = self.open(exchange);
        for (index, body) in asks {
            self.ask_target(number, index, RunEvent::KIND, body, call.now_ns);
        }
        Ok(None)
    }

    fn event_targets(&self, event: &CallEvent) -> Result<Vec<String>, Failure> {
        if event.targets.len() > TARGETS_MAX {
            let message = format!("{} targets; at most {TARGETS_MAX}", event.targets.len());
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        if !event.targets.is_empty() {
            if let Some(long) = event.targets.iter().find(|name| name.len() > NAME_BYTES_MAX) {
                return Err(no_such_subsystem(long));
            }
            let known = |name: &String| self.subsystems.find(name).unwrap_or(name).to_owned();
            let mut seen = BTreeSet::new();
            return Ok(event.targets.iter().map(known).filter(|name| seen.insert(name.clone())).collect());
        }
        let handlers = self.subsystems.handlers(&event.event, &self.registry);
        Ok(handlers.map(str::to_owned).collect())
    }

    fn unknown_target(&self, name: &str, with_nearest: bool) -> Ended {
        let suggested = || self.subsystems.resolve(name).err();
        let reason = with_nearest.then(suggested).flatten().unwrap_or_else(|| no_such_subsystem(name));
        Ended::not_ok(TargetEnd::NotHandled, reason)
    }

    /// Why a target is not even asked.
    fn cannot_handle(&self, description: &Description, agent: &str, event: &str, params: &Params) -> Option<Ended> {
        let name = &description.name;
        let Some(handled) = description.events.iter().find(|handled| handled.name == event) else {
            let reason = not_handled(name, event, &description.events);
            return Some(Ended::not_ok(TargetEnd::NotHandled, reason));
        };
        if self.registry.presence(agent) != Presence::Here {
            return Some(Ended::not_ok(TargetEnd::Gone, gone(name, agent)));
        }
        let wrong = check_against(&format!("{name} {event}"), handled, params).err()?;
        Some(Ended::not_ok(TargetEnd::Refused, wrong))
    }
}

fn not_handled(name: &str, event: &str, events: &[Handled]) -> Failure {
    let failure = Failure::new(ErrorCode::NotHandled, format!("{name} does not handle the event {}", quoted(event)));
    match nearest(event, events.iter().map(|handled| handled.name.as_str())) {
        Some(near) => failure.with_hint(format!("the nearest is {near}")),
        None => failure.with_hint(format!("`ecs-cli show {name}` lists what it handles")),
    }
}

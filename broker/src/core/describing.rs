//! Subsystems as their agents and everybody else see them: describing, alarms, coming and going.

use super::{Core, Session, items::that_fit, requests::Call};
use crate::limits::ALARMS_OF_SUBSYSTEM_MAX;
use ecs_schemas::{
    alarm::{AlarmList, Clear, Raise},
    error_code::{ErrorCode, Failure},
    job::Ack,
    registry::{AgentState, Register},
    subsystem::{Describe, Described, Description, Remove},
    trace::Spans,
};

impl Core {
    /// What a registering agent brings: what it described, and itself in any case.
    pub(super) fn brought(&self, register: &Register) -> Vec<Description> {
        let mut brought = register.subsystems.clone();
        if !brought.iter().any(|description| description.name == register.name) {
            brought.push(Description { name: register.name.clone(), ..Description::default() });
        }
        brought
    }

    /// Takes in what was admitted; what the agent hosted before and does not bring any more is forgotten
    /// when it is ready (rule D5).
    /// `is_other_state`: the agent was away, or is another start, or as ready as it was not.
    pub(super) fn take_in(
        &mut self,
        agent: &str,
        brought: Vec<Description>,
        is_other_state: bool,
        now_ns: u64,
    ) -> Vec<Described> {
        self.subsystems.await_others(agent, &brought);
        self.subsystems.make_room(agent, &brought);
        let mut described = Vec::new();
        for description in brought {
            let name = description.name.clone();
            self.redescribed.insert(name.clone()); // with the registration
            let (uuid, restored) = self.subsystems.describe(agent, description, &self.registry, now_ns);
            described.push(Described { name, uuid, restored });
        }
        self.forget_if_ready(agent);
        if is_other_state {
            self.subsystems.agent_changed(agent, true, now_ns);
        }
        self.dispatch_all(now_ns);
        described
    }

    /// # Errors
    /// `not_registered`, `bad_parameter`, `name_taken`, `busy`.
    pub(super) fn describe(&mut self, call: &Call<'_>, describe: Describe) -> Result<Described, Failure> {
        let (now_ns, description) = (call.now_ns, describe.description);
        if self.subsystems.is_any_undoable(&description.name) {
            self.redescribed.insert(description.name.clone()); // a value that it may drop may come back
        }
        self.note_once(&description.name);
        let agent = self.registry.registered(call.session)?.to_owned();
        call.sender.permit_name(&description.name)?;
        let brought = std::slice::from_ref(&description);
        self.subsystems.admit(&agent, brought, false, &self.registry)?;
        self.subsystems.make_room(&agent, brought);
        let name = description.name.clone();
        let (uuid, restored) = self.subsystems.describe(&agent, description, &self.registry, now_ns);
        self.dispatch_all(now_ns);
        Ok(Described { name, uuid, restored })
    }

    /// # Errors
    /// `not_registered`, `no_such_subsystem`, `conflict` (another agent's, or the agent itself).
    pub(super) fn remove(&mut self, session: &Session, remove: &Remove) -> Result<Ack, Failure> {
        self.note_once(&remove.name);
        self.check_owner(session, &remove.name)?;
        if self.registry.name_of(session).is_some_and(|name| *name == remove.name) {
            let message = format!("{} is the agent itself: it goes with agent.leave", remove.name);
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        self.subsystems.forget(&remove.name);
        Ok(Ack {})
    }

    /// # Errors
    /// `not_registered`, `no_such_subsystem`, `conflict`, `bad_parameter`, `busy`.
    pub(super) fn raise(&mut self, now_ns: u64, session: &Session, raise: Raise) -> Result<Ack, Failure> {
        self.note_once(&raise.subsystem);
        self.check_owner(session, &raise.subsystem)?;
        raise.alarm.check().map_err(|message| Failure::new(ErrorCode::BadParameter, message))?;
        let alarms = self.subsystems.description(&raise.subsystem).map(|its| its.alarms.as_slice()).unwrap_or_default();
        if alarms.len() >= ALARMS_OF_SUBSYSTEM_MAX && !alarms.iter().any(|alarm| alarm.code == raise.alarm.code) {
            let message = format!("{} has {ALARMS_OF_SUBSYSTEM_MAX} alarms raised already", raise.subsystem);
            return Err(Failure::new(ErrorCode::Busy, message).with_hint("clear those that are over"));
        }
        let code = raise.alarm.code.clone();
        self.subsystems.set_alarm(&raise.subsystem, &code, Some(raise.alarm), now_ns);
        Ok(Ack {})
    }

    /// Rule C5: what is said of a subsystem is not undone, so it is done once; but not before what is done again.
    fn note_once(&mut self, subsystem: &str) {
        self.once |= !self.redescribed.contains(subsystem);
    }

    pub(super) fn list_alarms(&self) -> AlarmList {
        let (alarms, left_out) = that_fit(self.subsystems.raised_alarms().into_iter());
        AlarmList { alarms, left_out }
    }

    /// # Errors
    /// `not_registered`, `no_such_subsystem`, `conflict`.
    pub(super) fn clear(&mut self, now_ns: u64, session: &Session, clear: &Clear) -> Result<Ack, Failure> {
        self.note_once(&clear.subsystem);
        self.check_owner(session, &clear.subsystem)?;
        self.subsystems.set_alarm(&clear.subsystem, &clear.code, None, now_ns);
        Ok(Ack {})
    }

    pub(super) fn find_trace(&self, id: u64) -> Result<Spans, Failure> {
        self.traces.find(id).ok_or_else(|| {
            let message = format!("no trace or message {id:016x} is remembered");
            Failure::new(ErrorCode::BadParameter, message).with_hint("the broker remembers the newest ones, in memory")
        })
    }

    /// An agent has told another state: its subsystems have it too.
    pub(super) fn note_agent_state(&mut self, session: &Session, now_ns: u64) {
        if let Some(agent) = self.registry.name_of(session).cloned() {
            self.forget_if_ready(&agent);
            self.subsystems.agent_changed(&agent, true, now_ns);
        }
    }

    /// Rule D5.
    fn forget_if_ready(&mut self, agent: &str) {
        if self.registry.state_of(agent) == AgentState::Ready {
            self.subsystems.forget_awaited(agent);
        }
    }

    /// What follows when agents are gone.
    pub(super) fn follow_parted(&mut self, now_ns: u64) {
        for agent in self.registry.take_parted() {
            self.end_of_agent(&agent, now_ns);
            self.subsystems.agent_changed(&agent, false, now_ns);
        }
    }
}

//! Agents and their sessions: who is here, who was, and who should be.
//!
//! ```text
//! missing ──register──▶ starting | ready ──silence or leave──▶ gone ──register──▶ …
//! ```
//!
//! # Rules (R1 to R4 of `schemas::registry` hold here; these add to them)
//! G1  A name is bound to the session that registered it. The binding ends when the agent is gone, so
//!     whatever still comes over that session is answered with `not_registered`.
//! G2  The same instance may register over itself (it reconnected); another one must wait until the
//!     holder is gone. Why not let the newest win? Two readouts on one detector, started by mistake,
//!     would take the name from each other for ever.
//! G3  `knows` are the jobs that the agent spoke of since it registered. An accepted job that is not in
//!     it is lost (rule J4).
//! G4  An agent whose key is revoked is gone at once, and what still comes over its session is refused. It is gone, too, as
//!     soon as its session speaks with another key: a client chooses its own routing id, and may take that of a
//!     connection that has just ended.
//! G5  `owes` are the jobs that the agent listed and that are not its own: it was told to end them. Until it
//!     has reported their end it is not given them anew, or that report would end the new attempt.
//! G6  Agents that are here at the same time agree on what a service follows; who differs is refused.

use super::{CoreOptions, Sender, Session, nanoseconds};
use crate::limits::{AGENTS_MAX, HELP_BYTES_MAX, JOBS_AT_ONCE_MAX, OPEN_JOBS_MAX, SERVICES_MAX, TEXT_BYTES_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::JobId,
    keys::PublicKey,
    registry::{AgentState, AgentStatus, Register, ServiceOffer, check_name},
    value::Value,
};
use foldhash::quality::RandomState;
use smol_str::SmolStr;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Second part of a name that the topics of jobs use.
const RESERVED_PART: &str = "jobs";

struct Agent {
    kind: String,
    host: String,
    pid: u32,
    version: String,
    instance: u64,
    state: AgentState,
    services: Vec<ServiceOffer>,
    /// The session while it is here.
    session: Option<Session>,
    since_ns: u64,
    /// When it was last heard, once it is away; until then its member knows.
    seen_ns: u64,
    /// From when it is away; meaningful without a session.
    away_since_ns: u64,
    knows: BTreeSet<JobId>,
    /// Rule G5.
    owes: BTreeSet<JobId>,
    telemetry: BTreeMap<String, Value>,
    /// The configuration names it.
    expected: bool,
}

/// What is known of a session that an agent has registered over: looked at for every message.
struct Member {
    name: SmolStr,
    /// The key that it registered with, if the broker has keys.
    key: Option<PublicKey>,
    seen_ns: u64,
}

/// Whether an agent can be reached, as the rules for jobs ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Here,
    /// Not reachable; counts as gone from `since_ns` on, which may be still to come: after a start of
    /// the broker every agent has the time of a heartbeat timeout to register.
    Away {
        since_ns: u64,
    },
}

pub struct Registry {
    beamline: String,
    timeout_ns: u64,
    started_ns: u64,
    agents: BTreeMap<String, Agent>,
    members: HashMap<Session, Member, RandomState>,
    /// Agents that are gone since this was last asked.
    parted: Vec<String>,
    /// Agents whose state is to be published, and those with new telemetry.
    changed: BTreeSet<String>,
    telemetered: BTreeSet<String>,
}

impl Registry {
    pub fn new(options: &CoreOptions, started_ns: u64) -> Self {
        let mut registry = Self {
            beamline: options.beamline.clone(),
            timeout_ns: nanoseconds(options.timeout),
            started_ns,
            agents: BTreeMap::new(),
            members: HashMap::default(),
            parted: Vec::new(),
            changed: BTreeSet::new(),
            telemetered: BTreeSet::new(),
        };
        for (name, kind) in &options.expected {
            registry.agents.insert(name.clone(), registry.missing(kind));
            registry.changed.insert(name.clone());
        }
        registry
    }

    fn missing(&self, kind: &str) -> Agent {
        Agent {
            kind: kind.to_owned(),
            host: String::new(),
            pid: 0,
            version: String::new(),
            instance: 0,
            state: AgentState::Missing,
            services: Vec::new(),
            session: None,
            since_ns: 0,
            seen_ns: 0,
            away_since_ns: self.started_ns + self.timeout_ns,
            knows: BTreeSet::new(),
            owes: BTreeSet::new(),
            telemetry: BTreeMap::new(),
            expected: true,
        }
    }

    /// The name that a session registered.
    pub fn name_of(&self, session: &Session) -> Option<&SmolStr> {
        self.members.get(session).map(|member| &member.name)
    }

    /// A message came over `session`, from whoever has this key: rule R3, unless the key was taken away (A3). The session's
    /// agent is gone if it is another's key (G4), which is true then.
    pub fn hear(&mut self, session: &Session, sender: &Sender, now_ns: u64) -> bool {
        let Some(member) = self.members.get_mut(session) else { return false };
        if member.key.as_ref() == sender.key() {
            if *sender != Sender::Revoked {
                member.seen_ns = now_ns;
            }
            return false;
        }
        let name = member.name.clone();
        tracing::warn!(agent = %name, "agent is gone: somebody else has its connection");
        self.part(&name, now_ns);
        true
    }

    /// Takes in an agent that was admitted. Of its listed jobs `knows` were found to be its own, `owes` not. True if it is
    /// another start than the one that was known under its name.
    pub fn register(
        &mut self,
        session: &Session,
        register: Register,
        (knows, owes): (BTreeSet<JobId>, BTreeSet<JobId>),
        now_ns: u64,
    ) -> bool {
        let before = self.agents.get(&register.name);
        let same_start = before.is_some_and(|agent| agent.instance == register.instance && agent.since_ns > 0);
        let since_ns = before.filter(|_| same_start).map_or(now_ns, |agent| agent.since_ns);
        let expected = before.is_some_and(|agent| agent.expected);
        if let Some(old_session) = before.and_then(|agent| agent.session.clone()) {
            self.members.remove(&old_session);
        }
        let agent = Agent {
            kind: register.kind,
            host: register.host,
            pid: register.pid,
            version: register.version,
            instance: register.instance,
            state: register.state,
            services: register.services,
            session: Some(session.clone()),
            since_ns,
            seen_ns: now_ns,
            away_since_ns: 0,
            knows,
            owes,
            telemetry: BTreeMap::new(),
            expected,
        };
        let member = Member { name: SmolStr::new(&register.name), key: None, seen_ns: now_ns };
        self.members.insert(session.clone(), member);
        self.changed.insert(register.name.clone());
        self.agents.insert(register.name, agent);
        !same_start
    }

    /// Notes the key that the agent of a session registered with (rule G4).
    pub fn note_key(&mut self, session: &Session, key: Option<&PublicKey>) {
        if let Some(member) = self.members.get_mut(session) {
            member.key = key.cloned();
        }
    }

    /// Rule G4.
    pub fn revoke(&mut self, key: &PublicKey, now_ns: u64) {
        let has_it = |member: &&Member| member.key.as_ref() == Some(key);
        let gone: BTreeSet<_> = self.members.values().filter(has_it).map(|member| member.name.clone()).collect();
        for name in gone {
            tracing::warn!(agent = %name, "agent is gone: its key was taken away or changed");
            self.part(&name, now_ns);
        }
    }

    /// Whether what `register` brings is within the limits. This comes first: what comes after it may walk all of it.
    ///
    /// # Errors
    /// `bad_parameter`.
    pub fn check_limits(&self, register: &Register) -> Result<(), Failure> {
        self.check_texts(register)?;
        let mut names = BTreeSet::new();
        for offer in &register.services {
            check_offer(offer)?;
            if !names.insert(&offer.name) {
                let message = format!("{} is offered twice in one registration", offer.name);
                return Err(Failure::new(ErrorCode::BadParameter, message));
            }
        }
        Ok(())
    }

    /// Whether the name is free for `register`, and what it says of services is what others say.
    ///
    /// # Errors
    /// `name_taken`, `conflict` (the session has another name, rule G6).
    pub fn check_free(&self, session: &Session, register: &Register) -> Result<(), Failure> {
        self.check_agreement(register)?;
        if let Some(name) = self.name_of(session).filter(|name| **name != register.name) {
            let message = format!("this connection is already registered as {name}");
            return Err(Failure::new(ErrorCode::Conflict, message));
        }
        match self.agents.get(&register.name) {
            Some(holder) if holder.session.is_some() && holder.instance != register.instance => {
                Err(self.name_taken(&register.name, holder))
            }
            _ => Ok(()),
        }
    }

    fn check_texts(&self, register: &Register) -> Result<(), Failure> {
        let bad = |message: String| Err(Failure::new(ErrorCode::BadParameter, message));
        check_name(&register.name).or_else(bad)?;
        let mut parts = register.name.split('/');
        if parts.next() != Some(self.beamline.as_str()) || parts.next() == Some(RESERVED_PART) {
            let beamline = &self.beamline;
            return bad(format!(
                "{} is not a name of this beamline: {beamline}/<agent>, not {beamline}/{RESERVED_PART}",
                register.name
            ));
        }
        if [&register.kind, &register.host, &register.version].iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            return bad(format!("kind, host and version have at most {TEXT_BYTES_MAX} bytes each"));
        }
        if register.services.len() > SERVICES_MAX || register.jobs.len() > OPEN_JOBS_MAX {
            return bad(format!("at most {SERVICES_MAX} services and {OPEN_JOBS_MAX} jobs"));
        }
        check_state(register.state)
    }

    /// Rule G6.
    fn check_agreement(&self, register: &Register) -> Result<(), Failure> {
        for offer in &register.services {
            if let Some((holder, other)) = self.contradiction(&register.name, offer) {
                let says = |follows: &Option<String>| follows.clone().unwrap_or_else(|| "no service".to_owned());
                let (theirs, this) = (says(&other.follows), says(&offer.follows));
                let message = format!("{} follows {theirs} for {holder}, and {this} for {}", offer.name, register.name);
                return Err(Failure::new(ErrorCode::Conflict, message)
                    .with_hint(format!("stop {holder}, or give both the same version and configuration")));
            }
        }
        Ok(())
    }

    /// Another agent that is here and says otherwise of what a service follows.
    fn contradiction(&self, name: &str, offer: &ServiceOffer) -> Option<(&str, &ServiceOffer)> {
        let others = self.agents.iter().filter(|(other, agent)| *other != name && agent.session.is_some());
        others
            .flat_map(|(other, agent)| agent.services.iter().map(move |theirs| (other.as_str(), theirs)))
            .find(|(_, theirs)| theirs.name == offer.name && theirs.follows != offer.follows)
    }

    fn name_taken(&self, name: &str, holder: &Agent) -> Failure {
        let message = format!("{name} is held by process {} on {}", holder.pid, holder.host);
        let seconds = self.timeout_ns as f64 / 1e9;
        Failure::new(ErrorCode::NameTaken, message).with_hint(format!(
            "stop that process; if it is dead, the name is free {seconds} s after its last heartbeat"
        ))
    }

    /// Forgets a gone agent where a new name needs its place: the last step before it is taken in.
    ///
    /// # Errors
    /// `busy`; nothing changed.
    pub fn make_room(&mut self, name: &str) -> Result<(), Failure> {
        if self.agents.contains_key(name) || self.agents.len() < AGENTS_MAX {
            return Ok(());
        }
        let can_go = self.agents.iter().filter(|(_, agent)| agent.session.is_none() && !agent.expected);
        let Some(oldest) = can_go.min_by_key(|(_, agent)| agent.seen_ns).map(|(name, _)| name.clone()) else {
            return Err(Failure::new(
                ErrorCode::Busy,
                format!("{AGENTS_MAX} agents are registered, no more are taken"),
            ));
        };
        self.agents.remove(&oldest);
        self.changed.remove(&oldest);
        self.telemetered.remove(&oldest);
        Ok(())
    }

    /// Notes an agent's state; true when it is another one than before.
    ///
    /// # Errors
    /// `not_registered`, or `bad_parameter` for a state that only the broker gives.
    pub fn set_state(&mut self, session: &Session, state: AgentState) -> Result<bool, Failure> {
        check_state(state)?;
        let name = self.registered(session)?.to_string();
        let agent = self.agents.get_mut(&name).expect("a session's name is in the list");
        let is_new = agent.state != state;
        if is_new {
            agent.state = state;
            self.changed.insert(name);
        }
        Ok(is_new)
    }

    /// Notes an agent's newest figures.
    ///
    /// # Errors
    /// `not_registered`.
    pub fn set_telemetry(&mut self, session: &Session, values: BTreeMap<String, Value>) -> Result<(), Failure> {
        let name = self.registered(session)?.to_string();
        let agent = self.agents.get_mut(&name).expect("a session's name is in the list");
        agent.telemetry = values;
        self.telemetered.insert(name);
        Ok(())
    }

    /// The name behind a session.
    ///
    /// # Errors
    /// `not_registered`.
    pub fn registered(&self, session: &Session) -> Result<&SmolStr, Failure> {
        let unknown =
            || Failure::new(ErrorCode::NotRegistered, "this connection has not registered").with_hint("register again");
        self.name_of(session).ok_or_else(unknown)
    }

    /// An agent spoke of a job.
    pub fn note_job(&mut self, name: &str, id: JobId) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.knows.insert(id);
        }
    }

    /// What an agent spoke of was not the present attempt of a job.
    pub fn forget_job(&mut self, name: &str, id: JobId) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.knows.remove(&id);
        }
    }

    /// An agent reported the end of a job: it has it no more (rule G5).
    pub fn settle(&mut self, name: &str, id: JobId) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.owes.remove(&id);
        }
    }

    pub fn owes(&self, name: &str, id: JobId) -> bool {
        self.agents.get(name).is_some_and(|agent| agent.owes.contains(&id))
    }

    /// An agent took its leave.
    pub fn leave(&mut self, session: &Session, now_ns: u64) {
        if let Some(name) = self.name_of(session).cloned() {
            self.part(&name, now_ns);
        }
    }

    /// Rule R2: whoever was silent for too long is gone.
    pub fn expire(&mut self, now_ns: u64) {
        let silent = |member: &&Member| now_ns.saturating_sub(member.seen_ns) >= self.timeout_ns;
        let gone: BTreeSet<_> = self.members.values().filter(silent).map(|member| member.name.clone()).collect();
        for name in gone {
            tracing::warn!(agent = %name, "agent is gone: no sign of life for {} s", self.timeout_ns as f64 / 1e9);
            self.part(&name, now_ns);
        }
    }

    fn part(&mut self, name: &str, now_ns: u64) {
        let agent = self.agents.get_mut(name).expect("only listed agents part");
        if let Some(member) = agent.session.take().and_then(|session| self.members.remove(&session)) {
            agent.seen_ns = member.seen_ns;
        }
        self.parted.push(name.to_owned());
        agent.state = AgentState::Gone;
        agent.away_since_ns = now_ns;
        agent.knows.clear();
        agent.owes.clear();
        self.changed.insert(name.to_owned());
    }

    pub fn presence(&self, name: &str) -> Presence {
        match self.agents.get(name) {
            Some(agent) if agent.session.is_some() => Presence::Here,
            Some(agent) => Presence::Away { since_ns: agent.away_since_ns },
            None => Presence::Away { since_ns: self.started_ns + self.timeout_ns },
        }
    }

    pub fn take_parted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.parted)
    }

    /// An agent for a person: its name, process and host.
    pub fn describe(&self, name: &str) -> String {
        match self.agents.get(name) {
            Some(agent) => format!("{name} (process {} on {})", agent.pid, agent.host),
            None => name.to_owned(),
        }
    }

    pub fn state_of(&self, name: &str) -> AgentState {
        self.agents.get(name).map_or(AgentState::Gone, |agent| agent.state)
    }

    /// When it was last heard; 0 if never.
    pub fn seen_ns(&self, name: &str) -> u64 {
        self.agents.get(name).map_or(0, |agent| self.seen_of(agent))
    }

    fn seen_of(&self, agent: &Agent) -> u64 {
        agent.session.as_ref().and_then(|session| self.members.get(session)).map_or(agent.seen_ns, |its| its.seen_ns)
    }

    pub fn session_of(&self, name: &str) -> Option<&Session> {
        self.agents.get(name).and_then(|agent| agent.session.as_ref())
    }

    pub fn knows(&self, name: &str, id: JobId) -> bool {
        self.agents.get(name).is_some_and(|agent| agent.knows.contains(&id))
    }

    /// The agents that take jobs for `service` now, each with how many at once.
    pub fn ready_for<'a>(&'a self, service: &'a str) -> impl Iterator<Item = (&'a str, u32)> {
        let is_ready = |agent: &Agent| agent.session.is_some() && agent.state == AgentState::Ready;
        let offer = move |agent: &'a Agent| agent.services.iter().find(|offered| offered.name == service);
        let ready = self.agents.iter().filter(move |(_, agent)| is_ready(agent));
        ready.filter_map(move |(name, agent)| Some((name.as_str(), offer(agent)?.jobs_at_once)))
    }

    /// What the agents offer that are here. A service that several offer is there several times.
    pub fn offers(&self) -> impl Iterator<Item = &ServiceOffer> {
        self.agents.values().filter(|agent| agent.session.is_some()).flat_map(|agent| &agent.services)
    }

    /// Names of all services that agents offer that are here.
    pub fn services(&self) -> BTreeSet<&str> {
        self.offers().map(|offer| offer.name.as_str()).collect()
    }

    /// Every agent with its `jobs` (name to ids), sorted by name.
    pub fn statuses(&self, mut jobs: BTreeMap<&str, Vec<JobId>>) -> Vec<AgentStatus> {
        let full = |name: &String| {
            let mut status = self.status_of(name, jobs.remove(name.as_str()).unwrap_or_default());
            status.telemetry = self.agents[name].telemetry.clone();
            status
        };
        self.agents.keys().map(full).collect()
    }

    /// One agent's status without its telemetry.
    pub fn status_of(&self, name: &str, jobs: Vec<JobId>) -> AgentStatus {
        let agent = &self.agents[name];
        AgentStatus {
            name: name.to_owned(),
            kind: agent.kind.clone(),
            state: agent.state,
            host: agent.host.clone(),
            pid: agent.pid,
            version: agent.version.clone(),
            since_ns: agent.since_ns,
            seen_ns: self.seen_of(agent),
            services: agent.services.clone(),
            jobs,
            telemetry: BTreeMap::new(),
        }
    }

    /// Every agent that the configuration names is ready, and there is at least one that is.
    pub fn is_ready(&self) -> bool {
        let ready = |agent: &Agent| agent.state == AgentState::Ready;
        self.agents.values().filter(|agent| agent.expected).all(ready) && self.agents.values().any(ready)
    }

    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    pub fn take_telemetry(&mut self) -> Vec<(String, BTreeMap<String, Value>)> {
        let names = std::mem::take(&mut self.telemetered);
        names.into_iter().map(|name| (name.clone(), self.agents[&name].telemetry.clone())).collect()
    }
}

fn check_offer(offer: &ServiceOffer) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::new(ErrorCode::BadParameter, message));
    let is_name = |name: &str| (1..=TEXT_BYTES_MAX).contains(&name.len());
    if !is_name(&offer.name) || !offer.follows.as_deref().is_none_or(is_name) {
        return bad(format!("the name of a service has 1 to {TEXT_BYTES_MAX} bytes"));
    }
    if offer.help.len() > HELP_BYTES_MAX {
        return bad(format!("help of {} has {} bytes; at most {HELP_BYTES_MAX}", offer.name, offer.help.len()));
    }
    if !(1..=JOBS_AT_ONCE_MAX).contains(&offer.jobs_at_once) {
        return bad(format!("{} jobs_at_once of {}; 1 to {JOBS_AT_ONCE_MAX}", offer.jobs_at_once, offer.name));
    }
    Ok(())
}

fn check_state(state: AgentState) -> Result<(), Failure> {
    match state {
        AgentState::Starting | AgentState::Ready => Ok(()),
        AgentState::Gone | AgentState::Missing => {
            Err(Failure::new(ErrorCode::BadParameter, format!("an agent is starting or ready, not {}", state.as_str())))
        }
    }
}

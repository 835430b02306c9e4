//! Who may do what. One table; the transport says who, this says whether.
//!
//! # Rules
//! A1  Each kind of message needs a role ([`NEEDS`]), and a role may do what a lower one may.
//! A2  A kind that is not in the table needs the highest role: what is forgotten here is closed, not open.
//! A3  A key that was taken away has no role, whatever connection it still has; what it sends is no sign of
//!     life.
//! A4  Who is asked comes before what: a message that is forbidden is refused before its body is read, and
//!     does not tell whether its kind exists.
//!
//! Without keys the broker is reached by its own machine only, or by those whom `insecure` lets in on
//! purpose, and everyone may do everything.

use ecs_schemas::{
    alarm::{Clear, ListAlarms, Raise},
    envelope::{Notice, Request},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, Cancel, DoCall, Feedback},
    job::{CancelJob, GetJob, GetOutcome, HoldJob, ListJobs, MoveJob, ReleaseJob, ReportJob, ReportProgress, Submit},
    keys::{KeyHolder, PublicKey, Role},
    kv::{Get, ListItems, Publish, Set, Unwatch, Watch},
    registry::{GetStatus, Heartbeat, Leave, Register},
    subsystem::{Describe, GetSubsystem, ListSubsystems, Remove},
    telemetry::Telemetry,
    trace::GetTrace,
};
use std::sync::Arc;

/// The role that each kind of message needs, at least (rule A1). `spec/security.md` has the same table.
pub const NEEDS: &[(&str, Role)] = &[
    (GetStatus::KIND, Role::Viewer),
    (GetJob::KIND, Role::Viewer),
    (ListJobs::KIND, Role::Viewer),
    (GetOutcome::KIND, Role::Viewer),
    (Submit::KIND, Role::Operator),
    (CancelJob::KIND, Role::Operator),
    (HoldJob::KIND, Role::Operator),
    (ReleaseJob::KIND, Role::Operator),
    (MoveJob::KIND, Role::Operator),
    (ListSubsystems::KIND, Role::Viewer),
    (GetSubsystem::KIND, Role::Viewer),
    (Get::KIND, Role::Viewer),
    (ListItems::KIND, Role::Viewer),
    (Watch::KIND, Role::Viewer),
    (Unwatch::KIND, Role::Viewer),
    (ListAlarms::KIND, Role::Viewer),
    (GetTrace::KIND, Role::Viewer),
    (Set::KIND, Role::Operator),
    (CallEvent::KIND, Role::Operator),
    (DoCall::KIND, Role::Operator),
    (Cancel::KIND, Role::Operator),
    (Describe::KIND, Role::Agent),
    (Remove::KIND, Role::Agent),
    (Publish::KIND, Role::Agent),
    (Feedback::KIND, Role::Agent),
    (Raise::KIND, Role::Agent),
    (Clear::KIND, Role::Agent),
    (Register::KIND, Role::Agent),
    (Heartbeat::KIND, Role::Agent),
    (Leave::KIND, Role::Agent),
    (ReportJob::KIND, Role::Agent),
    (ReportProgress::KIND, Role::Agent),
    (Telemetry::KIND, Role::Agent),
];

/// What a kind needs (rule A2).
pub fn role_needed(kind: &str) -> Role {
    NEEDS.iter().find(|(known, _)| *known == kind).map_or(Role::Agent, |(_, role)| *role)
}

/// Who sent a message, by the transport's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// The broker has no keys.
    Anyone,
    /// Whoever has this key.
    Holder(Arc<KeyHolder>),
    /// The key of the connection was taken away since it was made.
    Revoked,
}

impl Sender {
    /// Rules A1 to A3.
    ///
    /// # Errors
    /// `forbidden`, with the role that it needs.
    pub fn permit(&self, kind: &str) -> Result<(), Failure> {
        let holder = match self {
            Self::Anyone => return Ok(()),
            Self::Holder(holder) => Some(holder),
            Self::Revoked => None,
        };
        let needed = role_needed(kind);
        let message = match holder {
            Some(holder) if holder.role >= needed => return Ok(()),
            Some(holder) => {
                let (name, role) = (&holder.name, holder.role.as_str());
                format!("{kind} needs the role {}; the key {name} has the role {role}", needed.as_str())
            }
            None => format!("{kind} needs the role {}; this connection's key was taken away", needed.as_str()),
        };
        let hint = format!("use a key with the role {0}: ecs-cli keys add NAME --role {0}", needed.as_str());
        Err(Failure::new(ErrorCode::Forbidden, message).with_hint(hint))
    }

    /// Whether the sender may register `name`.
    ///
    /// # Errors
    /// `forbidden`, with the names that its key allows.
    pub fn permit_name(&self, name: &str) -> Result<(), Failure> {
        let Self::Holder(holder) = self else { return Ok(()) };
        if holder.names.iter().any(|pattern| pattern.allows(name)) {
            return Ok(());
        }
        let names: Vec<String> = holder.names.iter().map(ToString::to_string).collect();
        let message = format!("the key {} may not register {name}; it may: {}", holder.name, names.join(", "));
        let hint = format!("make a key that may: ecs-cli keys add NAME --role agent --names {name}");
        Err(Failure::new(ErrorCode::Forbidden, message).with_hint(hint))
    }

    /// The name of the key behind the sender, if there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Holder(holder) => Some(&holder.name),
            Self::Anyone | Self::Revoked => None,
        }
    }

    /// The key behind the sender, if there is one.
    pub fn key(&self) -> Option<&PublicKey> {
        match self {
            Self::Holder(holder) => Some(&holder.public),
            Self::Anyone | Self::Revoked => None,
        }
    }
}

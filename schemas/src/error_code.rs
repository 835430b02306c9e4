//! Why a request was refused or failed: a stable code for programs, a sentence for people.

use serde::{Deserialize, Serialize};

/// Stable codes. A code is never given a new meaning; a reader that does not know one treats it as
/// [`ErrorCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message could not be decoded, or a field is missing or of the wrong type.
    BadMessage,
    /// The message's protocol version is not spoken here.
    UnsupportedVersion,
    /// No such kind of request.
    UnknownKind,
    /// The sender must register first (also after the broker came back).
    NotRegistered,
    /// The sender's key has no role that may do this, or none any more (`spec/security.md`).
    Forbidden,
    /// Another live agent holds this name.
    NameTaken,
    /// Nobody offers the service that was asked for.
    NoSuchService,
    /// No job has this id.
    NoSuchJob,
    /// No subsystem has this name or UUID.
    NoSuchSubsystem,
    /// The subsystem has no such item, event or call, or nobody answers it.
    NoSuchItem,
    NotHandled,
    /// The item cannot be set, or cannot be read, by others.
    ReadOnly,
    WriteOnly,
    /// The item has no value yet.
    NotSet,
    WrongType,
    OutOfRange,
    /// Whoever was asked said no; the message is its own.
    Refused,
    /// The item has changed since the revision that was named.
    Changed,
    /// A parameter is out of its range, or parameters contradict each other.
    BadParameter,
    /// The request cannot be served in the present state.
    Conflict,
    /// A limit was reached; asking again later may help.
    Busy,
    /// The broker could not write to its store.
    StoreFailed,
    /// The answer did not come in time.
    Timeout,
    /// The agent that had the job is gone.
    AgentLost,
    /// The file or folder cannot be written: missing, forbidden, not a folder.
    Output,
    /// The output file is there already.
    OutputExists,
    /// The file system has no room.
    DiskFull,
    /// No image came for as long as the job allows.
    NoImages,
    /// There is no ring, or it went away.
    NoRing,
    /// Somebody asked for the job to end.
    Cancelled,
    /// Anything else; the message says what.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// The code as it goes over the wire, for example `output_exists`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownKind => "unknown_kind",
            Self::NotRegistered => "not_registered",
            Self::Forbidden => "forbidden",
            Self::NameTaken => "name_taken",
            Self::NoSuchService => "no_such_service",
            Self::NoSuchJob => "no_such_job",
            Self::NoSuchSubsystem => "no_such_subsystem",
            Self::NoSuchItem => "no_such_item",
            Self::NotHandled => "not_handled",
            Self::ReadOnly => "read_only",
            Self::WriteOnly => "write_only",
            Self::NotSet => "not_set",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::Refused => "refused",
            Self::Changed => "changed",
            Self::BadParameter => "bad_parameter",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::StoreFailed => "store_failed",
            Self::Timeout => "timeout",
            Self::AgentLost => "agent_lost",
            Self::Output => "output",
            Self::OutputExists => "output_exists",
            Self::DiskFull => "disk_full",
            Self::NoImages => "no_images",
            Self::NoRing => "no_ring",
            Self::Cancelled => "cancelled",
            Self::Other => "other",
        }
    }
}

/// A refusal or failure as it goes over the wire: the body of an `error` message, and the reason in a
/// job's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: ErrorCode,
    /// What happened and with what; one sentence for a person.
    pub message: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_as_text_equals_its_wire_form_and_an_unknown_code_is_other() {
        for code in [ErrorCode::BadMessage, ErrorCode::Forbidden, ErrorCode::OutputExists, ErrorCode::NoImages] {
            let wire = serde_json::to_string(&code).expect("serialises");
            assert_eq!(wire, format!("\"{}\"", code.as_str()));
        }
        let unknown: ErrorCode = serde_json::from_str("\"from_the_future\"").expect("decodes");
        assert_eq!(unknown, ErrorCode::Other);
    }
}

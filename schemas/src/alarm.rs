//! Alarms: conditions that a subsystem wants people to know, until they are over.
//!
//! # Rules
//! A1  An alarm is known by its subsystem and its code: raised again it is the same one, with its new text.
//! A2  Alarms are part of a subsystem's description: registering anew replaces all of them, so none stays
//!     by mistake. Those of a subsystem that is gone stay listed until it comes back.

use crate::{
    envelope::{Request, is_zero},
    job::Ack,
    subsystem::check_part,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warn,
    Alarm,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Alarm => "alarm",
        }
    }
}

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// For programs, for example `OVERTEMP`; named as items are.
    pub code: String,
    pub severity: Severity,
    /// For people, at most [`TEXT_BYTES_MAX`] bytes.
    pub text: String,
    /// Since when, by the broker's clock; the broker fills it in.
    #[serde(default)]
    pub since_ns: u64,
}

pub const TEXT_BYTES_MAX: usize = 1024;

impl Alarm {
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        check_part("alarm", &self.code)?;
        if self.text.len() > TEXT_BYTES_MAX {
            return Err(format!("alarm {}: text of {} bytes; at most {TEXT_BYTES_MAX}", self.code, self.text.len()));
        }
        Ok(())
    }
}

/// Owner → broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    pub subsystem: String,
    #[serde(flatten)]
    pub alarm: Alarm,
}

impl Request for Raise {
    const KIND: &'static str = "alarm.raise";
    type Reply = Ack;
}

/// Owner → broker. One that is not raised is no error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clear {
    pub subsystem: String,
    pub code: String,
}

impl Request for Clear {
    const KIND: &'static str = "alarm.clear";
    type Reply = Ack;
}

/// Client → broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAlarms {}

impl Request for ListAlarms {
    const KIND: &'static str = "alarm.list";
    type Reply = AlarmList;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmList {
    /// The gravest first, then the oldest.
    pub alarms: Vec<RaisedAlarm>,
    /// Alarms that found no room in this answer: the least grave ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

/// Also the payload of the topic `<subsystem>/alarm/<code>`, where `raised` tells the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaisedAlarm {
    pub subsystem: String,
    #[serde(flatten)]
    pub alarm: Alarm,
    pub raised: bool,
}

pub fn alarm_topic(subsystem: &str, code: &str) -> String {
    format!("{subsystem}/alarm/{code}")
}

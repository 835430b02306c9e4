//! `job.get` and `job.list`: which of the kept jobs somebody wants to see.

use super::{Core, jobs::Job};
use crate::limits::{LIST_BYTES_MAX, SEARCH_BYTES_MAX, SEARCH_TEXT_BYTES_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::{GetJob, JobList, JobRecord, LIST_MAX, ListJobs},
    value::Value,
};

impl Core {
    /// # Errors
    /// `no_such_job`.
    pub(super) fn get_job(&self, get: &GetJob) -> Result<JobRecord, Failure> {
        self.find_job(get.id).map(|job| self.answered(&job.record))
    }

    /// Newest first, until one of the limits: on the number, on the answer, on what is searched for a text. The
    /// next page begins behind the last job that was looked at.
    ///
    /// # Errors
    /// `bad_parameter`.
    pub(super) fn list(&self, list: &ListJobs) -> Result<JobList, Failure> {
        let wanted = Wanted::new(list)?;
        if list.limit == 0 {
            let message = "limit is 0: a page without jobs would have no next one".to_owned();
            return Err(Failure::new(ErrorCode::BadParameter, message).with_hint(format!("ask for 1 to {LIST_MAX}")));
        }
        let limit = list.limit.min(LIST_MAX) as usize;
        let (mut jobs, mut listed_bytes, mut searched_bytes) = (Vec::new(), 0, 0);
        let positions = self.positions();
        let mut last = list.before;
        for job in self.jobs.newest(list.before) {
            let is_full = listed_bytes + job.bytes > LIST_BYTES_MAX && !jobs.is_empty();
            if jobs.len() >= limit || is_full || searched_bytes > SEARCH_BYTES_MAX {
                return Ok(JobList { jobs, next: last });
            }
            last = Some(job.record.id);
            if !wanted.by_fields(&job.record) {
                continue;
            }
            searched_bytes += if wanted.text.is_some() { job.bytes } else { 0 };
            if wanted.by_text(job) {
                listed_bytes += job.bytes;
                let position = positions.get(&job.record.id).copied();
                jobs.push(JobRecord { position, ..job.record.clone() });
            }
        }
        Ok(JobList { jobs, next: None })
    }
}

struct Wanted<'a> {
    list: &'a ListJobs,
    /// In small letters.
    text: Option<String>,
}

impl<'a> Wanted<'a> {
    fn new(list: &'a ListJobs) -> Result<Self, Failure> {
        let text = list.text.as_deref().filter(|text| !text.is_empty());
        if text.is_some_and(|text| text.len() > SEARCH_TEXT_BYTES_MAX) {
            let message = format!("a text to look for has at most {SEARCH_TEXT_BYTES_MAX} bytes");
            return Err(Failure::new(ErrorCode::BadParameter, message));
        }
        Ok(Self { list, text: text.map(str::to_lowercase) })
    }

    fn by_fields(&self, record: &JobRecord) -> bool {
        let (list, submitted_ns) = (self.list, record.submitted_ns());
        (list.states.is_empty() || list.states.contains(&record.state))
            && list.service.as_ref().is_none_or(|service| *service == record.service)
            && list.since_ns.is_none_or(|since_ns| submitted_ns >= since_ns)
            && list.until_ns.is_none_or(|until_ns| submitted_ns < until_ns)
    }

    fn by_text(&self, job: &Job) -> bool {
        let Some(text) = &self.text else { return true };
        let record = &job.record;
        let of_reason = record.reason.iter().flat_map(|reason| [reason.message.as_str(), reason.code.as_str()]);
        let texts = of_reason.chain(record.agent.as_deref()).chain([record.key.as_str()]);
        texts.into_iter().any(|other| other.to_lowercase().contains(text)) || is_in(&record.params, text)
    }
}

/// Whether `text` is in a value: its keys, its texts, its numbers as they are written. The depth is bounded by
/// the decoder.
fn is_in(value: &Value, text: &str) -> bool {
    match value {
        Value::Null | Value::Bytes(_) => false,
        Value::Bool(flag) => flag.to_string().contains(text),
        Value::Int(number) => number.to_string().contains(text),
        Value::Uint(number) => number.to_string().contains(text),
        Value::Float(number) => number.to_string().contains(text),
        Value::Text(other) => other.to_lowercase().contains(text),
        Value::List(values) => values.iter().any(|value| is_in(value, text)),
        Value::Map(entries) => {
            entries.iter().any(|(key, value)| key.to_lowercase().contains(text) || is_in(value, text))
        }
    }
}

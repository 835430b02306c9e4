//! Lists of jobs: by state, service, time and text, page by page.

use crate::world::{SECOND_NS, World, code};
use ecs_broker::limits::{JOB_VALUE_BYTES_MAX, LIST_BYTES_MAX, SEARCH_BYTES_MAX};
use ecs_schemas::{
    error_code::{ErrorCode, Failure},
    job::{CancelJob, JobId, JobState, ListJobs, ReportJob, Submit},
    registry::ServiceOffer,
    value::Value,
};

fn list(world: &mut World, list: ListJobs) -> Vec<u64> {
    world.ask("client", &list).unwrap().jobs.into_iter().map(|job| job.id.0).collect()
}

fn all() -> ListJobs {
    ListJobs { limit: 1000, ..ListJobs::default() }
}

fn submit(world: &mut World, service: &str, key: &str, params: Value) -> JobId {
    let submit = Submit { service: service.to_owned(), key: key.to_owned(), params, ..Submit::default() };
    world.ask("client", &submit).unwrap().id
}

/// Jobs 1 to 4, ten seconds apart: failed, done, cancelled; and one of another service that waits.
fn with_jobs() -> (World, u64) {
    let mut world = World::with_writer();
    world.offer("b", &[ServiceOffer::new("reduce")]).unwrap();
    let start_ns = world.now_ns;
    let sample = Value::map([("metadata", Value::map([("Sample", "LaB6".into())])), ("images", 4711.into())]);
    let jobs = [("write", "Run 7", sample), ("write", "run 8", Value::Null), ("write", "x", true.into())];
    for (service, key, params) in jobs {
        submit(&mut world, service, key, params);
        world.now_ns += 10 * SECOND_NS;
    }
    submit(&mut world, "reduce", "y", Value::Null);
    let reason = Some(Failure::new(ErrorCode::DiskFull, "no room in /data"));
    world.ask("a", &ReportJob { attempt: 0, id: JobId(1), state: JobState::Failed, reason, result: None }).unwrap();
    world.report("a", JobId(2), JobState::Done).unwrap();
    world.ask("client", &CancelJob { id: JobId(3) }).unwrap();
    world.report("a", JobId(3), JobState::Cancelled).unwrap();
    (world, start_ns)
}

#[test]
fn jobs_are_found_by_state_service_and_time() {
    let (mut world, start_ns) = with_jobs();
    let by_states = |states: &[JobState]| ListJobs { states: states.to_vec(), ..all() };
    assert_eq!(list(&mut world, by_states(&[JobState::Failed])), [1]);
    assert_eq!(list(&mut world, by_states(&[JobState::Done, JobState::Submitted])), [4, 2]);
    assert_eq!(list(&mut world, ListJobs { service: Some("write".to_owned()), ..all() }), [3, 2, 1]);
    assert!(list(&mut world, ListJobs { service: Some("writ".to_owned()), ..all() }).is_empty());
    let since = |seconds: u64| Some(start_ns + seconds * SECOND_NS);
    assert_eq!(list(&mut world, ListJobs { since_ns: since(20), ..all() }), [4, 3], "that instant too");
    assert_eq!(list(&mut world, ListJobs { until_ns: since(20), ..all() }), [2, 1], "not that instant");
    let both = ListJobs { since_ns: since(10), until_ns: since(30), service: Some("write".to_owned()), ..all() };
    assert_eq!(list(&mut world, both), [3, 2]);
}

#[test]
fn jobs_are_found_by_a_text_in_key_params_reason_or_agent() {
    let (mut world, _) = with_jobs();
    let cases: [(&str, &[u64]); 10] = [
        ("RUN", &[2, 1]),
        ("lab6", &[1]),
        ("sample", &[1]),
        ("4711", &[1]),
        ("true", &[3]),
        ("no room", &[1]),
        ("disk_full", &[1]),
        ("x01/b", &[4]),
        ("", &[4, 3, 2, 1]),
        ("nowhere", &[]),
    ];
    for (text, expected) in cases {
        assert_eq!(list(&mut world, ListJobs { text: Some(text.to_owned()), ..all() }), expected, "{text}");
    }
    let too_long = ListJobs { text: Some("t".repeat(257)), ..all() };
    assert_eq!(code(world.ask("client", &too_long)), ErrorCode::BadParameter);
}

/// All pages of a query, and how many there were.
fn pages(world: &mut World, mut query: ListJobs) -> (Vec<u64>, usize) {
    let (mut ids, mut pages) = (vec![], 0);
    loop {
        let page = world.ask("client", &query).unwrap();
        pages += 1;
        ids.extend(page.jobs.iter().map(|job| job.id.0));
        match page.next {
            Some(next) => query.before = Some(next),
            None => return (ids, pages),
        }
        assert!(pages < 10_000, "the pages come to an end");
    }
}

#[test]
fn pages_together_have_every_job_once() {
    let mut world = World::with_writer();
    for number in 1..=25 {
        submit(&mut world, "write", &format!("k{}", number % 7 * 100 + number), Value::Null);
    }
    let expected: Vec<u64> = (1..=25).rev().collect();
    for limit in [1, 3, 25, 26, u32::MAX] {
        assert_eq!(pages(&mut world, ListJobs { limit, ..all() }).0, expected, "limit {limit}");
    }
    let threes = ListJobs { limit: 2, text: Some("k3".to_owned()), ..all() };
    assert_eq!(pages(&mut world, threes).0, [24, 17, 10, 3]);
    assert_eq!(list(&mut world, ListJobs { before: Some(JobId(3)), ..all() }), [2, 1]);
    for before in [None, Some(JobId(3))] {
        let none = world.ask("client", &ListJobs { limit: 0, before, ..all() });
        assert_eq!(
            code(none),
            ErrorCode::BadParameter,
            "it would say that nothing is older, or the same page for ever"
        );
    }
}

#[test]
fn what_does_not_fit_into_one_answer_is_on_the_next_page() {
    let mut world = World::with_writer();
    let large = || Value::Bytes(vec![0; JOB_VALUE_BYTES_MAX - 100]);
    let count = SEARCH_BYTES_MAX / JOB_VALUE_BYTES_MAX + 20;
    for number in 0..count {
        submit(&mut world, "write", &number.to_string(), large());
    }
    let (ids, number) = pages(&mut world, all());
    assert_eq!(ids.len(), count);
    assert_eq!(number, count.div_ceil(LIST_BYTES_MAX / JOB_VALUE_BYTES_MAX));
    let nowhere = ListJobs { text: Some("nowhere".to_owned()), ..all() };
    assert_eq!(pages(&mut world, nowhere), (vec![], 2), "one request searches a bounded part");
}

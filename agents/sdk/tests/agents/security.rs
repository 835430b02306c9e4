//! Keys: a client that is not let in is told why, soon; one that is works as without.

use crate::setup::{Beamline, CALL, Scripted, WATCHDOG, wait_for, wait_state};
use ecs_broker::keys::{AGENTS, KeyFolder};
use ecs_schemas::{
    error_code::ErrorCode,
    job::{CancelJob, JobId},
    keys::{ClientKey, Role},
    registry::{AgentState, GetStatus},
};
use ecs_sdk::{Agent, CallError, Client, Subscriber, key};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(2);

fn keys(beamline: &Beamline) -> KeyFolder {
    let keys = KeyFolder::new(beamline.folder().join("keys"));
    keys.init("x01").unwrap();
    keys
}

fn client(beamline: &Beamline, key: Option<&ClientKey>) -> Client {
    Client::with_key(&beamline.request_endpoint(), key.cloned()).unwrap()
}

/// The error of a call that must fail within two seconds.
fn refusal(beamline: &Beamline, key: Option<&ClientKey>) -> CallError {
    let client = client(beamline, key);
    let started = Instant::now();
    let error = client.call(&GetStatus {}, CALL).unwrap_err();
    assert!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    error
}

#[test]
fn client_that_is_not_let_in_is_told_that_it_is_the_key_within_two_seconds() {
    let mut beamline = Beamline::without_broker();
    let (keys, other) = (keys(&beamline), KeyFolder::new(beamline.folder().join("other")));
    other.init("x02").unwrap();
    beamline.start_broker_with_keys(keys.path());
    let viewer = key::load(&keys.add("eve", Role::Viewer, vec![]).unwrap()).unwrap();
    wait_for("she is let in", || client(&beamline, Some(&viewer)).call(&GetStatus {}, CALL).is_ok());
    let foreign = key::load(&other.client_path(AGENTS)).unwrap();
    let unknown = ClientKey { broker: viewer.broker.clone(), ..foreign.clone() };
    for key in [None, Some(&foreign), Some(&unknown)] {
        let error = refusal(&beamline, key);
        assert!(matches!(error, CallError::NotAccepted { .. }), "{key:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("did not accept") && text.contains("ecs-cli keys add"), "{text}");
        assert_eq!(text.contains("which has no key"), key.is_none(), "{text}");
        key.into_iter().for_each(|key| assert!(!text.contains(key.secret.reveal())));
    }
    keys.revoke("eve").unwrap();
    wait_for("she is not let in any more", || {
        matches!(client(&beamline, Some(&viewer)).call(&GetStatus {}, CALL), Err(CallError::NotAccepted { .. }))
    });
}

#[test]
fn key_where_the_broker_has_none_is_told_too_and_no_broker_is_still_no_broker() {
    let mut beamline = Beamline::without_broker();
    let keys = keys(&beamline);
    let key = key::load(&keys.client_path(AGENTS)).unwrap();
    assert!(matches!(refusal(&beamline, Some(&key)), CallError::NoBroker { .. }));
    beamline.start_broker();
    let client = client(&beamline, None);
    wait_for("the broker answers", || client.call(&GetStatus {}, CALL).is_ok());
    assert!(matches!(refusal(&beamline, Some(&key)), CallError::NotAccepted { .. }));
}

/// One client, refused first, let in once its key is known.
#[test]
fn client_that_was_refused_works_when_its_key_is_accepted() {
    let mut beamline = Beamline::without_broker();
    let keys = keys(&beamline);
    let key = key::load(&keys.add("anna", Role::Viewer, vec![]).unwrap()).unwrap();
    let (entry, aside) = (keys.entry_path("anna"), beamline.folder().join("aside"));
    fs::rename(&entry, &aside).unwrap();
    beamline.start_broker_with_keys(keys.path());
    let client = client(&beamline, Some(&key));
    wait_for("it is refused", || matches!(client.call(&GetStatus {}, CALL), Err(CallError::NotAccepted { .. })));
    fs::rename(&aside, &entry).unwrap();
    wait_for("it is let in", || client.call(&GetStatus {}, CALL).is_ok());
}

#[test]
fn agent_and_subscriber_work_with_a_key_and_a_viewer_may_not_cancel() {
    let mut beamline = Beamline::without_broker();
    let keys = keys(&beamline);
    beamline.start_broker_with_keys(keys.path());
    let agents = key::load(&keys.client_path(AGENTS)).unwrap();
    let viewer = key::load(&keys.add("eve", Role::Viewer, vec![]).unwrap()).unwrap();
    let mut topics =
        Subscriber::with_key(&beamline.publish_endpoint(), ["x01/writer/telemetry"], Some(&viewer)).unwrap();
    let agent = Agent::start_with_key(beamline.config(), vec![Scripted::endless()], Some(agents)).unwrap();
    agent.set_state(AgentState::Ready);
    let eve = client(&beamline, Some(&viewer));
    wait_state(&eve, "x01/writer", AgentState::Ready);
    agent.publish(BTreeMap::from([("number".to_owned(), 5.into())]));
    assert_eq!(topics.next(WATCHDOG).expect("telemetry").1.source, "x01/writer");
    let error = eve.call(&CancelJob { id: JobId(1) }, CALL).unwrap_err();
    assert!(matches!(&error, CallError::Refused(failure) if failure.code == ErrorCode::Forbidden), "{error}");
    assert!(error.to_string().contains("operator"), "{error}");
}

/// An agent that is not let in keeps trying; here its key becomes known while it does.
#[test]
fn agent_without_rights_registers_as_soon_as_it_has_them() {
    let mut beamline = Beamline::without_broker();
    let keys = keys(&beamline);
    let own = key::load(&keys.add("writer", Role::Agent, vec!["x01/writer".parse().unwrap()]).unwrap()).unwrap();
    let (entry, aside) = (keys.entry_path("writer"), beamline.folder().join("aside"));
    fs::rename(&entry, &aside).unwrap();
    beamline.start_broker_with_keys(keys.path());
    let agent = Agent::start_with_key(beamline.config(), vec![Scripted::endless()], Some(own)).unwrap();
    let agents = key::load(&keys.client_path(AGENTS)).unwrap();
    let client = client(&beamline, Some(&agents));
    wait_for("the broker answers", || client.call(&GetStatus {}, CALL).is_ok());
    assert!(!agent.is_connected());
    fs::rename(&aside, &entry).unwrap();
    wait_for("it registers", || agent.is_connected());
}

#[test]
fn key_file_that_is_missing_or_wrong_is_named_without_its_secret() {
    let beamline = Beamline::without_broker();
    let keys = keys(&beamline);
    let path = keys.client_path(AGENTS);
    let missing = key::load(&beamline.folder().join("none")).unwrap_err().to_string();
    assert!(missing.contains("none") && missing.contains("ecs-cli keys add"), "{missing}");
    let secret = key::load(&path).unwrap().secret;
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("secret_key = \"", "secret_key = ")).unwrap();
    let error = key::load(&path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(!format!("{error} {error:?}").contains(&secret.reveal()[..12]));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    key::load(&path).expect("others can read it: a warning, not an error");
}

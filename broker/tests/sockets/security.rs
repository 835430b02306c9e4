//! Keys over real sockets: who is let in, with which role, and for how long.

use crate::peers::{Peer, TestBroker, WATCHDOG, next_message, options, register, wait_for};
use ecs_broker::{
    BrokerOptions, RunError,
    keys::{AGENTS, KeyFolder},
    limits::KEYS_MAX,
    run,
};
use ecs_schemas::{
    envelope::BODY_BYTES_MAX,
    error_code::ErrorCode,
    job::Submit,
    keys::{ClientKey, Role},
    registry::{AgentState, GetStatus, Heartbeat},
    telemetry::Telemetry,
    value::Value,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

/// Nobody is let in so late.
const NEVER: Duration = Duration::from_millis(700);

struct Lab {
    folder: tempfile::TempDir,
    keys: KeyFolder,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(folder.path().join("keys"));
        keys.init("x01").unwrap();
        Self { folder, keys }
    }

    fn options(&self) -> BrokerOptions {
        BrokerOptions { keys: Some(self.keys.path().to_owned()), ..options(self.folder.path()) }
    }

    fn add(&self, name: &str, role: Role, names: &[&str]) -> ClientKey {
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        read(&self.keys.add(name, role, names).unwrap())
    }

    fn agents(&self) -> ClientKey {
        read(&self.keys.client_path(AGENTS))
    }
}

fn read(path: &std::path::Path) -> ClientKey {
    ClientKey::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

fn put_on(socket: &zmq::Socket, key: &ClientKey) {
    socket.set_curve_serverkey(key.broker.as_str().as_bytes()).unwrap();
    socket.set_curve_publickey(key.public.as_str().as_bytes()).unwrap();
    socket.set_curve_secretkey(key.secret.reveal().as_bytes()).unwrap();
}

fn peer(broker: &TestBroker, key: Option<&ClientKey>) -> Peer {
    Peer::connect_with(&broker.options.request_endpoint, |socket| key.into_iter().for_each(|key| put_on(socket, key)))
}

fn subscriber(broker: &TestBroker, key: Option<&ClientKey>) -> zmq::Socket {
    let socket = zmq::Context::new().socket(zmq::SUB).unwrap();
    socket.set_linger(0).unwrap();
    socket.set_subscribe(b"").unwrap();
    key.into_iter().for_each(|key| put_on(&socket, key));
    socket.connect(&broker.options.publish_endpoint).unwrap();
    socket
}

fn submit() -> Submit {
    Submit { service: "write".to_owned(), params: Value::Null, key: "k".to_owned(), ..Submit::default() }
}

#[test]
fn each_role_does_over_the_socket_what_its_key_says() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let (viewer, operator) = (lab.add("eve", Role::Viewer, &[]), lab.add("olga", Role::Operator, &[]));
    let (mut agent, mut viewer, mut operator) =
        (peer(&broker, Some(&lab.agents())), peer(&broker, Some(&viewer)), peer(&broker, Some(&operator)));
    agent.register("x01/writer", 1);
    assert_eq!(viewer.state_of("x01/writer"), Some(AgentState::Ready));
    assert_eq!(viewer.ask(&submit()).unwrap_err().code, ErrorCode::Forbidden);
    assert_eq!(operator.ask(&register("x01/other", 2)).unwrap_err().code, ErrorCode::Forbidden);
    operator.ask(&submit()).unwrap();
}

#[test]
fn agents_own_key_may_use_its_names_and_no_other() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let mut laser = peer(&broker, Some(&lab.add("laser", Role::Agent, &["x01/laser"])));
    assert_eq!(laser.ask(&register("x01/writer", 1)).unwrap_err().code, ErrorCode::Forbidden);
    laser.register("x01/laser", 1);
}

#[test]
fn who_has_no_key_or_a_wrong_one_is_never_let_in() {
    let (lab, other) = (Lab::new(), Lab::new());
    let broker = TestBroker::start(lab.options());
    let good = lab.add("good", Role::Viewer, &[]);
    let unknown = ClientKey { broker: good.broker.clone(), ..other.agents() };
    let other_broker = ClientKey { broker: other.agents().broker, ..good.clone() };
    let mismatched = ClientKey { secret: unknown.secret.clone(), ..good.clone() };
    let strangers = [None, Some(&unknown), Some(&other_broker), Some(&mismatched)];
    let peers: Vec<Peer> = strangers.iter().map(|key| peer(&broker, *key)).collect();
    let subscribers: Vec<zmq::Socket> = strangers.iter().map(|key| subscriber(&broker, *key)).collect();
    let mut peers: Vec<_> = peers.into_iter().map(|mut peer| (peer.send(&GetStatus {}), peer)).collect();
    let mut agent = peer(&broker, Some(&lab.agents()));
    agent.register("x01/writer", 1); // published to whoever is let in
    let witness = subscriber(&broker, Some(&good));
    assert!(next_message(&witness, WATCHDOG).is_some());
    for (index, (_, peer)) in peers.iter_mut().enumerate() {
        assert!(!peer.has_message(NEVER / 4), "stranger {index} got an answer");
    }
    for (index, socket) in subscribers.iter().enumerate() {
        assert!(next_message(socket, NEVER / 4).is_none(), "stranger {index} heard something");
    }
    let status = agent.ask(&GetStatus {}).unwrap();
    assert_eq!(status.broker.malformed, 0, "their messages did not even arrive");
}

/// However short ago the folder was read: somebody with a key that opens nothing has just made the broker read it.
#[test]
fn key_that_was_just_made_opens_at_once() {
    let (lab, other) = (Lab::new(), Lab::new());
    let broker = TestBroker::start(lab.options());
    let unknown = ClientKey { broker: lab.agents().broker, ..other.agents() };
    for number in 0..20 {
        let mut stranger = peer(&broker, Some(&unknown));
        stranger.send(&GetStatus {});
        thread::sleep(Duration::from_millis(number)); // into its handshake, and behind it
        let key = lab.add(&format!("new-{number}"), Role::Viewer, &[]);
        peer(&broker, Some(&key)).ask(&GetStatus {}).unwrap();
    }
}

/// Both halves of what a key opens: requests and topics, over connections that were open before.
#[test]
fn revoked_key_opens_nothing_any_more_also_over_open_connections() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let (bad, good) = (lab.add("bad", Role::Operator, &[]), lab.add("good", Role::Viewer, &[]));
    let laser = lab.add("laser", Role::Agent, &["x01/laser"]);
    let (mut bad_peer, mut laser_peer, mut witness) =
        (peer(&broker, Some(&bad)), peer(&broker, Some(&laser)), peer(&broker, Some(&good)));
    let (bad_topics, good_topics) = (subscriber(&broker, Some(&bad)), subscriber(&broker, Some(&good)));
    laser_peer.register("x01/laser", 1);
    bad_peer.ask(&GetStatus {}).unwrap();
    for topics in [&bad_topics, &good_topics] {
        assert!(next_message(topics, WATCHDOG).is_some());
    }
    let revoked = Instant::now();
    lab.keys.revoke("bad").unwrap();
    lab.keys.revoke("laser").unwrap();
    wait_for("the revoked key is refused", || {
        bad_peer.ask(&GetStatus {}).is_err_and(|e| e.code == ErrorCode::Forbidden)
    });
    wait_for("its agent is gone", || witness.state_of("x01/laser") == Some(AgentState::Gone));
    println!("after {:?}; one second at most, says the specification", revoked.elapsed());
    assert_eq!(laser_peer.ask(&Heartbeat { state: AgentState::Ready }).unwrap_err().code, ErrorCode::Forbidden);

    // What is published from now on reaches the one and not the other.
    let mut agent = peer(&broker, Some(&lab.agents()));
    agent.register("x01/late", 1);
    wait_for("the other subscriber hears of it", || {
        next_message(&good_topics, WATCHDOG).is_some_and(|(topic, ..)| topic == "x01/late/state")
    });
    while let Some((topic, ..)) = next_message(&bad_topics, NEVER) {
        assert_ne!(topic, "x01/late/state", "heard after its key was taken away");
    }
}

#[test]
fn name_that_was_revoked_and_given_again_does_not_open_for_the_old_key() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let mut old = peer(&broker, Some(&lab.add("anna", Role::Operator, &[])));
    old.ask(&GetStatus {}).unwrap();
    lab.keys.revoke("anna").unwrap();
    let new = lab.add("anna", Role::Operator, &[]);
    wait_for("the old key is refused", || old.ask(&GetStatus {}).is_err());
    peer(&broker, Some(&new)).ask(&GetStatus {}).unwrap();
    assert!(old.ask(&GetStatus {}).is_err());
}

#[test]
fn role_that_is_changed_in_its_file_holds_without_a_new_connection() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let mut agent = peer(&broker, Some(&lab.agents()));
    agent.register("x01/writer", 1);
    let mut anna = peer(&broker, Some(&lab.add("anna", Role::Viewer, &[])));
    assert_eq!(anna.ask(&submit()).unwrap_err().code, ErrorCode::Forbidden);
    let path = lab.keys.entry_path("anna");
    let text = fs::read_to_string(&path).unwrap().replace("\"viewer\"", "\"operator\"");
    fs::write(&path, text).unwrap();
    wait_for("she may submit", || {
        let _ = agent.ask(&Heartbeat { state: AgentState::Ready });
        anna.ask(&submit()).is_ok()
    });
    fs::write(&path, "role = \"operator\"").unwrap(); // cannot be read any more: it opens nothing
    wait_for("she is refused", || anna.ask(&GetStatus {}).is_err_and(|error| error.code == ErrorCode::Forbidden));
}

/// The longest body passes encrypted too. One byte more costs the connection: it is never answered, and what is asked over
/// the next connection is.
#[test]
fn longest_message_passes_with_a_key_and_a_longer_one_does_not() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let mut agent = peer(&broker, Some(&lab.agents()));
    agent.register("x01/writer", 1);
    let header = ecs_schemas::envelope::encode(&ecs_schemas::envelope::Header::request("job.submit", 77, 1000));
    let longest = vec![0; BODY_BYTES_MAX];
    agent.send_parts(&[&header, &longest]);
    wait_for("an answer to it", || agent.receive().0.id == 77);
    let too_long = ecs_schemas::envelope::encode(&ecs_schemas::envelope::Header::request("job.submit", 78, 1000));
    agent.send_parts(&[&too_long, &vec![0; BODY_BYTES_MAX + 1]]);
    let mut asked = vec![]; // some may be lost with the connection
    wait_for("the next connection", || {
        asked.push(agent.send(&GetStatus {}));
        let answer = agent.has_message(Duration::from_millis(50)).then(|| agent.receive().0.id);
        assert_ne!(answer, Some(78), "it was taken");
        answer.is_some_and(|id| asked.contains(&id))
    });
}

#[test]
fn telemetry_flows_encrypted_to_a_subscriber() {
    let lab = Lab::new();
    let broker = TestBroker::start(lab.options());
    let mut agent = peer(&broker, Some(&lab.agents()));
    let topics = subscriber(&broker, Some(&lab.add("eve", Role::Viewer, &[])));
    agent.register("x01/writer", 1);
    agent.notify(&Telemetry { values: BTreeMap::from([("number".to_owned(), Value::from(5))]) });
    wait_for("the telemetry", || {
        next_message(&topics, WATCHDOG).is_some_and(|(topic, ..)| topic == "x01/writer/telemetry")
    });
}

fn start_error(options: BrokerOptions) -> RunError {
    run(options, || true).unwrap_err()
}

#[test]
fn broker_without_keys_listens_to_its_own_machine_only_unless_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let open = BrokerOptions { request_endpoint: format!("tcp://0.0.0.0:{port}"), ..options(folder.path()) };
    let text = start_error(open.clone()).to_string();
    for part in ["broker.request_endpoint", "0.0.0.0", "keys init", "--insecure", "127.0.0.1"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!folder.path().join("state").exists(), "nothing was done");
    run(BrokerOptions { insecure: true, ..open.clone() }, || true).unwrap();
    let lab = Lab::new();
    run(BrokerOptions { keys: Some(lab.keys.path().to_owned()), ..open }, || true).unwrap();
}

#[test]
fn key_folder_that_is_not_there_or_broken_keeps_the_broker_from_starting_and_shows_no_secret() {
    let lab = Lab::new();
    let secret = lab.keys.broker_key().unwrap().secret;
    let missing = BrokerOptions { keys: Some(lab.folder.path().join("none")), ..lab.options() };
    assert!(start_error(missing).to_string().contains("keys init"));
    let path = lab.keys.broker_path();
    let text = fs::read_to_string(&path).unwrap().replace("secret_key = ", "secret_key ");
    fs::write(&path, text).unwrap();
    let error = start_error(lab.options());
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(!format!("{error} {error:?}").contains(secret.reveal()));
}

#[test]
fn key_files_are_for_their_owner_alone_and_never_overwritten() {
    let lab = Lab::new();
    lab.add("anna", Role::Viewer, &[]);
    let secrets = [lab.keys.broker_path(), lab.keys.client_path(AGENTS), lab.keys.client_path("anna")];
    for path in &secrets {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert_eq!(lab.keys.mode_warnings(), Vec::<String>::new());
    let before = fs::read(&secrets[2]).unwrap();
    for error in [lab.keys.add("anna", Role::Agent, vec![]).unwrap_err(), lab.keys.init("x01").unwrap_err()] {
        assert!(error.to_string().contains("is there already"), "{error}");
    }
    assert_eq!(fs::read(&secrets[2]).unwrap(), before);
    let clients = lab.keys.path().join("clients");
    for folder in [lab.keys.path(), &clients] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o775)).unwrap();
        let warnings = lab.keys.mode_warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("others can add keys"), "{warnings:?}");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&secrets[2], fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = lab.keys.mode_warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("chmod 600") && warnings[0].contains("0644"), "{warnings:?}");
    assert!(lab.keys.revoke("nobody").unwrap_err().to_string().contains("agents, anna"));
    assert!(lab.keys.add("../evil", Role::Viewer, vec![]).is_err());
}

/// A link to nowhere is where the second file should be: it is not seen to be there, and cannot be written.
#[test]
fn what_could_not_be_made_whole_is_not_there_and_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let keys = KeyFolder::new(folder.path().join("keys"));
    let block = |name: &str| {
        fs::create_dir_all(keys.entry_path(name).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("nowhere", keys.entry_path(name)).unwrap();
    };
    block(AGENTS);
    assert!(keys.init("x01").unwrap_err().to_string().contains("agents.toml"));
    assert!(!keys.is_there() && !keys.client_path(AGENTS).exists());
    fs::remove_file(keys.entry_path(AGENTS)).unwrap();
    keys.init("x01").unwrap();
    block("anna");
    assert!(keys.add("anna", Role::Viewer, vec![]).unwrap_err().to_string().contains("anna.toml"));
    assert!(!keys.client_path("anna").exists());
    fs::remove_file(keys.entry_path("anna")).unwrap();
    keys.add("anna", Role::Viewer, vec![]).unwrap();
    let left = fs::read_dir(keys.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.contains("draft")));
}

#[test]
fn keys_beyond_the_limit_are_not_made() {
    let lab = Lab::new();
    let text = fs::read_to_string(lab.keys.entry_path(AGENTS)).unwrap();
    for number in 1..KEYS_MAX {
        let name = format!("n{number}");
        fs::write(lab.keys.entry_path(&name), text.replace("\"agents\"", &format!("\"{name}\""))).unwrap();
    }
    assert_eq!(lab.keys.holders().unwrap().0.len(), KEYS_MAX);
    assert!(lab.keys.add("one-more", Role::Viewer, vec![]).unwrap_err().to_string().contains("revoke"));
    lab.keys.revoke("n1").unwrap();
    lab.keys.add("one-more", Role::Viewer, vec![]).unwrap();
}

//! What can keep a broker from starting.

use crate::peers::{TestBroker, options};
use ecs_broker::{BrokerOptions, RunError, run, store};
use ecs_schemas::registry::GetStatus;

fn start_error(options: BrokerOptions) -> RunError {
    run(options, || true).unwrap_err()
}

#[test]
fn second_broker_on_a_state_folder_is_refused_and_told_which_process_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(options(folder.path()));
    broker.peer().ask(&GetStatus {}).unwrap();
    let endpoints = options(tempfile::tempdir().unwrap().path());
    let error = start_error(BrokerOptions { state_folder: broker.options.state_folder.clone(), ..endpoints });
    let text = error.to_string();
    assert!(matches!(error, RunError::Lock(_)) && text.contains(&std::process::id().to_string()), "{text}");
}

#[test]
fn endpoint_that_is_taken_is_named_with_what_to_do() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("tcp://{}", listener.local_addr().unwrap());
    let broker = TestBroker::start(options(folder.path()));
    broker.peer().ask(&GetStatus {}).unwrap();
    for endpoint in [tcp, broker.options.publish_endpoint.clone()] {
        let taken = BrokerOptions { publish_endpoint: endpoint.clone(), ..options(other.path()) };
        let text = start_error(taken).to_string();
        for part in [endpoint.as_str(), "broker.publish_endpoint", "in use", "stop it, or choose another"] {
            assert!(text.contains(part), "{part:?} in {text:?}");
        }
    }
    broker.peer().ask(&GetStatus {}).unwrap();
}

#[test]
fn text_that_is_no_endpoint_is_refused_with_the_form_of_one() {
    for endpoint in ["", "127.0.0.1:7750", "tcp://127.0.0.1", "http://127.0.0.1:80", "ipc:///no/such/folder/socket"] {
        let folder = tempfile::tempdir().unwrap();
        let bad = BrokerOptions { request_endpoint: endpoint.to_owned(), ..options(folder.path()) };
        let text = start_error(bad).to_string();
        assert!(text.contains("broker.request_endpoint") && text.contains("ipc://PATH"), "{text}");
    }
}

#[test]
fn state_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let bad = BrokerOptions { state_folder: file.join("state"), ..options(folder.path()) };
    let text = start_error(bad).to_string();
    assert!(text.contains("state_folder") && text.contains(file.to_str().unwrap()), "{text}");
}

#[test]
fn store_that_is_damaged_or_newer_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    run(options.clone(), || true).unwrap();
    let path = options.state_folder.join(store::FILE_NAME);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    drop(other);
    let text = start_error(options.clone()).to_string();
    assert!(text.contains("schema 99") && text.contains(path.to_str().unwrap()), "{text}");
    std::fs::write(&path, "this is no database").unwrap();
    let text = start_error(options).to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("move it away"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), b"this is no database");
}

#[test]
fn socket_file_of_a_killed_broker_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let path = options.request_endpoint.strip_prefix("ipc://").unwrap();
    drop(std::os::unix::net::UnixListener::bind(path).unwrap()); // the file stays, nobody listens
    let broker = TestBroker::start(options);
    broker.peer().ask(&GetStatus {}).unwrap();
    broker.stop().unwrap();
}

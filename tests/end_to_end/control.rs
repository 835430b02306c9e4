//! Subsystems, values, events and calls, as a person uses them at a terminal: `ecs-cli` against a broker and an agent.

use crate::support::{Beamline, Detector, wait_for};
use ecs_schemas::{
    alarm::Severity,
    error_code::{ErrorCode, Failure},
    kv::Item,
    registry::AgentState,
    subsystem::{Description, Handled, Param},
    value::Value,
    value_type::{Form, ValueType},
};
use ecs_sdk::{Agent, AgentConfig, Asked, Handler, Host, Params};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// A pump with a door that is open.
struct Pump {
    host: OnceLock<Host>,
}

impl Handler for Pump {
    fn on_write(&self, item: &str, value: Value, _asked: &Asked) -> Result<Value, Failure> {
        self.host.get().expect("hosted").publish(item, value.clone())?;
        Ok(value)
    }

    fn on_event(&self, event: &str, _params: &Params, asked: &Asked) -> Result<Value, Failure> {
        asked.feedback("looking at the door");
        match event {
            "can_begin" => Err(Failure::new(ErrorCode::Refused, "Door open")),
            _ => Ok("vented".into()),
        }
    }

    fn on_call(&self, call: &str, params: &Params, _asked: &Asked) -> Result<Value, Failure> {
        if call == "repeat" {
            return params
                .get("text")
                .cloned()
                .ok_or_else(|| Failure::new(ErrorCode::Refused, "no\x1b[2J\nerror: text"));
        }
        Ok(Value::from(params["n"].as_f64().unwrap_or(0.0) * 2.0))
    }
}

/// An agent that hosts a pump with two items, two events, one call and an alarm, and is ready.
pub fn pump(beamline: &Beamline) -> (Agent, Host) {
    let name = &beamline.name;
    let config = AgentConfig {
        name: format!("{name}/vacuum"),
        kind: "vacuum".to_owned(),
        request_endpoint: format!("ipc://{}", beamline.path("req").display()),
        ended_jobs: vec![],
    };
    let agent = Agent::start(config, vec![]).unwrap();
    let pressure = ValueType {
        unit: Some("mbar".to_owned()),
        min: Some(0.into()),
        max: Some(1000.into()),
        ..ValueType::of(Form::F64)
    };
    let modes = ValueType { choices: vec!["auto".into(), "manual".into()], ..ValueType::of(Form::Enum) };
    let handled = |name: &str| Handled { name: name.to_owned(), at_once: 1, ..Handled::default() };
    let n = Param { name: "n".to_owned(), kind: ValueType::of(Form::F64), ..Param::default() };
    let description = Description {
        name: format!("{name}/pump"),
        help: "Turbo pump of the chamber".to_owned(),
        items: vec![
            Item { name: "pressure".to_owned(), kind: pressure, writable: true, ..Item::default() },
            Item { name: "mode".to_owned(), kind: modes, writable: true, ..Item::default() },
            Item { name: "note".to_owned(), kind: ValueType::of(Form::String), writable: true, ..Item::default() },
        ],
        events: vec![handled("can_begin"), handled("vent")],
        calls: vec![Handled { params: vec![n], ..handled("double") }, handled("repeat")],
        ..Description::default()
    };
    let handler = Arc::new(Pump { host: OnceLock::new() });
    let host = agent.host(description, Arc::clone(&handler) as Arc<dyn Handler>).unwrap();
    handler.host.set(host.clone()).ok().unwrap();
    host.publish("pressure", 0.5).unwrap();
    host.raise("OVERTEMP", Severity::Alarm, "65 degrees at the bearing");
    agent.set_state(AgentState::Ready);
    let path = format!("{name}/pump/pressure");
    wait_for("the pump", Duration::from_secs(10), || (beamline.call(&["kv", "get", &path]).code == 0).then_some(()));
    (agent, host)
}

#[test]
fn a_person_finds_reads_sets_and_asks_subsystems_at_a_terminal() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, host) = pump(&beamline);
    let (pump, path) = (format!("{}/pump", beamline.name), format!("{}/pump/pressure", beamline.name));
    let call = |arguments: &[&str]| beamline.call(arguments);
    let mode = format!("{pump}/mode");

    let ls = call(&["ls"]).ok().stdout;
    for expected in [pump.as_str(), "Turbo pump", "ready", "writer"] {
        assert!(ls.contains(expected), "no {expected:?} in {ls}");
    }
    let show = call(&["show", &pump]).ok().stdout;
    for expected in ["pressure", "0.5 mbar", "f64 0..1000 [mbar]", "auto|manual", "can_begin", "double", "OVERTEMP"] {
        assert!(show.contains(expected), "no {expected:?} in {show}");
    }
    call(&["show", &format!("{}/pimp", beamline.name)]).fails_with(1, "the nearest is");

    assert_eq!(call(&["kv", "get", &path]).ok().stdout.trim(), "0.5 mbar");
    call(&["kv", "get", &mode]).fails_with(1, "no value yet");
    assert_eq!(call(&["kv", "set", &path, "2.5"]).ok().stdout.trim(), "2.5 mbar");
    call(&["kv", "set", &path, "-3"]).fails_with(1, "pressure is -3; allowed is 0 to 1000 mbar");
    call(&["kv", "set", &path, "2000"]).fails_with(1, "allowed is 0 to 1000 mbar");
    call(&["kv", "set", &mode, "fast"]).fails_with(1, "allowed is auto, manual");
    call(&["kv", "set", &mode, "auto"]).ok();
    call(&["kv", "get", "pressure"]).fails_with(1, "SUBSYSTEM/ITEM");
    let reading = call(&["kv", "get", &path, "--json"]).ok().json();
    assert_eq!((&reading["value"], &reading["revision"]), (&2.5.into(), &2.into()));
    call(&["kv", "set", &path, "3", "--if-revision", "1"]).fails_with(1, "at revision 2, not 1");
    let listed = call(&["kv", "ls", &pump, "--json"]).ok().json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 3, "{listed:#}");
    assert!(call(&["kv", "ls"]).ok().stdout.contains("rwp-"));
    for (unknown, near) in [("pimp", "pump"), ("pimp/", "pump/"), ("pump/presure", "pump/pressure")] {
        let (unknown, near) = (format!("{}/{unknown}", beamline.name), format!("{}/{near};", beamline.name));
        let listed = call(&["kv", "ls", &unknown]).ok().stdout;
        assert!(listed.contains(&format!("the nearest is {near}")), "{listed}");
    }

    let vetoed = call(&["event", "call", "can_begin"]).fails_with(3, "Door open");
    assert!(vetoed.stderr.contains("looking at the door"), "{}", vetoed.stderr);
    assert!(call(&["event", "call", "vent", "--to", &pump]).ok().stdout.contains("vented"));
    call(&["sync", "nobody_knows_this"]).fails_with(3, "nobody who is here handles");
    call(&["sync", "can_begine"]).fails_with(3, "the nearest is can_begin");
    call(&["event", "call", "vent", "--to", &format!("{}/pimp", beamline.name)]).fails_with(3, "the nearest is");
    assert!(call(&["ls", &format!("{}/pimp", beamline.name)]).ok().stdout.contains("the nearest is"));
    assert!(call(&["jobs", "--service", "wrote"]).ok().stdout.contains("the nearest is write"));
    assert_eq!(call(&["call", "double", "n=21"]).ok().stdout.trim(), "42.0");
    call(&["call", "double", "n=many"]).fails_with(1, "parameter n is text, not f64");
    call(&["call", "dubble", "n=1"]).fails_with(1, "the nearest is double");
    call(&["call", "double", "n"]).fails_with(1, "KEY=VALUE");

    let traced = call(&["call", "double", "n=1", "--trace"]).ok().stderr;
    let id = traced.trim().strip_prefix("trace ").unwrap();
    let tree = call(&["trace", id]).ok().stdout;
    assert!(tree.contains("call.do") && tree.contains("  call.run") && tree.contains("ok"), "{tree}");
    call(&["trace", "zz"]).fails_with(1, "hexadecimal");

    assert!(call(&["alarms"]).ok().stdout.contains("65 degrees at the bearing"));
    host.clear("OVERTEMP");
    wait_for("the alarm is over", Duration::from_secs(5), || {
        call(&["alarms"]).ok().stdout.contains("no alarms").then_some(())
    });
}

#[test]
fn a_value_is_printed_whole_by_itself_and_among_others_in_one_short_line() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let (pump, note) = (format!("{}/pump", beamline.name), format!("{}/pump/note", beamline.name));
    let long = format!("first\x1b[2J\n{}", "ä".repeat(100));
    let call = |arguments: &[&str]| beamline.call(arguments);
    // A script gets every byte.
    assert_eq!(call(&["kv", "set", &note, &long]).ok().stdout, format!("{long}\n"));
    assert_eq!(call(&["kv", "get", &note]).ok().stdout, format!("{long}\n"));
    assert_eq!(call(&["call", "repeat", &format!("text={long}")]).ok().stdout, format!("{long}\n"));
    // A table has lines of its own alone.
    for arguments in [&["show", pump.as_str()], &["kv", "ls"][..]] {
        let stdout = call(arguments).ok().stdout;
        let line = stdout.lines().find(|line| line.contains("first")).unwrap();
        assert!(line.contains("first\\u{1b}[2J\\nää") && line.contains("ä…") && !stdout.contains('\x1b'), "{stdout}");
    }
    let refused = call(&["call", "repeat"]).fails_with(1, "no\\u{1b}[2J\\nerror: text");
    assert!(!refused.stderr.contains('\x1b') && refused.stderr.lines().count() == 1, "{}", refused.stderr);
}

#[test]
fn a_watch_prints_the_value_at_once_and_then_each_change() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, host) = pump(&beamline);
    let path = format!("{}/pump/pressure", beamline.name);
    for more in [&[][..], &["--hz", "5"], &["--json"]] {
        let arguments = [&["kv", "watch", path.as_str()][..], more].concat();
        let mut watch = beamline.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.contains("pressure"), "{first}");
        host.publish("pressure", 77.5).unwrap();
        let second = lines.next().unwrap().unwrap();
        assert!(second.contains("77.5"), "{second}");
        host.publish("pressure", 1.5).unwrap();
        watch.kill().unwrap();
        watch.wait().unwrap();
    }
}

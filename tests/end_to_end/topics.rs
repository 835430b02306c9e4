//! Topics listed, measured and published at a terminal: `ecs-cli topic` against a broker and an agent.

use crate::{
    control::pump,
    support::{Beamline, Detector, Outcome, PATIENCE, send, wait_for},
};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Stdio},
};

/// `topic pub` in the background, killed at the end of a test that fails.
struct Publisher {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Publisher {
    /// Returns when it has published once.
    fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        assert!(line.starts_with("publishes "), "{line}");
        Self { child, errors }
    }

    /// Ends it as Ctrl-C does. Returns its exit code and what else it has said.
    fn interrupt(mut self) -> (Option<i32>, String) {
        send(self.child.id() as i32, libc::SIGINT);
        let mut said = String::new();
        self.errors.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each line of an outcome as JSON.
fn json_lines(outcome: &Outcome) -> Vec<Value> {
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn topics_are_listed_with_what_they_carry_and_with_what_was_heard() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, host) = pump(&beamline);
    let name = &beamline.name;
    let all = beamline.call(&["topic", "ls", "--json"]).ok().json();
    let find = |list: &Value, topic: String| {
        let topics = list["topics"].as_array().unwrap();
        topics
            .iter()
            .find(|its| its["topic"] == topic.as_str())
            .cloned()
            .unwrap_or_else(|| panic!("no {topic}: {list:#}"))
    };
    let pressure = find(&all, format!("{name}/pump/kv/pressure"));
    assert_eq!((&pressure["what"], &pressure["unit"], &pressure["seq"]), (&"value".into(), &"mbar".into(), &1.into()));
    assert_eq!((&pressure["from"], &pressure["heard"]), (&format!("{name}/vacuum").into(), &Value::Null));
    assert_eq!(find(&all, format!("{name}/pump/kv/mode"))["seq"], Value::Null, "it has no value yet");
    let others = [("pump/alarm/OVERTEMP", "alarm"), ("pump/event/vent", "event"), ("jobs/", "jobs")];
    let agents = [("pump/description", "description"), ("writer/state", "state")];
    for (topic, what) in others.into_iter().chain(agents) {
        assert_eq!(find(&all, format!("{name}/{topic}"))["what"], what, "{topic}");
    }
    wait_for("the writer's figures", PATIENCE, || {
        let list = beamline.call(&["topic", "ls", &format!("{name}/writer/"), "--json"]).ok().json();
        list["topics"].as_array().unwrap().iter().any(|its| its["what"] == "telemetry").then_some(())
    });

    let prefix = format!("{name}/pump/kv/");
    let listening =
        beamline.command(&["topic", "ls", &prefix, "--seconds", "3", "--json"]).stdout(Stdio::piped()).spawn();
    let mut listening = listening.unwrap();
    for value in 1.. {
        host.publish("pressure", value).unwrap();
        if listening.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let mut text = String::new();
    listening.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let heard: Value = serde_json::from_str(&text).unwrap();
    let pressure = find(&heard, format!("{name}/pump/kv/pressure"));
    assert!(pressure["heard"].as_u64() > Some(10) && pressure["seq"].as_u64() > Some(10), "{pressure:#}");
    assert_eq!(find(&heard, format!("{name}/pump/kv/mode"))["heard"], 0);

    let table = beamline.call(&["topic", "ls", &prefix]).ok().stdout;
    assert!(table.contains("f64 0..1000 [mbar]") && table.contains("registry") && !table.contains("heard"), "{table}");
    let slip = beamline.call(&["topic", "ls", &format!("{name}/pmup/kv")]).ok();
    assert!(slip.stderr.contains(&format!("the nearest is {name}/pump/kv")), "{}", slip.stderr);
}

#[test]
fn rate_and_size_of_a_topic_are_those_at_which_it_is_published() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let path = format!("{}/test/setpoint", beamline.name);
    let topic = format!("{}/test/kv/setpoint", beamline.name);
    let publisher = Publisher::start(beamline.command(&["topic", "pub", &path, "2.5", "--rate", "50"]));

    let hz = beamline.call(&["topic", "hz", &topic, "--count", "100", "--json"]).ok();
    let last = json_lines(&hz).pop().unwrap();
    assert_eq!((&last["topic"], &last["messages"], &last["missed"]), (&topic.as_str().into(), &100.into(), &0.into()));
    let figure = |name: &str| last[name].as_f64().unwrap_or_else(|| panic!("no {name}: {last:#}"));
    let rate_hz = figure("rate_hz");
    // How fast it was is the machine's matter: messages that were held up arrive together. `meter` has tests of its rates.
    assert!(rate_hz > 0.0, "{last:#}");
    assert!((figure("interval_mean_s") * rate_hz - 1.0).abs() < 0.01, "{last:#}");
    assert!(figure("interval_min_s") <= figure("interval_mean_s"), "{last:#}");
    assert!(figure("interval_mean_s") <= figure("interval_max_s") && figure("interval_std_s") >= 0.0, "{last:#}");
    assert!((figure("bytes_per_s") / rate_hz - figure("bytes_mean")).abs() < 1.0, "{last:#}");
    assert!(figure("bytes_max") >= figure("bytes_mean") && figure("bytes_max") > topic.len() as f64, "{last:#}");

    let hz = beamline.call(&["topic", "hz", &format!("{}/test/", beamline.name), "--seconds", "2"]).ok().stdout;
    assert!(hz.contains("Hz") && hz.contains(&topic) && hz.contains("missed"), "{hz}");
    let bw = beamline.call(&["topic", "bw", &topic, "--count", "20"]).ok().stdout;
    assert!(bw.contains("bytes/s") && bw.contains("B/s") && bw.contains("mean size"), "{bw}");
    assert_eq!(publisher.interrupt().0, Some(0));
}

#[test]
fn a_topic_from_which_nothing_comes_is_explained() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let name = &beamline.name;
    let nobody = beamline.call(&["topic", "hz", &format!("{name}/pmup/kv/pressure"), "--seconds", "1"]);
    nobody.fails_with(1, &format!("the nearest is {name}/pump/kv/pressure"));
    let silent = beamline.call(&["topic", "bw", &format!("{name}/pump/kv/pressure"), "--seconds", "1"]);
    silent.fails_with(1, &format!("of {name}/vacuum, last "));

    // Without an end it goes on waiting, and says so.
    let mut echo = beamline.command(&["topic", "echo", &format!("{name}/pmup/")]);
    let mut echo = echo.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(echo.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(echo.try_wait().unwrap().is_none(), "it waits");
    echo.kill().unwrap();
    echo.wait().unwrap();
    assert!(line.contains("no topic begins with"), "{line}");
    let mut watch = beamline.command(&["kv", "watch", &format!("{name}/pump/presure")]);
    let mut watch = watch.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(watch.stderr.take().unwrap()).read_line(&mut line).unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(line.contains(&format!("the nearest is {name}/pump/pressure")), "{line}");
}

#[test]
fn a_published_value_is_there_for_the_time_and_its_name_nobody_elses() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let name = &beamline.name;
    let call = |arguments: &[&str]| beamline.call(arguments);
    let path = format!("{name}/test/position");
    let publisher = Publisher::start(beamline.command(&["topic", "pub", &path, "-2.5", "--unit", "mm"]));
    assert_eq!(call(&["kv", "get", &path]).ok().stdout.trim(), "-2.5 mm");
    assert!(call(&["show", &format!("{name}/test")]).ok().stdout.contains("f64 [mm]"));
    let echoed = call(&["topic", "echo", &format!("{name}/test/kv/"), "--count", "1", "--json"]).ok().json();
    assert_eq!((&echoed["payload"], &echoed["source"]), (&(-2.5).into(), &format!("{name}/test").into()));
    call(&["topic", "pub", &path, "1"])
        .fails_with(1, &format!("{name}/test is held by process {}", publisher.child.id()));
    let (code, said) = publisher.interrupt();
    assert_eq!(code, Some(0), "{said}");
    call(&["kv", "get", &path]).fails_with(1, "no subsystem is called");
    assert!(!call(&["status"]).ok().stdout.contains(&format!("{name}/test")), "it left no trace");

    call(&["topic", "pub", &path, "x=1", "y=[2, 3]", "--count", "1"]).ok();
    let held = |path: &str, by: &str| call(&["topic", "pub", &format!("{name}/{path}"), "1"]).fails_with(1, by);
    held("pump/pressure", &format!("is held by the agent {name}/vacuum"));
    held("writer/rate", &format!("is held by the agent {name}/writer"));
    call(&["topic", "pub", "elsewhere/test/x", "1"]).fails_with(1, "is not a name of this beamline");
    call(&["topic", "pub", &path, "open", "--type", "f64"]).fails_with(1, "f64");
    call(&["topic", "pub", "position", "1"]).fails_with(1, "SUBSYSTEM/ITEM");
}

#[test]
fn a_published_value_is_back_when_the_broker_is() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let path = format!("{}/test/label", beamline.name);
    let publisher = Publisher::start(beamline.command(&["topic", "pub", &path, "12", "--type", "string"]));
    let before = beamline.pid("broker");
    send(before, libc::SIGKILL);
    wait_for("the value at the next broker", PATIENCE, || {
        let status = beamline.call(&["status", "--json"]);
        let is_new = status.code == 0 && status.json()["broker"]["pid"] != before;
        (is_new && beamline.call(&["kv", "get", &path]).stdout.trim() == "12").then_some(())
    });
    let (code, said) = publisher.interrupt();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is published again"), "{said}");
}

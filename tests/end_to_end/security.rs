//! A beamline with keys, as its users meet it.

use crate::support::{Beamline, Detector, Outcome, ecs, python, repository, wait_for};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A beamline with keys, and one of each role.
struct Secured {
    beamline: Beamline,
}

impl Secured {
    fn configured() -> Self {
        let beamline = Beamline::configured(Detector::Quadrant, "");
        beamline.call(&["keys", "init"]).ok();
        for (name, role) in [("eve", "viewer"), ("olga", "operator")] {
            let added = beamline.call(&["keys", "add", name, "--role", role, "--output", name]).ok();
            assert!(added.stdout.contains("export ECS_KEY="), "{}", added.stdout);
        }
        Self { beamline }
    }

    fn up() -> Self {
        let mut secured = Self::configured();
        secured.beamline.key = Some(secured.beamline.path("olga"));
        secured.beamline.start();
        secured.beamline.key = None;
        secured
    }

    /// A command with the key of `who`.
    fn call(&self, who: &str, arguments: &[&str]) -> Outcome {
        let key = self.beamline.path(who).display().to_string();
        self.beamline.call(&[&["--key", &key], arguments].concat())
    }

    fn key_folder(&self) -> PathBuf {
        self.beamline.path(&format!(".ecs/{}-keys", self.beamline.name))
    }

    /// Every secret that there is.
    fn secrets(&self) -> Vec<String> {
        let folder = self.key_folder();
        let files = ["broker.key", "agents.key"].map(|name| folder.join(name));
        let files = files.into_iter().chain(["eve", "olga"].map(|name| self.beamline.path(name)));
        files.filter_map(|file| field(&fs::read_to_string(file).ok()?, "secret_key")).collect()
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    let start = format!("{name} = \"");
    text.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix('"').map(str::to_owned))
}

const SUBMIT: [&str; 7] = ["submit", "write", "--output", "run.h5", "--images", "20", "--json"];

#[test]
fn operator_submits_viewer_is_refused_and_who_has_no_key_is_told_so() {
    let secured = Secured::up();
    let job = secured.call("olga", &[&SUBMIT[..], &["--start", "1"]].concat()).ok().json()["id"].clone();
    let job = job.to_string();
    wait_for("the job runs", PATIENCE, || {
        let shown = secured.call("eve", &["job", &job, "--json"]).ok().json();
        (shown["state"] == "running").then_some(())
    });
    Outcome::of(&mut secured.beamline.sim(20, 100, &[])).ok();
    secured.call("olga", &["job", &job, "--wait"]).ok();

    let refused = secured.call("eve", &SUBMIT).fails_with(1, "job.submit needs the role operator");
    println!("refused after {:?}", refused.took);
    secured.call("eve", &["status"]).ok();
    secured.call("eve", &["cancel", &job]).fails_with(1, "job.cancel needs the role operator");
    for arguments in [&["status"][..], &["jobs"], &SUBMIT, &["topic", "echo"]] {
        let refused = secured.beamline.call(arguments);
        println!("{arguments:?}: not let in after {:?}; two seconds, says the specification", refused.took);
        refused.fails_with(1, "did not accept this connection, which has no key");
    }
    let refused = secured.beamline.call(&["status", "--wait", "120"]);
    assert!(refused.took < PATIENCE, "it waited {:?} for a key that it has not", refused.took);
    refused.fails_with(1, "did not accept this connection, which has no key");
    assert_eq!(secured.secrets().len(), 4);
}

/// The script of the specification, as it stands there, with our file and endpoint.
#[test]
fn python_subscribes_with_a_viewers_key_by_the_script_of_the_specification_until_it_is_revoked() {
    let secured = Secured::up();
    let spec = fs::read_to_string(repository().join("schemas/spec/security.md")).unwrap();
    let block = spec.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let endpoint = format!("ipc://{}", secured.beamline.path("pub").display());
    let script = block.replace("anna.key", "eve").replace("tcp://daq1:7751", &endpoint);
    let listen =
        "socket.setsockopt(zmq.SUBSCRIBE, b\"\")\nwhile True:\n    print(socket.recv_multipart()[0].decode())\n";
    // The system's Python may be older than tomllib: the file is simple enough to read by hand then.
    let script = script
        .replace("import tomllib, zmq", "import zmq\ntry: import tomllib\nexcept ImportError: import tomli as tomllib");
    fs::write(secured.beamline.path("listen.py"), script + listen).unwrap();
    let mut python = python();
    python.arg("-u").arg("listen.py").current_dir(secured.beamline.folder.path());
    let lines = Lines::of(&mut python);
    let telemetry = format!("{}/assembler/telemetry", secured.beamline.name);
    lines.wait_for(&telemetry);

    let revoked = Instant::now();
    secured.beamline.call(&["keys", "revoke", "eve"]).ok();
    wait_for("eve is not let in", PATIENCE, || (secured.call("eve", &["status"]).code == 1).then_some(()));
    println!("not let in {:?} after its key was taken away", revoked.elapsed());
    secured.call("eve", &["status"]).fails_with(1, "did not accept the key eve");
    // Another subscriber hears on, so what is silent is not the beamline.
    let key = secured.beamline.path("olga").display().to_string();
    let others = Lines::of(&mut secured.beamline.command(&["--key", &key, "topic", "echo", &telemetry]));
    // What it was told before, it may still have to print.
    wait_for("it has printed all", PATIENCE, || {
        let printed = lines.drain();
        others.wait_for(&telemetry);
        (printed == 0).then_some(())
    });
    lines.drain();
    (0..3).for_each(|_| others.wait_for(&telemetry));
    assert_eq!(lines.drain(), 0, "heard after its key was taken away");
    // And the agents went through it.
    let status = secured.call("olga", &["status", "--wait", "20", "--json"]).ok().json();
    assert_eq!(status["ready"], true, "{status:#}");
}

/// A process and the lines that it prints.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let printed = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || printed.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    fn wait_for(&self, text: &str) {
        wait_for(text, PATIENCE, || self.lines.try_iter().find(|line| line.contains(text)));
    }

    /// How many lines wait; they are dropped.
    fn drain(&self) -> usize {
        self.lines.try_iter().count()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn no_secret_is_in_any_output_log_or_state_file() {
    let mut secured = Secured::configured();
    let secrets = secured.secrets();
    assert_eq!(secrets.len(), 4);
    let text = fs::read_to_string(secured.beamline.path("beamline.toml")).unwrap();
    // All that can be logged, also by a broker and agents whose keys are not right.
    secured.beamline.key = Some(secured.beamline.path("olga"));
    secured.beamline.start_with(|up| up.args(["--verbose", "--verbose"]));
    let mut printed = String::new();
    for arguments in [
        &["keys", "list"][..],
        &["keys", "list", "--json"],
        &["status", "--json"],
        &SUBMIT,
        &["keys", "add", "eve", "--role", "viewer"],
    ] {
        let outcome = secured.beamline.call(arguments);
        printed += &(outcome.stdout + &outcome.stderr);
    }
    assert!(printed.contains("olga") && printed.contains("is there already"), "{printed}");
    fs::write(
        secured.beamline.path("torn"),
        fs::read_to_string(secured.beamline.path("eve")).unwrap().replace("name =", "name"),
    )
    .unwrap();
    let torn = secured.call("torn", &["-vv", "status"]).fails_with(1, "torn");
    printed += &(torn.stdout + &torn.stderr);
    secured.beamline.end(libc::SIGINT);
    printed += &secured.beamline.log();
    printed += &text;
    let mut places = vec![("output".to_owned(), printed.into_bytes())];
    let state = secured.beamline.path(&format!(".ecs/{}", secured.beamline.name));
    for entry in fs::read_dir(state).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        places.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
    }
    assert!(places.len() > 1);
    for (place, bytes) in places {
        for secret in &secrets {
            let is_there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "a secret key is in {place}");
        }
    }
}

#[test]
fn broker_that_others_could_reach_without_keys_does_not_start() {
    let beamline = Beamline::configured(Detector::Quadrant, "");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = fs::read_to_string(beamline.path("beamline.toml")).unwrap();
    let local = format!("ipc://{}", beamline.path("req").display());
    let open = text.replace(&local, &format!("tcp://0.0.0.0:{port}"));
    fs::write(beamline.path("beamline.toml"), &open).unwrap();
    let refused = beamline.call(&["broker"]).fails_with(78, "keys init");
    assert!(refused.stderr.contains("--insecure"), "{refused:?}");
    beamline.call(&["up", "beamline.toml"]).fails_with(1, "cannot run as it is configured");
    let starts = |beamline: &Beamline, arguments: &[&str]| {
        let mut broker = beamline.command(arguments).stderr(Stdio::null()).spawn().expect("it starts");
        let endpoint = format!("tcp://127.0.0.1:{port}");
        wait_for("an answer or an end", PATIENCE, || {
            let answered = Outcome::of(ecs().args(["status", "--broker", &endpoint])).code == 0;
            let ended = broker.try_wait().unwrap().is_some();
            (answered || ended).then_some(answered)
        });
        let is_up = broker.try_wait().unwrap().is_none();
        let _ = broker.kill();
        let _ = broker.wait();
        is_up
    };
    assert!(starts(&beamline, &["broker", "--insecure"]));
    fs::write(beamline.path("beamline.toml"), open.replace("[broker]\n", "[broker]\ninsecure = true\n")).unwrap();
    assert!(starts(&beamline, &["broker"]));
}

#[test]
fn keys_are_made_listed_and_refused_as_a_person_expects() {
    let beamline = Beamline::configured(Detector::Quadrant, "");
    beamline.call(&["keys", "add", "anna", "--role", "viewer"]).fails_with(1, "ecs-cli keys init");
    beamline.call(&["keys", "list"]).fails_with(1, "ecs-cli keys init");
    let made = beamline.call(&["keys", "init"]).ok();
    assert!(made.stdout.contains("agents.key") && made.stdout.contains("Start the broker again"), "{}", made.stdout);
    beamline.call(&["keys", "init"]).fails_with(1, "is there already");
    beamline.call(&["keys", "add", "laser", "--role", "agent"]).ok();
    beamline.call(&["keys", "add", "laser", "--role", "viewer"]).fails_with(1, "is there already");
    beamline.call(&["keys", "add", "stage", "--role", "agent", "--names", "x/a,x/b*"]).ok();
    beamline.call(&["keys", "add", "bob", "--role", "king"]).fails_with(2, "viewer, operator or agent");
    beamline.call(&["keys", "add", "bob", "--role", "viewer", "--names", "x/a"]).fails_with(1, "--role agent");
    beamline.call(&["keys", "add", "../bob", "--role", "viewer"]).fails_with(1, "no name of a key");
    beamline
        .call(&["keys", "add", "bob", "--role", "viewer", "--output", "/no/such/bob"])
        .fails_with(1, "no key was made");
    beamline.call(&["keys", "revoke", "bob"]).fails_with(1, "agents, laser, stage");
    beamline.call(&["keys", "revoke", "lasre"]).fails_with(1, "the nearest is laser");
    let list = beamline.call(&["keys", "list", "--json"]).ok().json();
    let list: Vec<(String, String)> = list["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (key["name"].as_str().unwrap().to_owned(), key["names"].to_string()))
        .collect();
    let name = &beamline.name;
    let expected = [
        ("agents", format!("[\"{name}/*\"]")),
        ("laser", format!("[\"{name}/laser\"]")),
        ("stage", "[\"x/a\",\"x/b*\"]".to_owned()),
    ];
    assert_eq!(list, expected.map(|(name, names)| (name.to_owned(), names)));
    let file = beamline.path(&format!(".ecs/{name}-keys/laser.key"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(beamline.call(&["keys", "list"]).ok().stderr.contains("chmod 600"));
    beamline.call(&["keys", "revoke", "laser"]).ok();
    assert!(!beamline.call(&["keys", "list"]).ok().stdout.contains("laser"));
    beamline.call(&["--key", "/no/such/key", "status"]).fails_with(1, "/no/such/key");
}

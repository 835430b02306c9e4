//! Names of a running beamline that the shell completes: a real bash, and what the functions for zsh and fish ask.

use crate::{
    control::pump,
    support::{Beamline, Detector, Outcome, PATIENCE, ecs_path, python, send},
};
use std::{fs, process::Command};

/// Calls the function that `complete` has for `ecs-cli` as bash does: with the line, the cursor at its end, and the part
/// of its last word that is to be replaced. It prints what is offered, a word a line.
const AS_BASH: &str = r#"
source <("$ECS_CLI" completions bash) || exit 1
function=$(complete -p ecs-cli | sed 's/.*-F \([^ ]*\) .*/\1/')
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
"$function" ecs-cli "$2" ''
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Types a line with Tab at its end into an interactive bash, and prints the screen once it shows what is wanted.
const AT_A_TERMINAL: &str = r#"
import os, pty, select, sys, time
typed, wanted = sys.argv[1], sys.argv[2]
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(PS1="> ", TERM="dumb", PATH=os.path.dirname(os.environ["ECS_CLI"]) + ":" + os.environ["PATH"])
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
screen, end = "", time.monotonic() + 30
def until(part):
    global screen
    while part not in screen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            screen += os.read(terminal, 65536).decode(errors="replace")
until("> ")
os.write(terminal, b"source <(ecs-cli completions bash); echo set-$((1 + 1))\n")
until("set-2")
os.write(terminal, typed.encode() + b"\t")
until(wanted)
print(screen)
os.close(terminal)
"#;

struct Shell<'a> {
    beamline: &'a Beamline,
}

impl Shell<'_> {
    fn offers(&self, line: &str) -> Vec<String> {
        // Bash breaks words at these, and replaces what is behind the last one.
        let replaced = line.rsplit([' ', '=', ':']).next().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-c", AS_BASH, "bash", line, replaced]).env("ECS_CLI", ecs_path());
        self.in_beamline(&mut bash);
        let outcome = Outcome::of(&mut bash).ok();
        assert_eq!(outcome.stderr, "", "nothing is said on the terminal");
        outcome.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// What is asked and answered by the function of another shell.
    fn answer(&self, shell: &str, words: &[&str]) -> String {
        let mut command = self.beamline.command(&["--"]);
        command.args(words).env("ECS_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        Outcome::of(&mut command).ok().stdout
    }

    fn in_beamline(&self, command: &mut Command) {
        command.current_dir(self.beamline.folder.path());
        for variable in ["ECS_BROKER", "ECS_KEY", "ECS_CONFIG"] {
            command.env_remove(variable);
        }
    }
}

#[test]
fn bash_completes_the_names_of_a_running_beamline() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let (name, shell) = (&beamline.name, Shell { beamline: &beamline });
    beamline.call(&["submit", "write", "--output", "x.h5", "--images", "1", "--hold"]).ok();
    let pump = format!("{name}/pump");
    let cases: [(&str, &[&str]); 17] = [
        ("ecs-cli top", &["topic"]),
        ("ecs-cli topic ", &["ls", "echo", "hz", "bw", "pub", "help"]),
        ("ecs-cli kv get PUMP/", &["PUMP/mode", "PUMP/note", "PUMP/pressure"]),
        ("ecs-cli kv set PUMP/m", &["PUMP/mode"]),
        ("ecs-cli kv set PUMP/mode ", &["auto", "manual"]),
        ("ecs-cli kv watch PUMP/mode PUMP/p", &["PUMP/pressure"]),
        ("ecs-cli show PU", &[]),
        ("ecs-cli sync can", &["can_begin"]),
        ("ecs-cli event call v", &["vent"]),
        ("ecs-cli event call vent --to PUM", &["PUMP"]),
        ("ecs-cli call ", &["double", "repeat"]),
        ("ecs-cli call double ", &["n="]),
        ("ecs-cli submit wr", &["write"]),
        ("ecs-cli release ", &["1"]),
        ("ecs-cli jobs --state f", &["failed"]),
        ("ecs-cli topic hz PUMP/kv/p", &["PUMP/kv/pressure"]),
        ("ecs-cli topic echo PUMP/ev", &["PUMP/event/can_begin", "PUMP/event/vent"]),
    ];
    for (line, expected) in cases {
        // A beamline's name may be any, so the cases say PUMP.
        let line = line.replace("PUMP", &pump).replace("PUM", &pump[..pump.len() - 1]);
        let expected: Vec<String> = expected.iter().map(|word| word.replace("PUMP", &pump)).collect();
        assert_eq!(shell.offers(&line), expected, "{line}");
    }
    let parts = shell.offers(&format!("ecs-cli topic ls {name}/"));
    assert!(parts.contains(&format!("{name}/pump/")) && parts.contains(&format!("{name}/jobs/")), "{parts:?}");
    assert!(shell.offers("ecs-cli kv get --").contains(&"--timeout".to_owned()));
    assert_eq!(shell.offers("ecs-cli submit x @be"), ["@beamline.toml"]);
}

#[test]
fn bash_asks_the_broker_that_the_line_names_though_it_breaks_words_at_its_punctuation() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let shell = Shell { beamline: &beamline };
    let (pump, other) = (format!("{}/pump", beamline.name), beamline.path("other.toml"));
    fs::rename(beamline.path("beamline.toml"), &other).unwrap(); // there is no default any more
    assert_eq!(shell.offers(&format!("ecs-cli kv get {pump}/p")), [""; 0]);
    for option in ["--config other.toml", "--config=other.toml", "--config 'other.toml'"] {
        assert_eq!(
            shell.offers(&format!("ecs-cli kv get {option} {pump}/p")),
            [format!("{pump}/pressure")],
            "{option}"
        );
    }
    assert_eq!(shell.offers("ecs-cli kv get --config=oth"), ["other.toml"], "what stands before `=` stays");
    assert_eq!(
        shell.offers(&format!("ecs-cli --key none.key kv get --config other.toml {pump}/p")),
        [""; 0],
        "no such key"
    );
    fs::rename(&other, beamline.path("beamline.toml")).unwrap();
}

/// A process that stands still until this is dropped, also by a panic: a beamline waits for its end.
struct Stopped(i32);

impl Stopped {
    fn now(pid: i32) -> Self {
        send(pid, libc::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        send(self.0, libc::SIGCONT);
    }
}

#[test]
fn completion_without_an_answer_offers_nothing_and_says_nothing() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let shell = Shell { beamline: &beamline };
    let broker = beamline.pid("broker");
    assert!(!shell.offers("ecs-cli show ").is_empty());
    let stopped = Stopped::now(broker); // it takes connections, and answers nothing
    assert_eq!(shell.offers("ecs-cli show "), [""; 0]);
    drop(stopped);
    assert_eq!(shell.offers("ecs-cli show --broker tcp://127.0.0.1:9 "), [""; 0]);
    assert_eq!(shell.offers("ecs-cli show --config none.toml "), [""; 0]);
    for shell_name in ["bash", "zsh", "fish", "unheard-of"] {
        assert_eq!(shell.answer(shell_name, &["ecs-cli", "--config", "none.toml", "show", ""]), "", "{shell_name}");
        assert_eq!(shell.answer(shell_name, &["ecs-cli"]), "", "{shell_name}");
    }
}

#[test]
fn zsh_and_fish_get_names_with_what_they_are() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let (pump, shell) = (format!("{}/pump", beamline.name), Shell { beamline: &beamline });
    let words = ["ecs-cli", "kv", "get", &format!("{pump}/p")];
    assert_eq!(shell.answer("zsh", &words), format!("{pump}/pressure:f64 0..1000 [mbar]\n"));
    assert_eq!(shell.answer("fish", &words), format!("{pump}/pressure\tf64 0..1000 [mbar]\n"));
    assert!(shell.answer("fish", &["ecs-cli", "sho"]).starts_with("show\tShow one subsystem"));
    for (shell_name, word) in [("zsh", "compdef"), ("fish", "complete --keep-order")] {
        let script = beamline.call(&["completions", shell_name]).ok().stdout;
        assert!(script.contains(word) && script.contains(ecs_path().to_str().unwrap()), "{script}");
    }
}

#[test]
fn tab_at_a_terminal_completes_a_name() {
    let beamline = Beamline::up(Detector::Quadrant, "");
    let (_agent, _host) = pump(&beamline);
    let (pump, shell) = (format!("{}/pump", beamline.name), Shell { beamline: &beamline });
    let wanted = format!("{pump}/pressure ");
    let mut terminal = python();
    terminal.args(["-c", AT_A_TERMINAL, &format!("ecs-cli kv get --config=beamline.toml {pump}/p"), &wanted]);
    terminal.env("ECS_CLI", ecs_path());
    shell.in_beamline(&mut terminal);
    let screen = Outcome::of(&mut terminal).ok();
    assert!(screen.stdout.contains(&wanted), "{}", screen.stdout);
    assert!(screen.took < PATIENCE, "the script gives up by itself");
}

#[test]
fn names_of_keys_are_completed_without_a_broker() {
    let beamline = Beamline::configured(Detector::Quadrant, "");
    let shell = Shell { beamline: &beamline };
    assert_eq!(shell.offers("ecs-cli keys revoke "), [""; 0], "there is no key folder yet");
    beamline.call(&["keys", "init"]).ok();
    beamline.call(&["keys", "add", "anna", "--role", "operator"]).ok();
    assert_eq!(shell.offers("ecs-cli keys revoke "), ["agents", "anna"]);
    assert_eq!(shell.offers("ecs-cli keys revoke an"), ["anna"]);
}

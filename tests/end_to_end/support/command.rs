//! `ecs-cli`, called as a person would.

use serde_json::Value;
use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a command printed and how it exited.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// The binary that was built beside the tests.
pub fn ecs_path() -> PathBuf {
    let test = env::current_exe().expect("a test has a path");
    let path = test.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps").join("ecs-cli");
    assert!(path.exists(), "{} is missing: build the workspace first, as tools/test does", path.display());
    path
}

/// A command of ours, without a person's environment.
pub fn ecs() -> Command {
    let mut command = Command::new(ecs_path());
    for variable in ["ECS_CONFIG", "ECS_BROKER", "ECS_KEY", "ECS_LOG"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

impl Outcome {
    pub fn of(command: &mut Command) -> Self {
        let start = Instant::now();
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// The outcome, which must be a success.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// The outcome, which must be an error whose message has `text`, without panic.
    pub fn fails_with(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let printed = format!("{}{}", self.stdout, self.stderr);
        assert!(printed.contains(text), "no {text:?} in: {printed}");
        assert!(!printed.contains("panicked"), "{printed}");
        self
    }
}

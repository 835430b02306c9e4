//! Second processes: this test binary started again, as another participant.
//!
//! The child runs the same test harness with one test selected, which looks for its part in the
//! environment. It tells its parent by lines on the standard error output.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

const PART: &str = "ECS_RING_TEST_PART";
const RING: &str = "ECS_RING_TEST_PATH";

/// A child with a part to play. Killed when it is dropped.
pub struct Player {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Player {
    /// Starts this binary again, to play `part` on the ring at `path`. `entry` names the test that
    /// calls [`part`].
    pub fn start(entry: &str, part: &str, path: &Path) -> Self {
        Self::start_with(entry, part, path, &[])
    }

    pub fn start_with(entry: &str, part: &str, path: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
        command.args(["--exact", entry, "--nocapture", "--test-threads=1"]);
        command.env(PART, part).env(RING, path).envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, lines }
    }

    /// Waits until the child has said this line. Ends when the child does: the watchdog sees to the rest.
    pub fn wait_for(&mut self, line: &str) {
        let mut said = String::new();
        loop {
            let mut next = String::new();
            let read = self.lines.read_line(&mut next).expect("text");
            assert!(read > 0, "the child ended before it said {line:?}; it said {said:?}");
            if next.trim_end() == line {
                return;
            }
            said += &next;
        }
    }

    /// What the child says next; empty at its end.
    pub fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it ended");
    }

    /// Waits for its end. Returns whether all of its checks held, and what it said.
    pub fn finish(mut self) -> (bool, String) {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut said).expect("text");
        (self.child.wait().expect("it ended").success(), said)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The part that this process has to play, and the ring; none in the parent.
pub fn part() -> Option<(String, std::path::PathBuf)> {
    Some((std::env::var(PART).ok()?, std::env::var_os(RING)?.into()))
}

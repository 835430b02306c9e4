//! A process that runs beside a leg: the broker, an agent, a generator, another message server.
//!
//! # Rules
//! P1  A child is in a group of its own: Ctrl-C reaches this process alone, which ends its children in order.
//! P2  The kernel asks a child to end when the thread that started it has ended, `kill -9` included.
//! P3  A child is signalled only while it is listed in `LEFT` and not waited for, so its pid is still its own.
//! P4  Who asks a child to end lets it go on, too: one that was paused would not hear it.

use anyhow::{Context, ensure};
use ecs_sdk::stop;
use ecs_supervisor::end_with_parent;
use std::{
    fs, io, mem,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A child that was asked to end is killed after this long.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// A wait of the thread that tidies; then it waits again.
const ROUND: Duration = Duration::from_secs(3600);

/// What a signal has to tidy up.
static LEFT: Mutex<Left> = Mutex::new(Left { children: Vec::new(), folders: Vec::new() });

struct Left {
    /// The pids of all that run.
    children: Vec<u32>,
    /// Also some that are removed already.
    folders: Vec<PathBuf>,
}

/// A child that is stopped when it is dropped: asked first, so that it cleans up, then killed with its group.
pub struct Running(Child);

impl Running {
    /// Starts `program` with `arguments` in `folder`; it says nothing.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(program: &Path, folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
        Self::spawn(&mut command)
    }

    /// Starts `command`, whose output goes where it says. The calling thread has to outlive the child (P2).
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut left = left();
        let child = end_with_parent(command).spawn().with_context(|| format!("cannot start {command:?}"))?;
        left.children.push(child.id());
        Ok(Self(child))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn has_ended(&self) -> bool {
        has_ended(self.pid())
    }

    pub fn ask_to_end(&self) {
        ask_to_end(self.pid());
    }

    /// Stops it (SIGSTOP) until what comes back is dropped; it stands when this returns.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(&self) -> anyhow::Result<Paused<'_>> {
        signal(self.pid(), libc::SIGSTOP);
        let paused = Paused(self);
        // SAFETY: all zeros is a valid siginfo, which waitid fills; WNOWAIT leaves the child to be waited for.
        let code = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let (options, pid) = (libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT, self.pid());
            while libc::waitid(libc::P_PID, pid, &raw mut info, options) != 0 {
                let error = io::Error::last_os_error();
                ensure!(error.kind() == io::ErrorKind::Interrupted, "cannot wait for a process to stop: {error}");
            }
            info.si_code
        };
        ensure!(code == libc::CLD_STOPPED, "process {} has ended by itself", self.pid());
        Ok(paused)
    }
}

/// A child that stands still, until this is dropped.
pub struct Paused<'a>(&'a Running);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        signal(self.0.pid(), libc::SIGCONT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ask_to_end();
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < END_PATIENCE {
            thread::sleep(Duration::from_millis(2));
        }
        let mut left = left();
        kill_group(self.pid());
        left.children.retain(|pid| *pid != self.pid());
        let _ = self.0.wait();
    }
}

/// What `command` starts takes a core only while nobody else wants it (`SCHED_IDLE`).
pub fn behind_all_others(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child between fork and exec; the call is a plain system call, which reads the parameter,
    // and the error does not allocate.
    unsafe {
        command.pre_exec(|| {
            let parameter = libc::sched_param { sched_priority: 0 };
            match libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

/// A folder that is removed when it is dropped, and by [`tidy_on_signal`].
///
/// # Errors
/// There is no room.
pub fn temporary_folder() -> anyhow::Result<TempDir> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    left().folders.push(folder.path().to_owned());
    Ok(folder)
}

/// From now on SIGINT and SIGTERM end the children and remove the temporary folders, and only then this process, as by
/// SIGINT.
///
/// # Errors
/// Out of threads.
pub fn tidy_on_signal() -> anyhow::Result<()> {
    let stop = stop::install();
    let tidy = move || {
        while !stop.wait(ROUND) {}
        let Left { children, folders } = &*left(); // kept: from here on nobody starts or ends another
        children.iter().for_each(|pid| ask_to_end(*pid));
        let start = Instant::now();
        while !children.iter().all(|pid| has_ended(*pid)) && start.elapsed() < END_PATIENCE {
            thread::sleep(Duration::from_millis(2));
        }
        children.iter().for_each(|pid| kill_group(*pid));
        while !children.iter().all(|pid| has_ended(*pid)) {
            thread::sleep(Duration::from_millis(2)); // SIGKILL cannot fail; what has ended writes into no folder
        }
        folders.iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
        // SAFETY: both take integers, and the default action ends the process.
        unsafe {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::raise(libc::SIGINT);
        }
    };
    thread::Builder::new().name("tidy".to_owned()).spawn(tidy).context("no thread")?;
    Ok(())
}

/// Each change of it is one statement: it is whole also after a panic.
fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two integers; P3.
    unsafe { libc::kill(pid as i32, signal) };
}

fn ask_to_end(pid: u32) {
    signal(pid, libc::SIGTERM);
    signal(pid, libc::SIGCONT); // P4
}

fn kill_group(pid: u32) {
    // SAFETY: as above; the group has the pid of its first process, which was not waited for.
    unsafe { libc::kill(-(pid as i32), libc::SIGKILL) };
}

/// Whether a child has ended; it is not waited for.
fn has_ended(pid: u32) -> bool {
    // SAFETY: all zeros is a valid siginfo, and what waitid leaves where the child has not ended.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: waitid writes one siginfo; WNOWAIT leaves the child to be waited for.
    let result =
        unsafe { libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    // SAFETY: waitid has filled the fields of a child, or left zeros.
    result != 0 || unsafe { info.si_pid() } != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(30);

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < WATCHDOG, "waited {WATCHDOG:?} for: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gone, or ended and waiting for somebody to ask how.
    fn has_no_life(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// A shell that starts a process and does not care for it; the process writes down that it lives.
    #[test]
    fn a_child_is_ended_with_what_it_has_started() {
        let folder = temporary_folder().unwrap();
        let script = "sleep 1000 & echo $! > new; mv new pid; wait";
        let child = Running::start(Path::new("/bin/sh"), folder.path(), &["-c", script]).unwrap();
        let pid = folder.path().join("pid");
        wait_until("the child's child", || pid.exists());
        let grandchild = fs::read_to_string(pid).unwrap().trim().to_owned();
        assert!(!child.has_ended() && !has_no_life(&grandchild));
        let shell = child.pid();
        assert!(left().children.contains(&shell));
        drop(child);
        wait_until("the end of the child's child", || has_no_life(&grandchild));
        assert!(has_no_life(&shell.to_string()) && !left().children.contains(&shell));
    }

    /// Its state is the kernel's word, in /proc.
    #[test]
    fn a_child_stands_still_while_it_is_paused_and_ends_all_the_same() {
        let child = Running::start(Path::new("/bin/sleep"), Path::new("/"), &["1000"]).unwrap();
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        for _ in 0..3 {
            let paused = child.pause().unwrap();
            assert_eq!(state(), 'T');
            drop(paused);
            wait_until("it goes on", || state() != 'T');
        }
        mem::forget(child.pause().unwrap());
        let (start, pid) = (Instant::now(), child.pid());
        drop(child);
        assert!(has_no_life(&pid.to_string()) && start.elapsed() < END_PATIENCE, "it was not asked, but killed");
    }

    #[test]
    fn a_child_that_has_ended_cannot_be_paused() {
        let child = Running::start(Path::new("/bin/true"), Path::new("/"), &[]).unwrap();
        wait_until("its end", || child.has_ended());
        assert!(child.pause().is_err());
    }

    #[test]
    fn a_child_that_has_ended_by_itself_is_seen() {
        let child = Running::start(Path::new("/bin/true"), Path::new("/"), &[]).unwrap();
        wait_until("its end", || child.has_ended());
    }
}

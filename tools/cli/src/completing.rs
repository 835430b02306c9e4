//! What a shell offers when a person presses Tab: commands and options, and the names that the broker knows.
//!
//! ```text
//! Tab ─▶ shell's function ─▶ ECS_COMPLETE=bash ecs-cli -- WORDS ─▶ candidates, one a line
//!                                                │
//!                                                └─▶ broker of --config, --broker, or the defaults
//! ```
//!
//! # Rules
//! C1  It answers within [`PATIENCE`], with what it has by then. No broker, a wrong file, a key that is not accepted: no
//!     candidates, and not a word on the terminal.
//! C2  Names that are paths are completed part by part, as files are: a beamline has thousands of items.
//! C3  Options are offered to who has typed `-`, or where nothing else can stand: not in place of names that nobody told.
//!
//! The engine is that of `clap_complete`, behind its feature `unstable-dynamic`: its version is pinned, since the interface
//! may change with any. Its function for bash is not used: bash cuts words at `=` and `:`, and it takes `--broker
//! tcp://host:7750` for five words. Ours is given the line and cuts it by itself.

use crate::{beamline_file, cli::Cli, connection::Connection, identity, registered::Registered, values::shown_type};
use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::{
    PathCompleter,
    engine::{CompletionCandidate, ValueCompleter, complete},
    env::{EnvCompleter, Fish, Zsh},
};
use ecs_broker::keys::KeyFolder;
use ecs_schemas::{
    job::{JobId, JobRecord, JobState, ListJobs},
    kv::ListedItem,
    subsystem::{Handled, Listed},
    value_type::Form,
};
use ecs_sdk::CallError;
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Rule C1: longer is felt as a terminal that hangs.
const PATIENCE: Duration = Duration::from_millis(300);
/// Jobs that are offered: the newest.
const JOBS_MAX: u32 = 50;
/// Where this is set to a shell's name, the process completes and does nothing else.
const VARIABLE: &str = "ECS_COMPLETE";
/// Where zsh says which word it is: `clap_complete`'s function for zsh sets it.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";

/// The words of the command line, and which of them is to be completed.
struct Line {
    words: Vec<String>,
    index: usize,
}

static LINE: OnceLock<Line> = OnceLock::new();
/// A name can stand where the cursor is. Set by the thread that looks for candidates, before it says what it has found.
static WANTS_NAME: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What the shell is to do when it starts.
///
/// # Errors
/// The output is closed.
pub fn write_setup(shell: Shell, program: &str, out: &mut dyn Write) -> io::Result<()> {
    match shell {
        Shell::Bash => write!(out, "{}", BASH.replace("PROGRAM", &quoted_for_bash(program))),
        Shell::Zsh => Zsh.write_registration(VARIABLE, "ecs-cli", "ecs-cli", program, out),
        Shell::Fish => Fish.write_registration(VARIABLE, "ecs-cli", "ecs-cli", program, out),
    }
}

/// The line up to the cursor, and the part of its last word that bash will replace. A name that ends in `/` or `=` goes on.
const BASH: &str = r#"_ecs_cli() {
    local candidates
    candidates=$(ECS_COMPLETE=bash PROGRAM -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    COMPREPLY=()
    [[ -n $candidates ]] && mapfile -t COMPREPLY <<<"$candidates"
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F _ecs_cli ecs-cli 2>/dev/null || complete -F _ecs_cli ecs-cli
"#;

fn quoted_for_bash(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Completes, where a shell asks for it; false where none does. To be called before anything is written.
pub fn answer() -> bool {
    let Some(shell) = env::var_os(VARIABLE).filter(|shell| !shell.is_empty()) else { return false };
    let given: Vec<OsString> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let given: Vec<String> = given.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let output = match shell.to_str() {
        Some("bash") => for_bash(&given),
        Some("zsh") => for_zsh(given),
        Some("fish") => for_fish(given),
        _ => String::new(), // C1
    };
    let _ = io::stdout().write_all(output.as_bytes()); // a shell that does not read has lost interest
    true
}

fn for_bash(given: &[String]) -> String {
    let [line, replaced] = given else { return String::new() };
    let words = split(line);
    let word = words.last().cloned().unwrap_or_default();
    let index = words.len().saturating_sub(1);
    // Bash replaces what is behind the last `=` or `:`; what is before it stays on the line.
    let replaced = replaced.trim_start_matches(['=', ':']);
    let kept = word.strip_suffix(replaced).unwrap_or_default().len();
    let values = candidates(words, index).into_iter().map(|candidate| value(&candidate));
    lines(values.filter_map(|value| value.get(kept..).map(escaped_for_bash)))
}

fn for_zsh(mut given: Vec<String>) -> String {
    let index = env::var(INDEX).ok().and_then(|index| index.parse().ok()).unwrap_or(given.len().saturating_sub(1));
    if index == given.len() {
        given.push(String::new()); // zsh leaves out a last word that is empty
    }
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    lines(candidates(given, index).into_iter().map(|candidate| match help(&candidate) {
        Some(help) => format!("{}:{}", escaped(&value(&candidate)), escaped(&help)),
        None => escaped(&value(&candidate)),
    }))
}

fn for_fish(given: Vec<String>) -> String {
    let index = given.len().saturating_sub(1);
    lines(candidates(given, index).into_iter().map(|candidate| match help(&candidate) {
        Some(help) => format!("{}\t{help}", value(&candidate)),
        None => value(&candidate),
    }))
}

fn lines(words: impl Iterator<Item = String>) -> String {
    words.filter(|word| !word.contains('\n')).map(|word| word + "\n").collect()
}

fn value(candidate: &CompletionCandidate) -> String {
    candidate.get_value().to_string_lossy().into_owned()
}

fn help(candidate: &CompletionCandidate) -> Option<String> {
    let text = candidate.get_help()?.to_string();
    // An agent may say anything of itself; a terminal takes it from here.
    let help: String = text.lines().next()?.chars().filter(|letter| !letter.is_control()).collect();
    Some(help).filter(|help| !help.is_empty())
}

/// Words as bash takes them, without their quotes; the last one is what the cursor is at, perhaps empty.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut is_in_word) = (vec![String::new()], None, false);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().expect("one at least");
        match (letter, quote) {
            ('\\', None | Some('"')) => word.extend(letters.next()),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, Some(_)) => word.push(letter),
            ('\'' | '"', None) => quote = Some(letter),
            (letter, None) if letter.is_whitespace() => {
                if std::mem::take(&mut is_in_word) {
                    words.push(String::new());
                }
                continue;
            }
            (letter, None) => word.push(letter),
        }
        is_in_word = true;
    }
    words
}

/// A word that bash takes as it is.
fn escaped_for_bash(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+=:,@%~".contains(letter);
    word.chars().flat_map(|letter| (!is_plain(letter)).then_some('\\').into_iter().chain([letter])).collect()
}

/// Rules C1 and C3.
fn candidates(words: Vec<String>, index: usize) -> Vec<CompletionCandidate> {
    let word = words.get(index).cloned().unwrap_or_default();
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    if index == 0 || LINE.set(Line { words, index }).is_err() {
        return Vec::new();
    }
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let folder = env::current_dir().ok();
        sender.send(complete(&mut Cli::command(), arguments, index, folder.as_deref()))
    });
    let mut found = receiver.recv_timeout(PATIENCE).ok().and_then(Result::ok).unwrap_or_default();
    let is_option = |candidate: &CompletionCandidate| value(candidate).starts_with('-');
    let stand_alone = found.iter().all(is_option) && !WANTS_NAME.load(Ordering::Relaxed);
    if !word.starts_with('-') && !stand_alone {
        found.retain(|candidate| !is_option(candidate));
    }
    let mut offered = BTreeSet::new();
    found.retain(|candidate| offered.insert(value(candidate))); // `write` is a service, and a command of `submit`
    found
}

/// Where the broker is, by the words that are there.
#[derive(Debug, Parser)]
struct Where {
    #[command(flatten)]
    connection: Connection,
    #[arg(long, env = "ECS_KEY")]
    key: Option<PathBuf>,
}

impl Where {
    fn of_line() -> Option<Self> {
        let words = &LINE.get()?.words;
        let mut chosen = vec!["ecs-cli"];
        for (place, word) in words.iter().enumerate() {
            let name = word.split('=').next().unwrap_or_default();
            if ["--config", "--broker", "--key"].contains(&name) {
                chosen.push(word);
                chosen.extend(words.get(place + 1).filter(|_| name == word).map(String::as_str));
            }
        }
        Self::try_parse_from(chosen).ok()
    }
}

/// Asks the broker; nothing where that fails (C1).
fn asked<T>(question: impl FnOnce(&Registered<'_>) -> Result<Vec<T>, CallError>) -> Vec<T> {
    WANTS_NAME.store(true, Ordering::Relaxed);
    let ask = || {
        let Where { connection, key } = Where::of_line()?;
        identity::note(key);
        let client = connection.client().ok()?;
        question(&Registered::new(&client, PATIENCE)).ok()
    };
    ask().unwrap_or_default()
}

fn text(current: &OsStr) -> &str {
    current.to_str().unwrap_or_default()
}

fn offered(name: impl Into<OsString>, help: impl Into<String>) -> CompletionCandidate {
    let help = Some(help.into()).filter(|help| !help.is_empty());
    CompletionCandidate::new(name).help(help.map(Into::into))
}

/// Names that begin with what is typed; rule C2.
fn by_parts(current: &str, names: impl IntoIterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let names: BTreeMap<String, String> = names.into_iter().filter(|(name, _)| name.starts_with(current)).collect();
    let mut begin = current.to_owned();
    loop {
        let parts: BTreeSet<&str> = names
            .keys()
            .map(|name| match name[begin.len()..].find('/') {
                Some(end) => &name[..begin.len() + end + 1],
                None => name,
            })
            .collect();
        match parts.first() {
            // The only way on, as long as it leads to more than itself.
            Some(&only) if parts.len() == 1 && only.ends_with('/') && !names.contains_key(only) => {
                begin = only.to_owned();
            }
            _ => {
                let help = |part: &str| names.get(part).cloned().unwrap_or_default();
                return parts.into_iter().map(|part| offered(part, help(part))).collect();
            }
        }
    }
}

/// Names that are one word each.
fn whole(current: &str, names: impl IntoIterator<Item = (String, String)>) -> Vec<CompletionCandidate> {
    let names: BTreeMap<String, String> = names.into_iter().collect();
    names.into_iter().filter(|(name, _)| name.starts_with(current)).map(|(name, help)| offered(name, help)).collect()
}

pub fn subsystems(current: &OsStr) -> Vec<CompletionCandidate> {
    let all: Vec<Listed> = asked(|registered| registered.subsystems(text(current)));
    by_parts(text(current), all.into_iter().map(|its| (its.name, its.help)))
}

pub fn readable_items(current: &OsStr) -> Vec<CompletionCandidate> {
    items(current, |listed| listed.item.readable)
}

pub fn writable_items(current: &OsStr) -> Vec<CompletionCandidate> {
    items(current, |listed| listed.item.writable)
}

pub fn published_items(current: &OsStr) -> Vec<CompletionCandidate> {
    items(current, |listed| listed.item.published)
}

pub fn all_items(current: &OsStr) -> Vec<CompletionCandidate> {
    items(current, |_| true)
}

fn items(current: &OsStr, is_wanted: impl Fn(&ListedItem) -> bool) -> Vec<CompletionCandidate> {
    let all = asked(|registered| Ok(registered.items(text(current))?.items)).into_iter().filter(is_wanted);
    let help = |its: &ListedItem| format!("{} {}", shown_type(&its.item.kind), its.item.help).trim_end().to_owned();
    by_parts(text(current), all.map(|its| (format!("{}/{}", its.subsystem, its.item.name), help(&its))))
}

/// What an item can be set to, where these are few: the choices of an enum, and true and false.
pub fn values_of_item(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(path) = LINE.get().and_then(|line| line.words.get(line.index.checked_sub(1)?)) else { return Vec::new() };
    let all = asked(|registered| Ok(registered.items(path)?.items));
    let Some(its) = all.into_iter().find(|its| format!("{}/{}", its.subsystem, its.item.name) == *path) else {
        return Vec::new();
    };
    let choices = match its.item.kind.form {
        Form::Bool => vec!["false".to_owned(), "true".to_owned()],
        _ => its.item.kind.choices,
    };
    whole(text(current), choices.into_iter().map(|choice| (choice, String::new())))
}

fn all_events() -> Vec<Handled> {
    asked(|registered| registered.events())
}

fn all_calls() -> Vec<Handled> {
    asked(|registered| registered.calls())
}

pub fn events(current: &OsStr) -> Vec<CompletionCandidate> {
    whole(text(current), all_events().into_iter().map(|its| (its.name, its.help)))
}

pub fn calls(current: &OsStr) -> Vec<CompletionCandidate> {
    whole(text(current), all_calls().into_iter().map(|its| (its.name, its.help)))
}

/// Parameters of the event or call that the line names, as `KEY=`; `@` begins a file.
pub fn parameters(current: &OsStr) -> Vec<CompletionCandidate> {
    if text(current).starts_with('@') {
        return files_of_parameters(current);
    }
    let Some(line) = LINE.get().filter(|_| !text(current).contains('=')) else { return Vec::new() };
    let is_call = line.words.get(1).is_some_and(|word| word == "call");
    let all = if is_call { all_calls() } else { all_events() };
    let is_named = |its: &&Handled| line.words[..line.index].contains(&its.name);
    let is_given = |name: &str| line.words.iter().any(|word| word.split_once('=').is_some_and(|(key, _)| key == name));
    let params = all.iter().filter(is_named).flat_map(|its| &its.params).filter(|param| !is_given(&param.name));
    whole(text(current), params.map(|param| (format!("{}=", param.name), shown_type(&param.kind))))
}

/// `@FILE.json`.
pub fn files_of_parameters(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(path) = text(current).strip_prefix('@') else { return Vec::new() };
    let found = PathCompleter::any().complete(OsStr::new(path));
    found.into_iter().map(|candidate| candidate.add_prefix("@")).collect()
}

pub fn services(current: &OsStr) -> Vec<CompletionCandidate> {
    let agents = asked(|registered| Ok(registered.status()?.agents));
    let offers = agents.into_iter().flat_map(|agent| agent.services);
    whole(text(current), offers.map(|offer| (offer.name, offer.help)))
}

pub fn topics(current: &OsStr) -> Vec<CompletionCandidate> {
    let all = asked(|registered| registered.topics(text(current)));
    by_parts(text(current), all.into_iter().map(|topic| (topic.name, format!("{} {}", topic.what, topic.kind))))
}

pub fn all_jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    jobs(current, &[])
}

/// Jobs that have not ended.
pub fn open_jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    jobs(current, &[JobState::Submitted, JobState::Accepted, JobState::Running])
}

/// Jobs that wait in a queue.
pub fn waiting_jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    jobs_that(current, &[JobState::Submitted], |job| !job.held)
}

pub fn queued_jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    jobs(current, &[JobState::Submitted])
}

pub fn held_jobs(current: &OsStr) -> Vec<CompletionCandidate> {
    jobs_that(current, &[JobState::Submitted], |job| job.held)
}

fn jobs(current: &OsStr, states: &[JobState]) -> Vec<CompletionCandidate> {
    jobs_that(current, states, |_| true)
}

/// The newest first, as `ecs-cli jobs` lists them.
fn jobs_that(current: &OsStr, states: &[JobState], is_wanted: fn(&JobRecord) -> bool) -> Vec<CompletionCandidate> {
    let list = ListJobs { limit: JOBS_MAX, states: states.to_vec(), ..ListJobs::default() };
    let all = asked(|registered| Ok(registered.call(&list)?.jobs)).into_iter().filter(is_wanted);
    let shown = |job: &JobRecord| format!("{} {} {}", job.service, job.state.as_str(), crate::report::what(job));
    let named = all.map(|job| (job.id, shown(&job))).map(|(JobId(id), shown)| (id.to_string(), shown));
    named.filter(|(id, _)| id.starts_with(text(current))).map(|(id, shown)| offered(id, shown)).collect()
}

pub fn job_states(current: &OsStr) -> Vec<CompletionCandidate> {
    whole(text(current), JobState::ALL.map(|state| (state.as_str().to_owned(), String::new())))
}

/// Names of keys: no broker is asked, since they are files.
pub fn keys(current: &OsStr) -> Vec<CompletionCandidate> {
    WANTS_NAME.store(true, Ordering::Relaxed);
    let find = || {
        let named = Where::of_line()?.connection.config();
        let beamline = beamline_file::load(&beamline_file::find(named.as_deref())?).ok()?;
        let (holders, _) = KeyFolder::new(beamline.key_folder()).holders().ok()?;
        Some(holders.into_iter().map(|holder| (holder.name, holder.role.as_str().to_owned())))
    };
    find().map(|names| whole(text(current), names)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(candidates: &[CompletionCandidate]) -> Vec<String> {
        candidates.iter().map(value).collect()
    }

    #[test]
    fn line_is_cut_into_words_as_bash_does() {
        let cases: [(&str, &[&str]); 8] = [
            ("", &[""]),
            ("ecs-cli ", &["ecs-cli", ""]),
            ("ecs-cli  kv get x01/pu", &["ecs-cli", "kv", "get", "x01/pu"]),
            ("ecs-cli --broker tcp://h:7750 ls", &["ecs-cli", "--broker", "tcp://h:7750", "ls"]),
            ("ecs-cli --config=a\\ b.toml ", &["ecs-cli", "--config=a b.toml", ""]),
            ("ecs-cli 'a b' \"c \\\" d", &["ecs-cli", "a b", "c \" d"]),
            ("ecs-cli '' x", &["ecs-cli", "", "x"]),
            ("ecs-cli a\\", &["ecs-cli", "a"]),
        ];
        for (line, expected) in cases {
            assert_eq!(split(line), expected, "{line}");
        }
        assert_eq!(escaped_for_bash("my run.h5"), "my\\ run.h5");
        assert_eq!(escaped_for_bash("x01/pump/kv/a_1-b.c"), "x01/pump/kv/a_1-b.c");
    }

    #[test]
    fn paths_are_offered_part_by_part() {
        let names =
            || ["x01/pump/a", "x01/pump/b", "x01/stage", "x01/stage/z"].map(|name| (name.to_owned(), String::new()));
        assert_eq!(values(&by_parts("", names())), ["x01/pump/", "x01/stage", "x01/stage/"]);
        assert_eq!(values(&by_parts("x01/p", names())), ["x01/pump/a", "x01/pump/b"], "the only way on is gone");
        assert_eq!(values(&by_parts("x01/stage/", names())), ["x01/stage/z"]);
        assert!(by_parts("y", names()).is_empty());
        let beamline = [("x01/jobs/".to_owned(), String::new())];
        assert_eq!(values(&by_parts("x", beamline)), ["x01/jobs/"]);
    }
}

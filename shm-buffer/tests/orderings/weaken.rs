//! Each ordering weakened in turn: some model must fail, else the ordering or the models are wrong.
//!
//! The atomics of a model know where they are called (see `src/sync/model.rs`). This test starts its own
//! binary again, model by model: first to learn which places each model passes, then, for each place and each
//! weaker ordering, until a model fails. All of it takes minutes, so without `ECS_MODEL_WEAKEN_ALL` only
//! [`SAMPLE`] is tried: that the method itself still finds what it must.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Lines that carry the proof; without any of these the ring is wrong.
const SAMPLE: [&str; 3] = ["fence(SeqCst); // R3", "fence(Acquire); // R2", "entry.word.store(pack_slot"];

/// The models that the sample is tried with: short ones.
const SAMPLE_MODELS: [&str; 5] =
    ["images::image_that", "images::late_packet", "images::duplicate_for", "images::copy_of", "deaths::packet_of"];

/// What no model needs, and why it stays. A place that is neither caught nor here fails the test.
const KEPT: [(&str, &str); 6] = [
    ("header.commit_head.store", "for who looks from outside (inspect), which no model does"),
    ("header.magic.store", "a file is named only when it is whole (M2); who opens it is outside the models"),
    (
        "// pairs with Release in `take`: name",
        "for the name that people see; a start time that is not seen yet is only not known (P3)",
    ),
    ("hazard.store(hazard, Release)", BESIDE_A_FENCE),
    ("cursor.store(self.cursor, Release)", BESIDE_A_FENCE),
    ("place.cursor.load(Acquire)", BESIDE_A_FENCE),
];
const BESIDE_A_FENCE: &str = "to loom all that comes before a SeqCst fence happens before all that comes after a later \
    one; C++ promises less, so what the fence near by seems to do here must be asked for";

/// A model that runs longer than this under a weakened ordering has not failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A place in the source that asks for more than Relaxed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    /// file:line:column
    place: String,
    what: String,
    ordering: String,
}

impl Site {
    fn parse(line: &str) -> Self {
        let mut words = line.split(' ').map(str::to_owned);
        let mut next = || words.next().expect("place, what, ordering");
        Self { place: next(), what: next(), ordering: next() }
    }

    /// The orderings one step weaker. loom takes a SeqCst load or store for an acquire or a release one.
    fn weaker(&self) -> Vec<&'static str> {
        match (self.what.as_str(), self.ordering.as_str()) {
            ("fence", "SeqCst") => vec!["AcqRel", "Relaxed"],
            ("rmw", "AcqRel" | "SeqCst") => vec!["Acquire", "Release"],
            _ => vec!["Relaxed"],
        }
    }

    fn line(&self) -> String {
        let mut parts = self.place.split(':');
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(parts.next().expect("a file"));
        let number: usize = parts.next().and_then(|number| number.parse().ok()).expect("a line");
        let text = std::fs::read_to_string(file).expect("the source is there");
        text.lines().nth(number - 1).expect("it has that line").trim().to_owned()
    }
}

fn this_binary() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn models() -> Vec<String> {
    let listed = this_binary().args(["--list", "--format", "terse"]).stdout(Stdio::piped()).output().expect("it runs");
    let text = String::from_utf8(listed.stdout).expect("text");
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.filter(|name| !name.starts_with("weaken::")).map(str::to_owned).collect()
}

fn run_model(model: &str, environment: (&str, &str)) -> Option<ExitStatus> {
    let mut child = this_binary().args(["--exact", model]).env(environment.0, environment.1).spawn().expect("it runs");
    let begin = Instant::now();
    loop {
        match child.try_wait().expect("it is ours") {
            Some(status) => return Some(status),
            None if begin.elapsed() > PATIENCE => return end(&mut child),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn end(child: &mut Child) -> Option<ExitStatus> {
    child.kill().expect("it is ours");
    child.wait().expect("it ended");
    None
}

/// Every place, with the models that pass it.
fn sites(models: &[String]) -> BTreeMap<Site, Vec<String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut sites: BTreeMap<Site, Vec<String>> = BTreeMap::new();
    for model in models {
        let file: PathBuf = folder.path().join("sites");
        let status = run_model(model, ("ECS_MODEL_SITES", file.to_str().expect("text")));
        assert!(status.is_some_and(|status| status.success()), "{model} fails as it is");
        for line in std::fs::read_to_string(&file).expect("it wrote them").lines() {
            sites.entry(Site::parse(line)).or_default().push(model.clone());
        }
    }
    sites
}

/// The first model that fails with this place weakened.
fn caught_by<'a>(site: &Site, weaker: &str, models: &'a [String]) -> Option<&'a String> {
    let weakened = format!("{}={weaker}", site.place);
    models
        .iter()
        .find(|model| run_model(model, ("ECS_MODEL_WEAKEN", &weakened)).is_some_and(|status| !status.success()))
}

#[test]
fn every_weakened_ordering_fails_a_model() {
    let all = std::env::var_os("ECS_MODEL_WEAKEN_ALL").is_some();
    let mut survivors = Vec::new();
    let mut tried = 0;
    let is_tried = |model: &String| all || SAMPLE_MODELS.iter().any(|name| model.starts_with(name));
    let models: Vec<String> = models().into_iter().filter(is_tried).collect();
    for (site, models) in sites(&models) {
        let line = site.line();
        if !all && !SAMPLE.iter().any(|part| line.contains(part)) {
            continue;
        }
        for weaker in site.weaker() {
            tried += 1;
            let caught = caught_by(&site, weaker, &models);
            let kept = KEPT.iter().find(|(part, _)| line.contains(part)).map(|(_, reason)| *reason);
            let verdict = caught.map(String::as_str).or(kept).unwrap_or("NOT CAUGHT");
            println!("{} {} {} -> {weaker}: {verdict}\n    {line}", site.place, site.what, site.ordering);
            if caught.is_none() && kept.is_none() {
                survivors.push(format!("{} -> {weaker}: {line}", site.place));
            }
        }
    }
    println!("{tried} weakenings, {} not caught", survivors.len());
    assert!(tried >= SAMPLE.len(), "only {tried} were tried");
    assert!(survivors.is_empty(), "no model needs these:\n{}", survivors.join("\n"));
}

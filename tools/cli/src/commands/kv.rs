//! `ecs-cli kv`: named values of subsystems.

use crate::{
    commands::show::flags,
    completing,
    connection::{CALL_TIMEOUT, Connection},
    exit::Exit,
    human,
    registered::{Registered, near},
    report,
    table::Table,
    values::{self, parse, shown_reading, shown_short, shown_type, split_path},
};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    kv::{Get, Item, ListItems, ListedItem, Reading, Set},
    subsystem::GetSubsystem,
    value_type::ValueType,
};
use ecs_sdk::{Client, Watcher};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

/// `next` comes back this often without an update; there is nothing else to do meanwhile.
const TURN: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  ecs-cli kv ls x01/pump/
  ecs-cli kv get x01/pump/pressure
  ecs-cli kv set x01/pump/mode auto
  ecs-cli kv watch x01/pump/pressure x01/stage/position --hz 2";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Kv {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print one value
    Get(GetItem),
    /// Ask a subsystem to take a value
    Set(SetItem),
    /// Print values as they change, until Ctrl-C
    Watch(WatchItems),
    /// List items with their values, units and types
    Ls(LsItems),
}

#[derive(Debug, Args)]
struct GetItem {
    /// SUBSYSTEM/ITEM
    #[arg(add = ArgValueCompleter::new(completing::readable_items))]
    path: String,
    /// Print value, revision and time as JSON
    #[arg(long)]
    json: bool,
    /// How long the owner of a value that is not published may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = crate::options::seconds)]
    timeout: f64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct SetItem {
    /// SUBSYSTEM/ITEM
    #[arg(add = ArgValueCompleter::new(completing::writable_items))]
    path: String,
    /// Text for items that are text, JSON for all others
    #[arg(allow_negative_numbers = true, add = ArgValueCompleter::new(completing::values_of_item))]
    value: String,
    /// Only if the item is still at this revision, which `kv get --json` shows
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// Print the value as it was taken, its revision and time as JSON
    #[arg(long)]
    json: bool,
    /// How long the owner may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = crate::options::seconds)]
    timeout: f64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct WatchItems {
    /// SUBSYSTEM/ITEM each; they need not be there yet
    #[arg(required = true, add = ArgValueCompleter::new(completing::published_items))]
    paths: Vec<String>,
    /// At most so many updates per second of each item, the newest
    #[arg(long, value_name = "HZ")]
    hz: Option<f64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct LsItems {
    /// Only items whose SUBSYSTEM/ITEM begins so
    #[arg(default_value = "", hide_default_value = true, add = ArgValueCompleter::new(completing::all_items))]
    prefix: String,
    /// Print them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Kv {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::Get(get) => get.run(),
            Action::Set(set) => set.run(),
            Action::Watch(watch) => watch.run(),
            Action::Ls(ls) => ls.run(),
        }
    }
}

impl GetItem {
    fn run(self) -> anyhow::Result<Exit> {
        let (subsystem, item) = split_path(&self.path)?;
        let client = self.connection.client()?;
        let get = Get { subsystem: subsystem.clone(), item: item.clone() };
        let reading = client.call(&get, Duration::from_secs_f64(self.timeout))?;
        print(&client, &subsystem, &item, &reading, self.json)
    }
}

impl SetItem {
    fn run(self) -> anyhow::Result<Exit> {
        let (subsystem, item) = split_path(&self.path)?;
        let client = self.connection.client()?;
        let known = known_item(&client, &subsystem, &item)?;
        let value = parse(&self.value, &known.map(|item| item.kind).unwrap_or_default());
        let set = Set { subsystem: subsystem.clone(), item: item.clone(), value, if_revision: self.if_revision };
        let reading = client.call(&set, Duration::from_secs_f64(self.timeout))?;
        print(&client, &subsystem, &item, &reading, self.json)
    }
}

/// What the item is; none where the subsystem has no such item, which the request itself will say.
fn known_item(client: &Client, subsystem: &str, item: &str) -> anyhow::Result<Option<Item>> {
    let status = crate::connection::call(client, &GetSubsystem { name: subsystem.to_owned() })?;
    Ok(status.description.items.into_iter().find(|known| known.name == item))
}

fn print(client: &Client, subsystem: &str, item: &str, reading: &Reading, json: bool) -> anyhow::Result<Exit> {
    if json {
        report::print_json(reading)?;
    } else {
        let kind = known_item(client, subsystem, item)?.map(|item| item.kind).unwrap_or_default();
        values::print(&reading.value, &kind)?;
    }
    Ok(Exit::Ok)
}

impl WatchItems {
    fn run(self) -> anyhow::Result<Exit> {
        self.paths.iter().try_for_each(|path| split_path(path).map(drop))?;
        let client = self.connection.client()?;
        let items = Registered::new(&client, CALL_TIMEOUT).items("")?.items; // and whether there is a broker
        tell_unknown(&items, &self.paths);
        let kinds: BTreeMap<String, ValueType> = items.iter().map(|its| (path(its), its.item.kind.clone())).collect();
        let endpoint = self.connection.endpoints()?.request_endpoint;
        let mut watcher = Watcher::new(&endpoint, self.paths, self.hz)?;
        loop {
            let Some(update) = watcher.next(TURN)? else { continue };
            let mut out = io::stdout().lock();
            if self.json {
                writeln!(out, "{}", json!(update))?;
            } else {
                let missed = if update.missed > 0 { format!("  (missed {})", update.missed) } else { String::new() };
                let path = format!("{}/{}", update.subsystem, update.item);
                let shown = shown_short(&update.value, kinds.get(&path).unwrap_or(&ValueType::default()));
                writeln!(out, "{} {path} {shown}{missed}", human::clock(update.time_ns))?;
            }
            out.flush()?;
        }
    }
}

fn path(its: &ListedItem) -> String {
    format!("{}/{}", its.subsystem, its.item.name)
}

/// Says on stderr which items are not there yet: a slip of the finger would wait for ever.
fn tell_unknown(items: &[ListedItem], paths: &[String]) {
    let known: Vec<String> = items.iter().map(path).collect();
    for path in paths.iter().filter(|path| !known.contains(path)) {
        eprintln!("{path} is not there yet{}", near(path, known.iter().map(String::as_str)));
    }
    for silent in items.iter().filter(|its| !its.item.published).map(path).filter(|path| paths.contains(path)) {
        eprintln!("{silent} is not published, so that no change is told; `ecs-cli kv get` asks its owner");
    }
}

impl LsItems {
    fn run(self) -> anyhow::Result<Exit> {
        let list = self.connection.call(&ListItems { prefix: self.prefix.clone() })?;
        if self.json {
            report::print_json(&list)?;
            return Ok(Exit::Ok);
        }
        if list.items.is_empty() {
            let which = self.which_not();
            writeln!(io::stdout(), "no items{which}; `ecs-cli ls` lists the subsystems")?;
            return Ok(Exit::Ok);
        }
        let mut table = Table::new(["item", "value", "type", "", "age", ""]);
        for listed in &list.items {
            let age = listed.reading.as_ref().map(|reading| human::between(reading.time_ns, human::now_ns()));
            table.row([
                format!("{}/{}", listed.subsystem, listed.item.name).into(),
                shown_reading(&listed.item, listed.reading.as_ref(), listed.bytes).into(),
                shown_type(&listed.item.kind).into(),
                flags(&listed.item).into(),
                age.unwrap_or_default().into(),
                listed.item.help.clone().into(),
            ]);
        }
        table.print()?;
        Ok(Exit::Ok)
    }

    /// That none begins so, and which item or subsystem is near.
    fn which_not(&self) -> String {
        if self.prefix.is_empty() {
            return String::new();
        }
        let list = self.connection.call(&ListItems { prefix: String::new() });
        let items = list.map(|list| list.items).unwrap_or_default();
        let names = items.iter().flat_map(|its| [its.subsystem.clone(), format!("{}/", its.subsystem), path(its)]);
        let names: Vec<String> = names.collect();
        format!(" begin with {:?}{}", self.prefix, near(&self.prefix, names.iter().map(String::as_str)))
    }
}

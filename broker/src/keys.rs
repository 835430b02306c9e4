//! The key folder: who may connect to the broker, as files.
//!
//! ```text
//! x01-keys/                 0700
//!   broker.key              0600  the broker's key pair
//!   agents.key              0600  the key of the beamline's own agents, made with it
//!   anna.key                0600  until it is given to anna
//!   clients/agents.toml     one for each key that opens anything
//!   clients/anna.toml
//! ```
//!
//! # Rules
//! F1  A file appears whole or not at all: it is written beside its place and moved there.
//! F2  A key opens something if and only if its file is in `clients/`. So to revoke is to remove one file, and a
//!     file that cannot be read opens nothing.
//! F3  Nothing that is there is ever overwritten, and what fails leaves nothing behind.
//! F4  What is done is on the disk when it is answered: a key that was revoked does not come back with a power cut.

use crate::limits::KEYS_MAX;
use ecs_schemas::keys::{
    BrokerKey, ClientKey, KeyFileError, KeyHolder, NamePattern, PublicKey, Role, SecretKey, check_key_name,
};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

const BROKER_FILE: &str = "broker.key";
const CLIENTS_FOLDER: &str = "clients";
/// Name of the key that `init` makes for all agents of the beamline.
pub const AGENTS: &str = "agents";
/// What is secret may be read and written by its owner alone.
const SECRET_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// The bits of a mode that let others in.
const OTHERS: u32 = 0o077;
/// Those of a folder that let others put files in.
const OTHERS_WRITE: u32 = 0o022;

/// Why a key folder could not be used. Nothing in it was changed, unless the error says so.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("no keys in {folder}; make them with: ecs-cli keys init")]
    Missing { folder: PathBuf },
    #[error("{path} is there already; nothing is overwritten: choose another name, or move it away first")]
    Exists { path: PathBuf },
    #[error("cannot {action} {path}: {source}; the key folder belongs to the user who runs the broker")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}: {source}; move the file away, then revoke and add the key anew")]
    Wrong { path: PathBuf, source: KeyFileError },
    #[error("{0}")]
    Name(String),
    #[error("no key is called {name}; there are: {there}")]
    Unknown { name: String, there: String },
    #[error("{KEYS_MAX} keys are there, no more are taken: revoke those that nobody uses")]
    Full,
    #[error("this build of ECS cannot make keys: {0}; libzmq must have CURVE (see tools/zmq-sys)")]
    NoCurve(zmq::Error),
}

/// A key folder, by its path; see the module's text.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    path: PathBuf,
}

impl KeyFolder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `init` was called here.
    pub fn is_there(&self) -> bool {
        self.broker_path().exists()
    }

    pub fn broker_path(&self) -> PathBuf {
        self.path.join(BROKER_FILE)
    }

    /// Where `add` puts the file of a client.
    pub fn client_path(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.key"))
    }

    /// Where the broker finds what a key may do.
    pub fn entry_path(&self, name: &str) -> PathBuf {
        self.path.join(CLIENTS_FOLDER).join(format!("{name}.toml"))
    }

    /// Makes the folder with the broker's key pair, and the key of the agents of `beamline`.
    ///
    /// # Errors
    /// `Exists`, `File`, `NoCurve`.
    pub fn init(&self, beamline: &str) -> Result<(), KeysError> {
        if self.is_there() {
            return Err(KeysError::Exists { path: self.broker_path() });
        }
        let clients = self.path.join(CLIENTS_FOLDER);
        let made = fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&clients);
        made.map_err(|source| KeysError::File { action: "make", path: clients, source })?;
        let (public, secret) = key_pair()?;
        let all = format!("{beamline}/*").parse().map_err(KeysError::Name)?;
        let path = self.broker_path();
        self.write(&path, &BrokerKey { public, secret }.to_text())?;
        or_remove(&path, self.add(AGENTS, Role::Agent, vec![all])).map(drop)
    }

    /// Makes a key; returns the file that its holder needs.
    ///
    /// # Errors
    /// `Missing` before `init`, `Exists`, `Name`, `Full`, `File`, `NoCurve`.
    pub fn add(&self, name: &str, role: Role, names: Vec<NamePattern>) -> Result<PathBuf, KeysError> {
        check_key_name(name).map_err(KeysError::Name)?;
        let broker = self.broker_key()?;
        let (client_path, entry_path) = (self.client_path(name), self.entry_path(name));
        for path in [&entry_path, &client_path] {
            if path.exists() {
                return Err(KeysError::Exists { path: path.clone() });
            }
        }
        if self.entry_paths()?.len() >= KEYS_MAX {
            return Err(KeysError::Full);
        }
        let (public, secret) = key_pair()?;
        let client = ClientKey { name: name.to_owned(), public: public.clone(), secret, broker: broker.public };
        let entry = KeyHolder { name: name.to_owned(), public, role, names };
        self.write(&client_path, &client.to_text())?;
        or_remove(&client_path, self.write(&entry_path, &entry.to_text()))?; // last: from here on the key opens something
        Ok(client_path)
    }

    /// Takes a key's rights away. Its holder's file stays where it is and opens nothing; the copy in this
    /// folder, if it is still there, is removed.
    ///
    /// # Errors
    /// `Missing`, `Unknown`, `File`.
    pub fn revoke(&self, name: &str) -> Result<(), KeysError> {
        check_key_name(name).map_err(KeysError::Name)?;
        let path = self.entry_path(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.unknown(name)),
            Err(source) => return Err(KeysError::File { action: "remove", path, source }),
        }
        sync_folder(&path).map_err(|source| KeysError::File { action: "store the removal of", path, source })?;
        match fs::remove_file(self.client_path(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeysError::File { action: "remove", path: self.client_path(name), source })
            }
            _ => Ok(()),
        }
    }

    fn unknown(&self, name: &str) -> KeysError {
        if !self.is_there() {
            return KeysError::Missing { folder: self.path.clone() };
        }
        let there = self.holders().map(|(holders, _)| holders).unwrap_or_default();
        let there: Vec<String> = there.into_iter().map(|holder| holder.name).collect();
        KeysError::Unknown { name: name.to_owned(), there: there.join(", ") }
    }

    /// The broker's key pair.
    ///
    /// # Errors
    /// `Missing`, `File`, `Wrong`.
    pub fn broker_key(&self) -> Result<BrokerKey, KeysError> {
        let path = self.broker_path();
        match fs::read_to_string(&path) {
            Ok(text) => BrokerKey::parse(&text).map_err(|source| KeysError::Wrong { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(KeysError::Missing { folder: self.path.clone() })
            }
            Err(source) => Err(KeysError::File { action: "read", path, source }),
        }
    }

    /// Everyone whose key opens something, by name, and what is wrong with the other files (rule F2). Beyond
    /// `KEYS_MAX` files the rest is not read.
    ///
    /// # Errors
    /// `File`: the folder itself cannot be listed. One that is gone has no keys.
    pub fn holders(&self) -> Result<(Vec<KeyHolder>, Vec<KeysError>), KeysError> {
        let (mut holders, mut errors) = (Vec::new(), Vec::new());
        for path in self.entry_paths()?.into_iter().take(KEYS_MAX) {
            match read_entry(path) {
                Ok(Some(holder)) => holders.push(holder),
                Ok(None) => {} // removed since the folder was listed
                Err(error) => errors.push(error),
            }
        }
        Ok((holders, errors))
    }

    /// When a key was last added or taken away, by the file system's clock; none while there is no such folder.
    pub fn changed(&self) -> Option<SystemTime> {
        fs::metadata(self.path.join(CLIENTS_FOLDER)).and_then(|folder| folder.modified()).ok()
    }

    fn entry_paths(&self) -> Result<Vec<PathBuf>, KeysError> {
        let folder = self.path.join(CLIENTS_FOLDER);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.and_then(|entries| entries.collect::<io::Result<Vec<_>>>()),
        };
        let entries = entries.map_err(|source| KeysError::File { action: "read", path: folder, source })?;
        let paths = entries.into_iter().map(|entry| entry.path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
        paths.sort();
        Ok(paths)
    }

    /// Files whose mode lets others read a secret, and folders in which others can add keys, each with the command that
    /// mends it.
    pub fn mode_warnings(&self) -> Vec<String> {
        let folders = [self.path.clone(), self.path.join(CLIENTS_FOLDER)];
        let secrets = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        let secrets = secrets.filter(|path| path.extension().is_some_and(|end| end == "key"));
        let of_folders = folders.iter().filter_map(|path| folder_warning(path));
        of_folders.chain(secrets.filter_map(|path| mode_warning(&path))).collect()
    }

    /// Rules F1 and F3. Everything in the folder has the mode of a secret: what is none is nobody's business.
    fn write(&self, path: &Path, text: &str) -> Result<(), KeysError> {
        let failed = |source| KeysError::File { action: "write", path: path.to_owned(), source };
        // Of this moment too: a process that was killed may have left one, and had the same id (always 1 in a container).
        let now_ns = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |passed| passed.as_nanos());
        let draft = path.with_extension(format!("draft-{}-{now_ns}", std::process::id()));
        let written =
            File::options().write(true).create_new(true).mode(SECRET_MODE).open(&draft).and_then(|mut file| {
                file.set_permissions(Permissions::from_mode(SECRET_MODE))?; // whatever the umask says
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::hard_link(&draft, path)?; // unlike a rename it fails where something is
                sync_folder(path).inspect_err(|_| drop(fs::remove_file(path)))
            });
        let _ = fs::remove_file(&draft);
        written.map_err(failed)
    }
}

/// Removes a file again when the step after it has failed (rule F3).
fn or_remove<T>(path: &Path, done: Result<T, KeysError>) -> Result<T, KeysError> {
    if done.is_err() {
        let _ = fs::remove_file(path);
    }
    done
}

/// Rule F4, for the folder that a file is in.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn folder_warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS_WRITE != 0).then(|| {
        let path = path.display();
        format!("{path} has mode {mode:04o}, so others can add keys; mend it with: chmod 700 {path}")
    })
}

/// What is wrong with the mode of a file that holds a secret, if it is there and anything is.
pub fn mode_warning(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & OTHERS != 0).then(|| {
        let path = path.display();
        format!("{path} has mode {mode:04o}, so others can read a secret key; mend it with: chmod 600 {path}")
    })
}

fn read_entry(path: PathBuf) -> Result<Option<KeyHolder>, KeysError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeysError::File { action: "read", path, source }),
    };
    let holder = KeyHolder::parse(&text).map_err(|source| KeysError::Wrong { path: path.clone(), source })?;
    if path.file_stem().is_none_or(|stem| *stem != *holder.name) {
        let source = KeyFileError::Field(format!("its name is {:?}, not the file's", holder.name));
        return Err(KeysError::Wrong { path, source });
    }
    Ok(Some(holder))
}

fn key_pair() -> Result<(PublicKey, SecretKey), KeysError> {
    let pair = zmq::CurveKeyPair::new().map_err(KeysError::NoCurve)?;
    let text = |bytes: &[u8]| zmq::z85_encode(bytes).expect("32 bytes are a multiple of 4");
    let public = PublicKey::new(&text(&pair.public_key)).expect("Z85 of 32 bytes");
    let secret = SecretKey::new(&text(&pair.secret_key)).expect("Z85 of 32 bytes");
    Ok((public, secret))
}

//! A node's data directory: whose it is, what is in it, and that no other process is using it.
//!
//! ```text
//!   data/lock         locked while the node runs; holds its process id, for the error message
//!   data/store.toml   format version, node name, store id, engine, and whether the engine was made
//!   data/fjall/       the engine's files (or data/sled/)
//!   data/cluster.toml, data/damaged-*/    what is left of a store that was set aside
//! ```
//!
//! The *store id* is drawn when the store is made and ends with it: the cluster takes a node that
//! comes back with an empty disk for a new voter, not for one that has forgotten its votes. So an
//! id must never outlive its data, and that orders the steps of making a store:
//!
//! ```text
//!   power cut after ...                   found at the next opening     which then
//!   making data/, lock                    no store.toml, no engine      starts from here
//!   store.toml, state = "creating"        an engine that nobody used    opens or makes it
//!   store.toml, state = "rebuilding"      the same                      the same, and marks it in the engine
//!   store.toml, state = "ready"           a store                       opens it
//!   (engine files deleted by someone)     "ready", no engine            refuses
//! ```
//!
//! A memory store ends with its process, so each opening of one is a new store with a new id.

mod aside;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::aside::KnownCluster;
use super::fjall::FjallEngine;
use super::memory::MemoryEngine;
use super::sled::SledEngine;
use super::{Engine, EngineError, EngineOptions, files};

/// The version of the layout above and of all that the engine's spaces hold.
pub const FORMAT_VERSION: u64 = 9;

const LOCK_FILE: &str = "lock";
const STORE_FILE: &str = "store.toml";

/// The engines that a store can be made with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// On disk, log-structured.
    #[default]
    Fjall,
    /// On disk, a B+ tree in a log.
    Sled,
    /// In memory, for tests: gone with the process.
    Memory,
}

impl EngineKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Fjall, Self::Sled, Self::Memory];

    /// The name in configuration, in `store.toml`, and of the engine's directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a data directory cannot be used. What was in it is unchanged.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Another process holds the lock. Stop it, or give this node a directory of its own.
    #[error(
        "the data directory {} is in use by process {pid}; stop that one, or choose another \
         directory", path.display()
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process id that the lock file names, or "unknown".
        pid: String,
    },
    /// A later version of Quorate wrote it. Run that version.
    #[error(
        "the data directory {} has format {found}, and this version reads up to {FORMAT_VERSION}; \
         run the newer version that wrote it", path.display()
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format version.
        found: u64,
    },
    /// An earlier version of Quorate wrote it, which no later one reads. Run that version to take the
    /// data out, or refill an empty directory from the other nodes.
    #[error(
        "the data directory {} has format {found}, and this version reads format {FORMAT_VERSION} \
         alone: until 0.1 the format may change. Run the version that wrote it to export what is to be \
         kept, and start this one with an empty data directory", path.display()
    )]
    OlderFormat {
        /// The data directory.
        path: PathBuf,
        /// Its format version.
        found: u64,
    },
    /// It is another node's. Set the right node name, or the right directory.
    #[error(
        "the data directory {} belongs to node {found:?}, not to {wanted:?}; correct the node's \
         name or choose another directory", path.display()
    )]
    OtherNode {
        /// The data directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// It was made with another engine. Configure that one.
    #[error(
        "the data directory {} was made with the engine {found:?}, not {wanted}; configure that \
         engine", path.display()
    )]
    OtherEngine {
        /// The data directory.
        path: PathBuf,
        /// The engine it was made with.
        found: String,
        /// The engine that was asked for.
        wanted: EngineKind,
    },
    /// The file that describes the store cannot be understood. Restore it, or rebuild the store.
    #[error(
        "{} is damaged ({detail})", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Half of the store is gone: its description or its engine's files. Restore it, or rebuild the
    /// store.
    #[error(
        "{} is missing beside the rest of its store", path.display()
    )]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// Its store is gone, and another one would seem to hold nothing. Restore it, or rebuild it.
    #[error("the data directory {} holds no store any more, but {found:?}", path.display())]
    Gone {
        /// The data directory.
        path: PathBuf,
        /// What says that there was one.
        found: String,
    },
    /// It holds something else. Choose an empty one; nothing was changed.
    #[error(
        "the data directory {} holds no store, but {found:?}; choose an empty directory, or the one \
         that holds this node's store", path.display()
    )]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// Something in it.
        found: String,
    },
    /// Something else has that name. Choose another path.
    #[error("{} is not a directory; choose another data directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// This user may not use it. Change its owner, or run as the one who may.
    #[error(
        "no permission to use {}; give it to the user that runs the node (chown), with mode 0700",
        path.display()
    )]
    PermissionDenied {
        /// The file or directory.
        path: PathBuf,
    },
    /// The operating system refused for another reason.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The engine would not open.
    #[error("the engine's files in {} do not open: {source}", path.display())]
    Engine {
        /// The engine's directory.
        path: PathBuf,
        /// Why.
        source: EngineError,
    },
}

impl DataDirError {
    /// Whether the store is lost, so that one in its place may be rebuilt. What a person can set right,
    /// as a full disk or a wrong name, is no such thing.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Malformed { .. } | Self::Missing { .. } | Self::Gone { .. } => true,
            Self::Engine {
                source: EngineError::Corrupt { .. } | EngineError::Panicked { .. },
                ..
            } => true,
            Self::Engine { source: EngineError::Io { source, .. }, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::NotADirectory
            ),
            _ => false,
        }
    }
}

/// A locked data directory. Keep it for as long as its engine is in use.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    store: StoreFile,
    kind: EngineKind,
    _lock: File,
}

/// `store.toml`, as of format 2. Format 1 had no file `mark` beside its engine; format 2 kept no clock
/// with the operations in the engine, format 3 not what they wrote; format 4 had no space for hints there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFile {
    format: u64,
    node: String,
    store_id: String,
    engine: String,
    state: StoreState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoreState {
    Creating,
    /// New in the place of another: to be marked as such in the engine before it is used.
    Rebuilding,
    Ready,
}

impl DataDir {
    /// Locks the data directory at `path` for the node called `node`; makes it, for this user
    /// alone, if it is not there. `draw_store_id` gives a new store its random id.
    pub fn open(
        path: &Path,
        node: &str,
        kind: EngineKind,
        draw_store_id: impl FnOnce() -> u64,
    ) -> Result<Self, DataDirError> {
        Self::open_or_make(path, node, kind, StoreState::Creating, draw_store_id)
    }

    /// The same, but a store that is made is one in the place of another that was lost:
    /// [`is_rebuilding`](Self::is_rebuilding) until [`rebuild_marked`](Self::rebuild_marked).
    pub fn open_to_rebuild(
        path: &Path,
        node: &str,
        kind: EngineKind,
        draw_store_id: impl FnOnce() -> u64,
    ) -> Result<Self, DataDirError> {
        Self::open_or_make(path, node, kind, StoreState::Rebuilding, draw_store_id)
    }

    /// Whether a store was made at `path`, or begun.
    pub fn has_store(path: &Path) -> bool {
        path.join(STORE_FILE).exists()
    }

    /// Sets a store that does not open aside, within its directory, and deletes nothing; where it is
    /// now. No other process may be using it.
    pub fn set_aside(path: &Path) -> Result<PathBuf, DataDirError> {
        aside::set_aside(path)
    }

    fn open_or_make(
        path: &Path,
        node: &str,
        kind: EngineKind,
        new: StoreState,
        draw_store_id: impl FnOnce() -> u64,
    ) -> Result<Self, DataDirError> {
        files::create_directory(path).map_err(refused(path))?;
        let lock = lock(path)?;
        let store_path = path.join(STORE_FILE);
        let found = match fs::read_to_string(&store_path) {
            Ok(text) => Some(StoreFile::parse(path, &text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(refused(&store_path)(error)),
        };
        let store = match found {
            Some(store) => store.of(path, node, kind)?,
            None => StoreFile::draw(path, node, kind, new, draw_store_id)?,
        };
        Ok(Self { path: path.to_path_buf(), store, kind, _lock: lock })
    }

    /// The random id of this store.
    pub fn store_id(&self) -> u64 {
        self.store.id().expect("checked when the file was read or written")
    }

    /// Whether the store is new in the place of another, which its engine does not know yet.
    pub fn is_rebuilding(&self) -> bool {
        self.store.state == StoreState::Rebuilding
    }

    /// The engine knows on disk that its store is being rebuilt.
    pub fn rebuild_marked(&mut self) -> Result<(), DataDirError> {
        self.store.state = StoreState::Ready;
        if self.kind == EngineKind::Memory { Ok(()) } else { self.store.write(&self.path) }
    }

    /// Where the engine's files are.
    pub fn engine_path(&self) -> PathBuf {
        self.path.join(self.kind.name())
    }

    /// Opens the engine, or makes it in a new store. At most one may be open at a time.
    pub fn engine(&mut self, options: EngineOptions) -> Result<Arc<dyn Engine>, DataDirError> {
        let path = self.engine_path();
        if self.kind != EngineKind::Memory
            && self.store.state == StoreState::Ready
            && !path.is_dir()
        {
            return Err(DataDirError::Missing { path });
        }
        let opened = open_engine(self.kind, &path, options);
        let engine = opened.map_err(|source| DataDirError::Engine { path, source })?;
        if self.kind == EngineKind::Memory {
            return Ok(engine);
        }
        if self.store.state == StoreState::Creating {
            self.store.state = StoreState::Ready;
            self.store.write(&self.path)?;
        }
        Ok(engine)
    }
}

fn open_engine(
    kind: EngineKind,
    path: &Path,
    options: EngineOptions,
) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(match kind {
        EngineKind::Fjall => Arc::new(FjallEngine::open(path, options)?),
        EngineKind::Sled => Arc::new(SledEngine::open(path, options)?),
        EngineKind::Memory => Arc::new(MemoryEngine::new()),
    })
}

impl StoreFile {
    fn draw(
        directory: &Path,
        node: &str,
        kind: EngineKind,
        state: StoreState,
        draw_store_id: impl FnOnce() -> u64,
    ) -> Result<Self, DataDirError> {
        if EngineKind::ALL.iter().any(|kind| directory.join(kind.name()).exists()) {
            return Err(DataDirError::Missing { path: directory.join(STORE_FILE) });
        }
        refuse_foreign(directory, state)?;
        let store = Self {
            format: FORMAT_VERSION,
            node: node.to_owned(),
            store_id: format!("{:016x}", draw_store_id()),
            engine: kind.name().to_owned(),
            state,
        };
        if kind != EngineKind::Memory {
            store.write(directory)?;
        }
        Ok(store)
    }

    fn parse(directory: &Path, text: &str) -> Result<Self, DataDirError> {
        /// What every format has, so that another one is told from a damaged one.
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let path = directory.join(STORE_FILE);
        let malformed = |detail: String| DataDirError::Malformed { path: path.clone(), detail };
        let toml = |error: toml::de::Error| malformed(error.message().to_owned());
        match toml::from_str::<Format>(text).map_err(toml)?.format {
            FORMAT_VERSION => {}
            0 => return Err(malformed("there is no format 0".to_owned())),
            found => {
                let path = directory.to_path_buf();
                return Err(match found < FORMAT_VERSION {
                    true => DataDirError::OlderFormat { path, found },
                    false => DataDirError::NewerFormat { path, found },
                });
            }
        }
        let store: Self = toml::from_str(text).map_err(toml)?;
        match store.id() {
            Some(_) => Ok(store),
            None => Err(malformed(format!("{:?} is no store id", store.store_id))),
        }
    }

    /// This store, if it is `node`'s and was made with `kind`.
    fn of(self, path: &Path, node: &str, kind: EngineKind) -> Result<Self, DataDirError> {
        let path = path.to_path_buf();
        if self.node != node {
            return Err(DataDirError::OtherNode {
                path,
                found: self.node,
                wanted: node.to_owned(),
            });
        }
        if self.engine != kind.name() {
            return Err(DataDirError::OtherEngine { path, found: self.engine, wanted: kind });
        }
        Ok(self)
    }

    fn write(&self, directory: &Path) -> Result<(), DataDirError> {
        const HEADER: &str =
            "# Written by Quorate; ties this directory to one node. Do not edit.\n";
        let path = directory.join(STORE_FILE);
        let fields = toml::to_string(self).expect("five plain fields are always TOML");
        files::replace_file(&path, format!("{HEADER}{fields}").as_bytes()).map_err(refused(&path))
    }

    fn id(&self) -> Option<u64> {
        let is_hex = |c: char| c.is_ascii_hexdigit();
        let whole = self.store_id.len() == 16 && self.store_id.chars().all(is_hex);
        whole.then(|| u64::from_str_radix(&self.store_id, 16).ok()).flatten()
    }
}

/// A new store goes into an empty directory: one with other things in it is a mistyped path. What
/// an interrupted making left, and what a file system puts at its root, does not count.
fn refuse_foreign(directory: &Path, made: StoreState) -> Result<(), DataDirError> {
    const NOT_FOREIGN: [&str; 4] = [LOCK_FILE, "store.toml.tmp", "cluster.toml.tmp", "lost+found"];
    for entry in fs::read_dir(directory).map_err(refused(directory))? {
        let found = entry.map_err(refused(directory))?.file_name();
        let found = found.to_string_lossy().into_owned();
        if aside::speaks_of_a_store(&found) {
            if made == StoreState::Rebuilding {
                continue;
            }
            return Err(DataDirError::Gone { path: directory.to_path_buf(), found });
        }
        if !NOT_FOREIGN.contains(&&*found) {
            return Err(DataDirError::Foreign { path: directory.to_path_buf(), found });
        }
    }
    Ok(())
}

/// Takes the lock, which the operating system releases when the process ends, however it ends.
fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(refused(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(error)) => return Err(refused(&path)(error)),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let read = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
            let pid = if read { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(DataDirError::InUse { path: directory.to_path_buf(), pid });
        }
    }
    let named = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    named.map_err(refused(&path))?;
    Ok(file)
}

fn refused(path: &Path) -> impl Fn(io::Error) -> DataDirError {
    let path = path.to_path_buf();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => DataDirError::PermissionDenied { path: path.clone() },
        io::ErrorKind::NotADirectory => DataDirError::NotADirectory { path: path.clone() },
        _ => DataDirError::Io { path: path.clone(), source },
    }
}

#[cfg(test)]
mod tests;

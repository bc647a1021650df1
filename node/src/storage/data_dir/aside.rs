//! A store that will not open is set aside, never deleted, and its place taken by a new one.
//!
//! ```text
//!   data/damaged-1782000000/    what was set aside: store.toml and the engine's files
//!   data/cluster.toml           the cluster, and where its members were, to find it again
//!   data/store.toml             a new store id; state = "rebuilding" until the engine knows
//! ```
//!
//! All of it stays inside the data directory, which may be the root of a file system, where nothing
//! can be moved beside it. `store.toml` moves last: a directory without it that still holds one of the
//! others lost its store, and no empty one is made there unless the operator asks for a rebuild.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{DataDirError, EngineKind, STORE_FILE, files, lock, refused};

const CLUSTER_FILE: &str = "cluster.toml";
const ASIDE: &str = "damaged-";

/// What a data directory remembers of its cluster, outside of the engine's files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownCluster {
    /// The cluster's id.
    pub cluster: String,
    /// The peer addresses of the other members.
    pub peers: Vec<String>,
}

impl KnownCluster {
    /// What is remembered; none if nothing is, or it is damaged: it is a help, and `seeds` another.
    pub fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join(CLUSTER_FILE)).ok()?;
        match toml::from_str(&text) {
            Ok(known) => Some(known),
            Err(error) => {
                tracing::warn!(%error, "{CLUSTER_FILE} is damaged; it is not used");
                None
            }
        }
    }

    /// Remembers it.
    pub fn write(&self, directory: &Path) -> Result<(), DataDirError> {
        const HEADER: &str = "# Written by Quorate: how this node finds its cluster again.\n";
        let path = directory.join(CLUSTER_FILE);
        let fields = toml::to_string(self).expect("plain fields are always TOML");
        files::replace_file(&path, format!("{HEADER}{fields}").as_bytes()).map_err(refused(&path))
    }
}

/// Sets what is left of a store aside, within its directory; where it is now.
pub(super) fn set_aside(directory: &Path) -> Result<PathBuf, DataDirError> {
    let _lock = lock(directory)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let names = (now..).map(|at| directory.join(format!("{ASIDE}{at}")));
    let aside = names.into_iter().find(|path| !path.exists()).expect("a name is free");
    files::create_directory(&aside).map_err(refused(&aside))?;
    for kind in EngineKind::ALL {
        move_into(&aside, &directory.join(kind.name()))?;
    }
    move_into(&aside, &directory.join(STORE_FILE))?;
    files::sync_directory(directory).map_err(refused(directory))?;
    Ok(aside)
}

fn move_into(aside: &Path, path: &Path) -> Result<(), DataDirError> {
    let name = path.file_name().expect("it was made by adding a name");
    match fs::rename(path, aside.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(path)(error)),
        _ => files::sync_directory(aside).map_err(refused(aside)),
    }
}

/// Whether a name in a data directory says that a store was here.
pub(super) fn speaks_of_a_store(name: &str) -> bool {
    name == CLUSTER_FILE || name.starts_with(ASIDE)
}

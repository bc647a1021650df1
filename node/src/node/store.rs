//! Opens a node's store, or a new one in the place of one that is lost.
//!
//! ```text
//!                          serve                    serve --rebuild
//!   the store opens        serves it                serves it, and says that nothing was moved
//!   it is damaged          refuses, says how        sets it aside, begins a new one
//!   there is none          begins a new one         begins one that does not count before it is full
//! ```
//!
//! The flag harms no store that opens, so it may be left in a service's command line by mistake.

use std::sync::Arc;

use super::NodeError;
use crate::config::Config;
use crate::dynamo::key::NodeId;
use crate::standing;
use crate::storage::data_dir::{DataDir, DataDirError, EngineKind, KnownCluster};
use crate::storage::{Engine, EngineOptions};

/// How the operator wants a lost store to be dealt with.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RebuildOptions {
    /// Set it aside, and refill a new one.
    pub rebuild: bool,
    /// The names of members that a rebuild does not wait for.
    pub without: Vec<String>,
}

impl RebuildOptions {
    pub(super) fn excused(&self) -> impl Iterator<Item = NodeId> {
        self.without.iter().map(|name| NodeId::of_name(name))
    }
}

/// An open store.
pub(super) struct Store {
    /// Locks the directory.
    pub(super) directory: DataDir,
    pub(super) engine: Arc<dyn Engine>,
    /// What the directory remembers of the cluster.
    pub(super) known: Option<KnownCluster>,
}

/// Opens the store that the configuration names. Blocks.
pub(super) fn open(config: &Config, rebuild: bool, store_id: u64) -> Result<Store, NodeError> {
    let path = &config.data_dir;
    let known = KnownCluster::read(path);
    let there = DataDir::has_store(path);
    if rebuild && !there {
        require_way(config, known.as_ref())?;
    }
    let opened = match open_once(config, rebuild, store_id) {
        Err(NodeError::DataDir(error)) if rebuild && error.is_damage() => {
            require_way(config, known.as_ref())?;
            let aside = DataDir::set_aside(path)?;
            tracing::warn!(
                reason = %error,
                aside = %aside.display(),
                "the store does not open and was set aside; nothing was deleted. A new one is \
                 refilled from the other owners, and counts in quorums partition by partition when \
                 all of them told what they hold. It does not vote on metadata, as the old one may \
                 have. Hints that the old one kept for other nodes, nobody knows how many, are there \
                 alone"
            );
            open_once(config, rebuild, store_id)
        }
        opened => opened.inspect(|_| {
            if rebuild && there {
                tracing::warn!(
                    "--rebuild: the store opens, so nothing was set aside; start without the flag. To \
                     rebuild it all the same, move {} to another place first",
                    path.display()
                );
            }
        }),
    };
    let (directory, engine) = opened?;
    Ok(Store { directory, engine, known })
}

fn open_once(
    config: &Config,
    rebuild: bool,
    store_id: u64,
) -> Result<(DataDir, Arc<dyn Engine>), NodeError> {
    let Config { data_dir, node_name, engine: kind, .. } = config;
    let draw = || store_id;
    let mut directory = match rebuild {
        true => DataDir::open_to_rebuild(data_dir, node_name, *kind, draw)?,
        false => DataDir::open(data_dir, node_name, *kind, draw)?,
    };
    let engine = directory.engine(EngineOptions { cache_bytes: config.cache_bytes })?;
    if directory.is_rebuilding() {
        let failed = |source| DataDirError::Engine { path: directory.engine_path(), source };
        standing::mark(&*engine).map_err(failed)?;
        directory.rebuild_marked()?;
    }
    Ok((directory, engine))
}

/// A store is rebuilt from other nodes, so it must be known where they are, before anything moves.
fn require_way(config: &Config, known: Option<&KnownCluster>) -> Result<(), NodeError> {
    if config.seeds.is_empty() && known.is_none_or(|known| known.peers.is_empty()) {
        return Err(NodeError::NoWayToCluster { path: config.data_dir.clone() });
    }
    Ok(())
}

/// Whether a directory outlives the process, so that it is worth remembering anything there.
pub(super) fn remembers(config: &Config) -> bool {
    config.engine != EngineKind::Memory
}

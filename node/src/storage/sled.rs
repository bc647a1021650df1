//! The other engine on disk: sled 0.34, a B+ tree of pages in one log-structured file.
//!
//! It is there for comparison and for read-heavy stores that fit its cache. What Quorate asks of an
//! engine and sled lacks is added here:
//!
//! | sled alone | with this adapter |
//! |---|---|
//! | keeps writes in the process until a flush | `apply` returns after the flush: kill -9 loses nothing |
//! | a flush asks for no barrier of the disk | `sync` calls fdatasync on the file, and on blobs |
//! | batches are atomic within one tree | all spaces lie in one tree, under a first byte |
//! | iterators see later writes | scans are snapshots: overwritten rows are kept for them (`scan`) |
//! | pages past 128 KiB become files of their own | values past 2 KiB are cut into rows (`rows`) |
//! | skips or cuts off what is damaged, silently | a `census` and a `mark` tell at opening |
//! | panics, some on threads of its own | become errors; the engine is poisoned (`contain`) |
//! | goes round in circles over damaged pages, and takes all memory | has to come to an end (`bound`) |
//!
//! All batches go through one thread (`writer`), which takes whatever has queued up and flushes
//! once: sled's own writers would wait for each other's flushes anyway.
//!
//! Once a write of its own has failed, sled cannot be read either: its trees may be half changed, and
//! reading repairs them by writing. So reads then tell that failure until the node is restarted, and
//! `apply` looks at the free space first, so that a full disk is met before sled meets it; nothing is
//! poisoned then, and writes go on once there is space.
//!
//! The price: a write reads what it replaces, for the census; an opening reads the whole store. And
//! known of the crate (0.34.7): a flush waits for the disk, though not for its cache; readers wait
//! while a batch is applied or flushed; an opening of damaged files may change them, zeroing what it
//! holds for torn, so copies for a post-mortem are to be made before.

mod bound;
mod census;
mod contain;
mod mark;
mod rows;
mod scan;
mod writer;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sled::Db;

use self::bound::bounded;
use self::census::Census;
use self::contain::contain;
use self::mark::Mark;
use self::scan::{SledScan, Snapshots};
use self::writer::{Queue, Writer};
use super::{Batch, Engine, EngineError, EngineOptions, EngineStats, KeyRange, Scan, Space, files};

/// Bytes per batch of a checkpoint: large enough that its overhead vanishes.
const CHECKPOINT_BATCH_BYTES: usize = 1 << 20;

/// The least cache, in bytes: sled divides it by 256, and throws out at once what is larger than
/// that. A page with its latest changes takes up to 64 KiB.
const CACHE_BYTES_MIN: u64 = 16 << 20;

/// What must be free beyond four times a batch (a row is written, and now and then its page): enough
/// for batches on other threads, and for the next opening, which writes a snapshot of the page table.
const FREE_BYTES_MIN: u64 = 32 << 20;

/// How sled says that its files are in use: it has no error of its own for that.
const LOCKED: &str = "could not acquire lock";

/// How often, and how long apart, an opening looks whether they still are.
const CLOSED_TRIES: u32 = 200;
const CLOSED_AGAIN: Duration = Duration::from_millis(5);

const OPENING: &str = "open its files";

/// A sled database in a directory of its own.
pub struct SledEngine {
    /// There until the engine is dropped.
    db: Option<Db>,
    file: File,
    path: PathBuf,
    options: EngineOptions,
    queue: Arc<Queue>,
    snapshots: Arc<RwLock<Snapshots>>,
    mark: Arc<Mutex<Mark>>,
    /// Blob files that are on disk already; held by a sync from its beginning to its end.
    synced_blobs: Mutex<BTreeSet<OsString>>,
    writer: Option<JoinHandle<()>>,
}

impl SledEngine {
    /// Opens the store at `path`, or makes one.
    ///
    /// Reads every row, to see that none is lost. A store that is refused as corrupt stays so; sled
    /// may have cut off an unfinished tail and zeroed what it held for torn.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        let path = std::path::absolute(path).map_err(EngineError::io("find its files"))?;
        if !path.try_exists().map_err(EngineError::io("find its files"))? {
            Self::make(&path, options, |_| Ok(()))?;
        }
        Self::open_in_place(path, options)
    }

    /// Makes a store, filled by `fill`, that appears at `path` whole or not at all.
    fn make(
        path: &Path,
        options: EngineOptions,
        fill: impl FnOnce(&Self) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let nursery = files::beside(path, ".creating");
        let io = EngineError::io("make its files");
        files::remove_directory(&nursery).map_err(&io)?;
        let filled = files::create_directory(&nursery)
            .and_then(|()| Mark::create(&nursery))
            .map_err(&io)
            .and_then(|()| Self::open_in_place(nursery.clone(), options))
            .and_then(|engine| fill(&engine));
        let made = filled.and_then(|()| files::sync_tree(&nursery).map_err(&io));
        match made.and_then(|()| files::rename(&nursery, path).map_err(&io)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // What is left of it is removed by the next try, if this fails as well.
                let _ = files::remove_directory(&nursery);
                Err(error)
            }
        }
    }

    fn open_in_place(path: PathBuf, options: EngineOptions) -> Result<Self, EngineError> {
        let mut mark = Mark::open(&path)?;
        if mark.has_failed() {
            tracing::warn!(
                path = %path.display(),
                "a write or sync failed when the store was last open; its files are written again, \
                 since what is read from them may not be on disk"
            );
            let io = EngineError::io(OPENING);
            files::write_tree_again(&path).map_err(&io)?;
            mark.failed(false).map_err(&io)?;
        }
        let (db, census) = contain(OPENING, || open_tree(&path, options)).map_err(damaged)?;
        mark.check(&census)?;
        mark.applied(census.batches).map_err(EngineError::io(OPENING))?;
        // Opened before anything is written, so that it hears of every failed write-back.
        let file = File::open(path.join("db")).map_err(EngineError::io(OPENING))?;
        let (queue, mark) = (Arc::new(Queue::new(census)), Arc::new(Mutex::new(mark)));
        let snapshots = Arc::<RwLock<Snapshots>>::default();
        let writer = Writer {
            db: db.clone(),
            census,
            queue: queue.clone(),
            snapshots: snapshots.clone(),
            mark: mark.clone(),
        };
        let writer = writer.start().map_err(EngineError::io("start its thread"))?;
        let synced_blobs = Mutex::default();
        let (db, writer) = (Some(db), Some(writer));
        Ok(Self { db, file, path, options, queue, snapshots, mark, synced_blobs, writer })
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("it is taken when the engine is dropped")
    }

    /// Runs sled on the caller's thread; a panic poisons the engine.
    fn contained<T>(
        &self,
        action: &'static str,
        run: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        contain(action, run).inspect_err(|error| {
            if matches!(error, EngineError::Panicked { .. }) {
                // Its end would use what the panic left half changed.
                std::mem::forget(self.db.clone());
                self.queue.fail(error.clone());
            }
        })
    }

    /// Refuses a batch that sled might not find the space for.
    fn check_space(&self, batch: &Batch) -> Result<(), EngineError> {
        let measured = files::free_bytes(&self.path);
        let free_bytes = measured.map_err(EngineError::io("measure the free space"))?;
        enough_space(free_bytes, batch.bytes() as u64)
    }

    /// What lies in `range` now, whatever is written meanwhile.
    fn scan_rows(&self, range: KeyRange) -> SledScan<'_> {
        SledScan::new(self, range)
    }

    fn copy_to(&self, target: &Self) -> Result<(), EngineError> {
        let mut batch = Batch::new();
        for row in self.scan_rows(rows::range_of_all()) {
            let (row, value) = row?;
            let Some((space, key)) = rows::split(&row) else { continue };
            batch.put(space, key, value);
            if batch.bytes() >= CHECKPOINT_BATCH_BYTES {
                target.apply(std::mem::take(&mut batch))?;
            }
        }
        target.apply(batch)
    }

    /// Syncs the blob files that were not there the last time; normally there are none at all.
    fn sync_blobs(&self, synced: &mut BTreeSet<OsString>) -> io::Result<()> {
        let directory = self.path.join("blobs");
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&directory)? {
            let name = entry?.file_name();
            if !synced.contains(&name) {
                match File::open(directory.join(&name)).and_then(|file| file.sync_all()) {
                    // sled deletes what it has replaced.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    synced => synced?,
                }
            }
            found.insert(name);
        }
        if !found.is_subset(synced) {
            files::sync_directory(&directory)?;
        }
        *synced = found;
        Ok(())
    }

    fn sync_files(&self, synced_blobs: &mut BTreeSet<OsString>) -> io::Result<()> {
        let applied = self.queue.applied();
        self.sync_blobs(synced_blobs)?;
        // It writes a grown file's length as well, which is all the metadata that matters.
        self.file.sync_data()?;
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).synced(applied)
    }
}

impl Engine for SledEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        const ACTION: &str = "read a key";
        let row = rows::key(space, key);
        self.queue.check_readable()?;
        self.contained(ACTION, || {
            let db = self.db();
            let Some(stored) = db.get(&row).map_err(failed(ACTION))? else { return Ok(None) };
            if let Some(value) = rows::whole(&stored)? {
                return Ok(Some(value));
            }
            // Its parts are of one batch only while no other one is applied.
            let _gate = self.snapshots.read().unwrap_or_else(PoisonError::into_inner);
            let stored = db.get(&row).map_err(failed(ACTION))?;
            stored.map(|stored| rows::value(db, &stored)).transpose()
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.queue.check()?;
        self.check_space(&batch)?;
        self.queue.apply(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        // One at a time: the operating system tells a failure of an open file once, and of two syncs
        // the other would hear of none.
        let mut synced_blobs = self.synced_blobs.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue.check()?;
        self.sync_files(&mut synced_blobs).map_err(EngineError::io("sync")).inspect_err(|error| {
            self.queue.fail(error.clone());
            mark::note_failure(&self.mark);
        })
    }

    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let rows = self.scan_rows(rows::range(space, range));
        Box::new(rows.map(|row| row.map(|(row, value)| (row.slice(1..), value))))
    }

    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        let io = EngineError::io("make a checkpoint");
        let target = std::path::absolute(target).map_err(&io)?;
        if target.try_exists().map_err(&io)? {
            return Err(EngineError::TargetExists { path: target });
        }
        // The copy only passes through: what it caches would never be read.
        let options = EngineOptions { cache_bytes: self.options.cache_bytes.min(CACHE_BYTES_MIN) };
        Self::make(&target, options, |copy| self.copy_to(copy))
    }

    fn stats(&self) -> Result<EngineStats, EngineError> {
        let disk_bytes =
            files::allocated_bytes(&self.path).map_err(EngineError::io("measure its files"))?;
        Ok(EngineStats { disk_bytes, keys_approx: self.queue.keys() })
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        self.queue.close();
        if contain::broken() {
            // The writer may wait for ever for sled's dead thread, and sled's own end as well.
            std::mem::forget(self.db.take());
            return;
        }
        if let Some(writer) = self.writer.take() {
            // It catches what panics in it.
            let _ = writer.join();
        }
        if self.queue.check().is_ok()
            && let Err(error) = self.sync()
        {
            tracing::warn!(%error, "the store was closed, but could not be synced");
        }
        let closed = contain("close its files", || {
            drop(self.db.take());
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the store was not closed in good order");
        }
    }
}

/// Opens sled's files and counts what is in them; the census, if they agree.
fn open_tree(path: &Path, options: EngineOptions) -> Result<(Db, Census), EngineError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes.max(CACHE_BYTES_MIN))
        // `apply` flushes; sled's thread for that would do it again and fsync twice a second.
        .flush_every_ms(None);
    let db = open_once_closed(path, &config)?;
    read_ahead(&path.join("db")).map_err(EngineError::io(OPENING))?;
    let census = bounded(|| Census::verify(&db))?;
    Ok((db, census))
}

/// Opens sled's files, as soon as nobody has them open. The mark is locked by this opening, so that
/// can only be what is left of the last one: sled's threads let go of it a moment after its end.
fn open_once_closed(path: &Path, config: &sled::Config) -> Result<Db, EngineError> {
    let mut tries = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().starts_with(LOCKED) => {
                tries += 1;
                if tries == CLOSED_TRIES {
                    return Err(EngineError::Locked { path: path.to_path_buf() });
                }
                std::thread::sleep(CLOSED_AGAIN);
            }
            opened => return opened.map_err(failed(OPENING)),
        }
    }
}

/// Brings the log into the operating system's cache in the order in which it lies on disk, since
/// counting its rows reads all of it in another one.
fn read_ahead(log: &Path) -> io::Result<u64> {
    let mut log = BufReader::with_capacity(1 << 20, File::open(log)?);
    io::copy(&mut log, &mut io::sink())
}

fn enough_space(free_bytes: u64, batch_bytes: u64) -> Result<(), EngineError> {
    let needed_bytes = FREE_BYTES_MIN + 4 * batch_bytes;
    match free_bytes >= needed_bytes {
        true => Ok(()),
        false => Err(EngineError::Full { free_bytes, needed_bytes }),
    }
}

/// A panic of an opening speaks of the files.
fn damaged(error: EngineError) -> EngineError {
    match error {
        EngineError::Panicked { action, detail } => EngineError::Corrupt { action, detail },
        error => error,
    }
}

/// Our error for one of sled's, met while trying `action`. What is not the operating system's
/// refusal says that the files hold what sled never wrote; so does a file that ends too early.
fn failed(action: &'static str) -> impl Fn(sled::Error) -> EngineError {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    move |error| match error {
        sled::Error::Io(source)
            if !matches!(source.kind(), UnexpectedEof | InvalidData | InvalidInput | NotFound) =>
        {
            EngineError::io(action)(source)
        }
        error => EngineError::Corrupt { action, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests;

//! *Synced* means on disk: what a batch wrote to the engine's log was synced, and the sync had
//! returned, before the acknowledgement left the process. Seen from outside, at the C library.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quorate_node::storage::data_dir::EngineKind;

use crate::child::{Promise, Writer, command};
use crate::shim::{Event, Shim};
use crate::{disk_engines, seed};

/// Acknowledgements looked at.
const ACKS: usize = 200;

#[test]
fn a_synced_write_is_on_disk_before_it_is_acknowledged() {
    for kind in disk_engines() {
        let acks = acks_of(kind, Promise::Synced);
        assert!(acks.len() >= ACKS, "{} acknowledgements", acks.len());
        for (at, ack) in acks.iter().enumerate() {
            assert!(
                ack.written > 0,
                "{kind}, {at}: nothing was written before the acknowledgement"
            );
            assert!(ack.unsynced.is_empty(), "{kind}, {at}: not on disk: {:?}", ack.unsynced);
        }
    }
}

/// Else the test above could pass since the shim sees syncs everywhere.
#[test]
fn a_buffered_write_is_acknowledged_before_it_is_on_disk() {
    for kind in disk_engines() {
        let acks = acks_of(kind, Promise::Buffered);
        let unsynced = acks.iter().filter(|ack| !ack.unsynced.is_empty()).count();
        assert!(unsynced > ACKS / 2, "{kind}: only {unsynced} were not on disk");
    }
}

/// What was so when an acknowledgement left.
#[derive(Default)]
struct Ack {
    /// Writes to the engine's log since the last one.
    written: usize,
    /// The log's files that held something no sync had covered.
    unsynced: BTreeSet<PathBuf>,
}

fn acks_of(kind: EngineKind, promise: Promise) -> Vec<Ack> {
    let shim = Shim::compile();
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let path = directory.path().join("data");
    let mut alone = command(&path, kind, promise, seed("fsync", kind));
    alone.env(crate::child::ALONE, "1");
    shim.stand_before(&mut alone, directory.path());
    let writer = Writer::spawn(alone);
    for _ in 0..ACKS {
        writer.acks.recv().expect("the child writes on");
    }
    writer.kill();
    acks(&shim.events(), |file| is_log(kind, file))
}

/// Whether the engine's promise rests on this file, rather than on one that can be made again
/// from it.
fn is_log(kind: EngineKind, file: &Path) -> bool {
    match kind {
        EngineKind::Fjall => file.extension().is_some_and(|extension| extension == "jnl"),
        EngineKind::Sled => file.file_name().is_some_and(|name| name == "db"),
        EngineKind::Memory => false,
    }
}

/// One writer at a time wrote, so whatever its log holds unsynced at an acknowledgement is its own.
fn acks(events: &[Event], is_log: impl Fn(&Path) -> bool) -> Vec<Ack> {
    let (mut acks, mut now) = (Vec::new(), Ack::default());
    // Files whose every write had ended when a sync that is under way began.
    let mut covered: BTreeSet<PathBuf> = BTreeSet::new();
    for event in events {
        match event {
            Event::Written(file) if is_log(file) => {
                now.written += 1;
                now.unsynced.insert(file.clone());
                covered.remove(file);
            }
            Event::Begun(file) => drop(covered.insert(file.clone())),
            Event::Synced(file) if covered.remove(file) => drop(now.unsynced.remove(file)),
            Event::Written(_) | Event::Synced(_) => {}
            Event::Ack => {
                let unsynced = now.unsynced.clone();
                acks.push(std::mem::replace(&mut now, Ack { written: 0, unsynced }));
            }
        }
    }
    acks
}

#[test]
fn a_write_during_a_sync_is_not_covered_by_it() {
    let file = PathBuf::from("0.jnl");
    let (written, begun) = (Event::Written(file.clone()), Event::Begun(file.clone()));
    let synced = Event::Synced(file.clone());
    let unsynced = |events: &[&Event]| {
        let events: Vec<Event> = events.iter().map(|&event| event.clone()).collect();
        !acks(&events, |_| true)[0].unsynced.is_empty()
    };
    assert!(!unsynced(&[&written, &begun, &synced, &Event::Ack]));
    assert!(unsynced(&[&written, &begun, &Event::Ack]));
    assert!(unsynced(&[&begun, &written, &synced, &Event::Ack]));
    assert!(unsynced(&[&written, &begun, &synced, &written, &Event::Ack]));
}

//! A disk that is full, or fails to sync, under an engine: the batch at hand is an error, the engine
//! refuses all further ones, reads go on, and what was acknowledged is there at the next opening.

use std::io::{BufRead as _, BufReader};
use std::process::Child;

use quorate_node::storage::data_dir::EngineKind;
use quorate_tests::wait_for_exit;

use crate::child::{FAILING, Promise, SIZES, TOGETHER, command, parse};
use crate::shim::{Fault, Shim};
use crate::store::{Store, check};
use crate::workload::Model;
use crate::{disk_engines, seed};

/// Batches that are written while the disk is well.
const WELL: u64 = 50;

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    for kind in disk_engines() {
        for promise in [Promise::Buffered, Promise::Synced] {
            let failure = fails(kind, promise, Fault::Full);
            assert!(failure.contains("No space left"), "{kind}, {promise:?}: {failure}");
        }
    }
}

#[test]
fn a_failed_sync_is_an_error_and_loses_nothing() {
    for kind in disk_engines() {
        let failure = fails(kind, Promise::Synced, Fault::Sync);
        assert!(failure.contains("could not sync"), "{kind}: {failure}");
        assert!(failure.contains("Input/output error"), "{kind}: {failure}");
    }
}

#[test]
fn of_syncs_at_a_time_none_succeeds_beside_one_that_fails() {
    for kind in disk_engines() {
        let shim = Shim::compile();
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let path = directory.path().join("data");
        let seed = seed("together", kind);
        let mut together = command(&path, kind, Promise::Synced, seed);
        together.env(TOGETHER, shim.once());
        shim.stand_before(&mut together, directory.path());
        let mut child = together.spawn().expect("the test binary runs again");
        assert!(wait_for_exit(&mut child).success(), "{kind}: a sync was acknowledged");
        let store = Store::open(&path, kind).expect("what a failed disk left opens");
        check(&*store.engine, &mut Model::lanes(seed, SIZES), [0, 0]);
    }
}

/// Lets a writer run into a fault, and opens what it left. What the writer was told.
fn fails(kind: EngineKind, promise: Promise, fault: Fault) -> String {
    let shim = Shim::compile();
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let path = directory.path().join("data");
    let seed = seed("full", kind);
    let mut failing = command(&path, kind, promise, seed);
    failing.env(FAILING, "1");
    shim.stand_before(&mut failing, directory.path());
    let mut child = failing.spawn().expect("the test binary runs again");
    let (acked, failure) = listen(&mut child, || shim.set(fault, true));
    assert!(wait_for_exit(&mut child).success(), "the child met something unexpected");
    shim.set(fault, false);

    let store = Store::open(&path, kind).expect("what a failed disk left opens");
    let found = check(&*store.engine, &mut Model::lanes(seed, SIZES), [acked, 0]);
    eprintln!("{kind}, {promise:?}, {fault:?}: {acked} acknowledged, {found:?} found: {failure}");
    failure
}

/// Reads to the end of the child's stdout; how much was acknowledged, and how it failed.
fn listen(child: &mut Child, once_well: impl FnOnce()) -> (u64, String) {
    let stdout = child.stdout.take().expect("it was piped");
    let (mut acked, mut failure, mut once_well) = (0, None, Some(once_well));
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("the child prints text");
        if let Some((0, n)) = parse(&line) {
            acked = n;
        } else if let Some(reason) = line.strip_prefix("failed ") {
            failure = Some(reason.to_owned());
        }
        if acked == WELL
            && let Some(once_well) = once_well.take()
        {
            once_well();
        }
    }
    (acked, failure.expect("the writer failed and said why"))
}

//! A row that goes on alone, against nodes that fail as scripted.

use quorate_proto::v1::{
    self,
    error_detail::{Kind, Outcome},
};

use super::*;
use crate::fake::{Act, Fakes, NAMESPACE};

#[test]
fn only_copies_that_show_as_one_are_risked() {
    assert_eq!(retry_in(ConflictRule::Siblings), Retry::AtLeastOnce);
    assert_eq!(retry_in(ConflictRule::Lww), Retry::ExactlyOnce);
}

/// Stores a row whose write is lost, and of which another owner then tells no more than this; the
/// operation ids that were sent, in their order.
async fn stored_after(kind: Kind, value: &'static str) -> Vec<v1::OperationId> {
    let fakes = Fakes::start(&[]).await;
    let namespace = fakes.client().await.namespace(NAMESPACE);
    let store = KvStore::new(namespace, Retry::ExactlyOnce, Duration::from_secs(20));
    fakes.script(0, [Act::Nothing, Act::Break]);
    fakes.script(1, [Act::Fail(kind, Outcome::Unknown)]);
    let pair = Pair { key: "k".into(), value: value.into() };
    store.store(store.alone(pair), &Doubt::default()).await.unwrap();
    let sent = [fakes.operations(0), fakes.operations(1)].concat().into_iter();
    let mut ids: Vec<v1::OperationId> = sent.collect();
    ids.sort_by_key(|id| id.sequence);
    ids
}

#[tokio::test]
async fn a_row_of_which_its_coordinator_tells_no_more_may_be_on_too_few_owners() {
    // The value that the fake nodes hold.
    let ids = stored_after(Kind::Opening, "1").await;
    assert_eq!(ids.len(), 3, "it is there, and written all the same");
}

#[tokio::test]
async fn a_row_that_an_older_write_may_hide_is_read_and_written_anew() {
    let ids = stored_after(Kind::ClockSkew, "v").await;
    assert_eq!((ids.len(), ids[0]), (3, ids[1]));
    assert_ne!(ids[2], ids[0]);
}

#[tokio::test]
async fn a_row_whose_coordinator_restarted_is_read_and_written_anew() {
    let ids = stored_after(Kind::Opening, "v").await;
    assert_eq!((ids.len(), ids[0]), (3, ids[1]), "asked for again, as long as that may help");
    assert_ne!(ids[2], ids[0], "under the old id it would be refused until the time is over");
}

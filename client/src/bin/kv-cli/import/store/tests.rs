//! A row that goes on alone, against nodes that fail as scripted.

use quorate_client::{Client, ClientConfig};
use quorate_proto::v1::error_detail::{Kind, Outcome};

use self::fake::{Act, Fakes, NAMESPACE};
use super::*;

#[path = "../../../../fake.rs"]
#[allow(dead_code)]
mod fake;

#[test]
fn only_copies_that_show_as_one_are_risked() {
    assert_eq!(retry_in(ConflictRule::Siblings), Retry::AtLeastOnce);
    assert_eq!(retry_in(ConflictRule::Lww), Retry::ExactlyOnce);
}

#[tokio::test]
async fn a_row_whose_coordinator_restarted_is_read_and_written_anew() {
    let fakes = Fakes::start(&[]).await;
    let namespace = fakes.client().await.namespace(NAMESPACE);
    let store = KvStore::new(namespace, Retry::ExactlyOnce, Duration::from_secs(20));
    let forgotten = Act::Fail(Kind::Opening, Outcome::Unknown);
    fakes.script(0, [Act::Nothing, Act::Break, forgotten]);
    let pair = Pair { key: "k".into(), value: "v".into() };
    store.store(store.alone(pair)).await.unwrap();
    let ids = fakes.operations(0);
    assert_eq!((ids.len(), ids[0]), (3, ids[1]), "asked for again, as long as that may help");
    assert_ne!(ids[2], ids[0], "under the old id it would be refused until the time is over");
}

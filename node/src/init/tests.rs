use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::FutureExt;

use super::*;
use crate::dynamo::metadata::document::Voter;

/// Members by address: who each is, and the document it has; `None` instead of an identity: down.
#[derive(Default)]
struct Fake {
    members: BTreeMap<String, (Option<Identity>, Mutex<Option<Bytes>>)>,
    /// Answers who it is, then takes nothing.
    deaf: Mutex<Vec<String>>,
}

impl Fake {
    fn of(identities: Vec<(String, Identity)>) -> Self {
        let members = identities.into_iter();
        let members = members.map(|(address, id)| (address, (Some(id), Mutex::new(None))));
        Self { members: members.collect(), deaf: Mutex::default() }
    }

    fn documents(&self) -> Vec<Option<Document>> {
        let decode = |bytes: Bytes| Document::decode(bytes).unwrap();
        self.members.values().map(|(_, held)| held.lock().unwrap().clone().map(decode)).collect()
    }

    fn silent(address: &str, reason: &str) -> IntroduceError {
        IntroduceError::Unreachable { address: address.to_owned(), reason: reason.to_owned() }
    }
}

impl Contact for Fake {
    fn identify<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Identity, IntroduceError>> {
        let answer = || {
            let (identity, held) = self.members.get(address)?;
            let document = held.lock().unwrap().clone().map(|b| Document::decode(b).unwrap());
            let cluster = document.map(|document| document.cluster.0);
            identity.clone().map(|id| Identity { cluster: cluster.or(id.cluster), ..id })
        };
        async move { answer().ok_or_else(|| Self::silent(address, "connection refused")) }.boxed()
    }

    fn document<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, IntroduceError>> {
        async move { Ok(self.members[address].1.lock().unwrap().clone()) }.boxed()
    }

    fn bootstrap<'a>(
        &'a self,
        address: &'a str,
        document: Bytes,
    ) -> BoxFuture<'a, Result<(), IntroduceError>> {
        async move {
            if self.deaf.lock().unwrap().iter().any(|deaf| deaf == address) {
                return Err(Self::silent(address, "no answer in time"));
            }
            *self.members[address].1.lock().unwrap() = Some(document);
            Ok(())
        }
        .boxed()
    }
}

fn member(number: u64, zone: &str) -> (String, Identity) {
    let (name, address) = (format!("node-{number}"), format!("h{number}:7501"));
    let identity = Identity {
        node: NodeId::of_name(&name),
        name,
        zone: zone.to_owned(),
        weight: 10,
        store: number,
        peer_address: address.clone(),
        client_address: format!("h{number}:7401"),
        cluster: None,
        version: 0,
    };
    (address, identity)
}

fn members(count: u64) -> Vec<(String, Identity)> {
    (1..=count).map(|number| member(number, "default")).collect()
}

fn options(count: u64) -> InitOptions {
    let members = (1..=count).map(|number| format!("h{number}:7501")).collect();
    InitOptions::new(members, Some(64), Vec::new()).unwrap()
}

fn voters(identities: &[(String, Identity)], named: &[&str]) -> Result<Vec<Voter>, InitError> {
    let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
    match plan(identities, &named)? {
        Plan::Create { voters, .. } => Ok(voters),
        Plan::Complete { .. } => panic!("there is no cluster yet"),
    }
}

#[test]
fn an_odd_number_votes_and_at_most_five() {
    for (count, voting) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (20, 5)] {
        let chosen = voters(&members(count), &[]).unwrap();
        assert_eq!(chosen.len(), voting, "{count} members");
        assert!(chosen.is_sorted());
    }
    let lowest = members(20).iter().map(|(_, id)| id.node).min();
    assert_eq!(Some(voters(&members(20), &[]).unwrap()[0].node), lowest);
}

#[test]
fn voters_come_from_as_many_zones_as_there_are() {
    let zone = |number| if number <= 7 { "a".to_owned() } else { format!("zone-{number}") };
    let all: Vec<_> = (1..=9).map(|number| member(number, &zone(number))).collect();
    let chosen = voters(&all, &[]).unwrap();
    let in_a = chosen.iter().filter(|voter| voter.store.0 <= 7).count();
    assert_eq!((chosen.len(), in_a), (5, 3), "both small zones have one");
}

#[test]
fn named_voters_must_be_members() {
    let chosen = voters(&members(5), &["node-2", "node-1"]).unwrap();
    assert_eq!(chosen.iter().map(|voter| voter.store.0).sum::<u64>(), 3);
    let error = |named: &[&str]| voters(&members(8), named).unwrap_err().to_string();
    assert!(error(&["node-9"]).starts_with("voter \"node-9\" is no member; the members are node-"));
    assert_eq!(error(&["node-1", "node-1"]), "voter \"node-1\" is named twice");
    assert!(error(&["node-1"; 8]).starts_with("8 voters are too many: at most 7"));
}

#[test]
fn the_command_line_is_checked_first() {
    let error = |members: &[&str], partitions| {
        let members = members.iter().map(|&address| address.to_owned()).collect();
        InitOptions::new(members, Some(partitions), Vec::new()).unwrap_err().to_string()
    };
    assert_eq!(
        error(&["a:1"], 100),
        "100 partitions: the number must be a power of two in 8..=16384"
    );
    assert!(error(&[], 256).starts_with("a cluster needs at least one member"));
    assert_eq!(error(&["a:1", "a:1"], 256), "member \"a:1\" is named twice");
    assert!(error(&["a"], 256).starts_with("member \"a\" must be HOST:PORT"));
}

#[test]
fn two_nodes_of_one_name_are_refused() {
    let mut both = members(2);
    both[1].1 = both[0].1.clone();
    let error = plan(&both, &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("h1:7501 and h2:7501 are both called \"node-1\"; nothing"),
        "{error}"
    );
}

#[test]
fn members_of_two_clusters_are_refused_by_name() {
    let mut all = members(3);
    all[0].1.cluster = Some([1; 16]);
    all[2].1.cluster = Some([2; 16]);
    let error = plan(&all, &[]).unwrap_err().to_string();
    assert!(
        error.contains("\n  h1:7501: cluster 0101") && error.contains("\n  h3:7501: cluster 0202")
    );
    assert!(!error.contains("h2:7501"), "{error}");
}

#[tokio::test]
async fn every_member_gets_document_1() {
    let fake = Fake::of(members(4));
    let report = run(&fake, &options(4)).await.unwrap();
    let document = fake.documents()[0].clone().unwrap();
    assert!(fake.documents().iter().all(|held| held.as_ref() == Some(&document)));
    assert_eq!((document.version, document.partitions.get()), (1, 64));
    assert_eq!((document.members.len(), document.voters.len()), (4, 3));
    assert_eq!(report.taken.len(), 4);
    let text = report.to_string();
    assert!(text.contains("is made: 4 members, 3 of which vote, 64 partitions\n"), "{text}");
    assert!(text.contains("  node-1  h1:7501"), "{text}");
}

#[tokio::test]
async fn other_partitions_than_the_cluster_has_are_told_of() {
    let fake = Fake::of(members(1));
    run(&fake, &options(1)).await.unwrap();
    let said = async |partitions| {
        let options = InitOptions::new(vec!["h1:7501".to_owned()], partitions, Vec::new()).unwrap();
        run(&fake, &options).await.unwrap().to_string()
    };
    let note = "note: --partitions 128 changes nothing; this cluster has 64 for ever\n";
    assert!(said(Some(128)).await.contains(note));
    assert!(!said(Some(64)).await.contains("note:"));
    assert!(!said(None).await.contains("note:"));
}

#[tokio::test]
async fn two_clusters_share_neither_id_nor_key() {
    let (a, b) = (Fake::of(members(1)), Fake::of(members(1)));
    for fake in [&a, &b] {
        run(fake, &options(1)).await.unwrap();
    }
    let (a, b) = (a.documents().remove(0).unwrap(), b.documents().remove(0).unwrap());
    assert!(a.cluster != b.cluster && a.cluster_key != b.cluster_key);
}

#[tokio::test]
async fn nothing_is_changed_while_a_member_is_down() {
    let fake = Fake::of(members(2));
    let error = run(&fake, &options(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("1 member cannot be reached; nothing was changed"), "{error}");
    assert!(error.ends_with("\n  h3:7501 cannot be reached: connection refused"), "{error}");
    assert_eq!(fake.documents(), [None, None]);
}

#[tokio::test]
async fn a_run_that_was_cut_short_is_completed_by_the_next() {
    let fake = Fake::of(members(3));
    fake.deaf.lock().unwrap().push("h2:7501".to_owned());
    let error = run(&fake, &options(3)).await.unwrap_err();
    assert!(matches!(&error, InitError::Partial { taken, .. } if taken.len() == 2));
    let error = error.to_string();
    assert!(
        error.contains("1 member did not take its document; h1:7501, h3:7501 did. Run the same")
    );
    assert!(error.ends_with("\n  h2:7501 cannot be reached: no answer in time"), "{error}");

    fake.deaf.lock().unwrap().clear();
    let report = run(&fake, &options(3)).await.unwrap();
    assert_eq!((report.taken.clone(), report.kept.len()), (vec!["h2:7501".to_owned()], 2));
    assert!(report.to_string().contains("is complete now"), "{report}");
    let documents = fake.documents();
    assert!(documents[0].is_some() && documents.iter().all(|held| *held == documents[0]));

    let report = run(&fake, &options(3)).await.unwrap();
    assert!(report.taken.is_empty() && report.to_string().contains("is complete already"));
}

#[tokio::test]
async fn a_document_that_nobody_is_known_to_have_is_given_again() {
    let fake = Fake::of(members(1));
    fake.deaf.lock().unwrap().push("h1:7501".to_owned());
    let error = run(&fake, &options(1)).await.unwrap_err();
    assert!(matches!(error, InitError::NotTaken { .. }), "{error}");
    fake.deaf.lock().unwrap().clear();
    run(&fake, &options(1)).await.unwrap();
}

#[tokio::test]
async fn a_member_of_another_cluster_is_refused_by_name() {
    let fake = Fake::of(members(3));
    run(&fake, &options(2)).await.unwrap();
    let error = run(&fake, &options(3)).await.unwrap_err().to_string();
    assert!(error.starts_with("h1:7501 belongs to cluster "), "{error}");
    let both = ["h1:7501 (node-1), h2:7501 (node-2);", "h2:7501 (node-2), h1:7501 (node-1);"];
    assert!(both.iter().any(|names| error.contains(&format!("whose members are {names}"))));
    assert!(error.contains("name exactly their addresses"), "{error}");
    assert_eq!(fake.documents()[2], None, "nothing was changed");
}

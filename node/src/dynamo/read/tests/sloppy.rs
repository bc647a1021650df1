//! Sloppy reads beside a naive twin, which knows who told what and decides anew.

use super::*;

/// What fallbacks keep: objects of the owners' history, or nothing.
#[derive(Clone, Debug)]
struct Kept {
    owners: Vec<Object>,
    hints: Vec<Object>,
}

/// Values, tombstones and nothing: of the latter two more than by chance, since they take longest.
fn kept() -> impl Strategy<Value = Kept> {
    let picks = (prop::collection::vec(0..6usize, 1..6), prop::collection::vec(0..6usize, 0..4));
    (histories(), picks, any::<bool>()).prop_map(|(history, (owners, hints), bare)| {
        let object = |at: usize| {
            let object = history.replicas.get(at).cloned().unwrap_or_default();
            match bare {
                true => Object::from_parts(Vec::new(), object.version().clone()).unwrap(),
                false => object,
            }
        };
        let objects = |picks: Vec<usize>| picks.into_iter().map(object).collect();
        Kept { owners: objects(owners), hints: objects(hints) }
    })
}

fn away() -> impl Strategy<Value = BTreeSet<usize>> {
    prop::collection::btree_set(0..5usize, 0..3)
}

impl Cluster {
    fn counted(&self) -> Vec<usize> {
        (0..self.objects.len()).filter(|&at| self.read.owner(at).counted).collect()
    }

    /// Owners that failed, were late or away.
    fn missed(&self) -> BTreeSet<usize> {
        let owner = |at: &usize| *at < FALLBACK;
        [&self.failed, &self.late, &self.away]
            .into_iter()
            .flatten()
            .copied()
            .filter(owner)
            .collect()
    }

    /// What fallbacks told before the answer.
    fn told_hints(&self) -> impl Iterator<Item = &Object> {
        let told = self.hints.iter().filter(|(hint, heard)| *heard && !hint.is_absent());
        told.map(|(hint, _)| hint)
    }

    fn check_sloppy(&self, needed: usize, repair: Repair) {
        let (counted, missed) = (self.counted(), self.missed());
        let outcome = self.read.clone().finish();
        let mut naive = Object::default();
        let told = counted.iter().flat_map(|&at| &self.told[at]);
        for state in told.chain(self.told_hints()) {
            naive.merge(state);
        }
        assert_eq!(outcome.object, naive, "the merge of what was told by those that count");

        let vacant = missed.iter().filter(|at| !counted.contains(at)).count();
        let stand_ins = self.told_hints().count().min(vacant);
        assert_eq!(outcome.replicas as usize, counted.len());
        if repair == Repair::Async {
            assert_eq!(outcome.fallbacks as usize, stand_ins);
            assert!(counted.len() + stand_ins >= needed, "R counted");
        } else {
            let owners = self.objects.iter().filter(|object| includes(object, &naive)).count();
            let fallbacks = self.hints.iter().filter(|(hint, _)| *hint == naive).count();
            assert!(owners + fallbacks.min(missed.len()) >= needed, "R hold the answer");
        }
        if naive.is_empty() {
            self.check_nothing(&missed.difference(&self.missed_after).copied().collect());
        }
    }

    /// Before it is said that there is no value, all were heard that may have one.
    fn check_nothing(&self, missed: &BTreeSet<usize>) {
        let asked = |at: usize| self.asked.iter().any(|&effect| index(effect) == at);
        for at in 0..self.objects.len() {
            let heard = !self.told[at].is_empty() || missed.contains(&at);
            assert!(asked(at) && heard, "owner {at}");
        }
        if missed.is_empty() && !self.doubt {
            return;
        }
        for (at, (_, heard)) in (FALLBACK..).zip(&self.hints) {
            let missed = self.failed.contains(&at) || self.late.contains(&at);
            let missed = missed && !self.missed_after.contains(&at);
            assert!(asked(at) && (*heard || missed), "fallback {at}");
        }
    }

    fn check_sloppy_unreachable(&self, needed: usize) {
        let answer = self.read.answered.then(|| self.read.answer().unwrap().clone());
        let has = |at: usize| match answer {
            Some(_) => self.read.owner(at).holds,
            None => self.read.owner(at).counted,
        };
        let lost = (0..self.objects.len()).filter(|&at| self.failed.contains(&at) && !has(at));
        let lost = lost.count();
        let hopeful = (FALLBACK..).zip(&self.hints).filter(|(at, (hint, _))| {
            let keeps = answer.as_ref().map_or(!hint.is_absent(), |answer| hint == answer);
            !self.settled.contains(at) || (keeps && !self.failed.contains(at))
        });
        let stand_ins = hopeful.count().min(lost);
        assert!(self.objects.len() - lost + stand_ins < needed, "enough could still have answered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_sloppy_read_ends_and_nothing_is_said_too_early(
        kept in kept(),
        needed in 1..6u8,
        repair in repairs(),
        (away, doubt) in (away(), any::<bool>()),
        events in events(),
    ) {
        let sloppy = Some((kept.hints, doubt));
        let mut cluster = Cluster::start(kept.owners, needed, repair, (away, sloppy));
        match cluster.run(events) {
            Verdict::Reached => cluster.check_sloppy(needed.into(), repair),
            Verdict::Unreachable => cluster.check_sloppy_unreachable(needed.into()),
            Verdict::Pending => unreachable!("the run ends with a verdict"),
        }
    }

    #[test]
    fn nothing_moves_a_sloppy_verdict(
        kept in kept(),
        (away, doubt, repair) in (away(), any::<bool>(), repairs()),
        (events, late) in (events(), events()),
    ) {
        let sloppy = Some((kept.hints, doubt));
        let mut cluster = Cluster::start(kept.owners, 2, repair, (away, sloppy));
        let verdict = cluster.run(events);
        let outcome = (verdict == Verdict::Reached).then(|| cluster.read.clone().finish());
        late.into_iter().for_each(|event| cluster.happen(event));
        prop_assert_eq!(cluster.read.verdict(), verdict);
        prop_assert_eq!((verdict == Verdict::Reached).then(|| cluster.read.finish()), outcome);
    }

    /// Where everybody answers, a value costs what it costs in a strict read, and that there is none
    /// the owners that are left.
    #[test]
    fn a_healthy_cluster_is_asked_no_more_than_by_a_strict_read(
        kept in kept(),
        (needed, repair) in (1..6u8, repairs()),
        events in events(),
    ) {
        let events: Vec<Event> = events
            .into_iter()
            .filter(|event| !matches!(event, Event::Fail(..) | Event::Late(_)))
            .collect();
        let sloppy = (BTreeSet::new(), Some((kept.hints, false)));
        let mut strict = Cluster::new(kept.owners.clone(), needed, repair);
        let mut sloppy = Cluster::start(kept.owners, needed, repair, sloppy);
        prop_assert_eq!(strict.run(events.clone()), sloppy.run(events));
        prop_assert!(sloppy.asked.iter().all(|effect| !matches!(effect, Effect::AskFallback(_))));
        if strict.read.answer().is_some_and(|object| !object.is_empty()) {
            prop_assert_eq!(strict.asked, sloppy.asked);
        }
    }

    /// One node alone has a write, an owner or a fallback, and answers in time: whatever becomes of
    /// the others, no sloppy read that is answered says that there is no value.
    #[test]
    fn what_one_node_has_that_answers_is_not_called_absent(
        (owners, fallbacks, holder) in (1..5usize, 0..4usize, 0..8usize),
        (needed, repair, away) in (1..4u8, repairs(), away()),
        events in events(),
    ) {
        let dot = Dot { actor: Actor(50), n: 1 };
        let mut written = Object::default();
        written.write(dot, &VersionVector::new(), entry(dot));
        let mut objects = vec![Object::default(); owners];
        let mut hints = vec![Object::default(); fallbacks];
        let holder = holder % (owners + fallbacks);
        match holder.checked_sub(owners) {
            Some(at) => hints[at] = written,
            None => objects[holder] = written,
        }
        let node = holder.checked_sub(owners).map_or(holder, |at| FALLBACK + at);
        // An owner without what a fallback keeps for it is in doubt, as soon as it answers.
        let doubt = node >= FALLBACK;
        let away = away.into_iter().filter(|&at| at != node).collect();
        let mut cluster = Cluster::start(objects, needed, repair, (away, Some((hints, doubt))));
        for event in events.into_iter().chain(std::iter::repeat(Event::Reply(0))) {
            if cluster.read.verdict() != Verdict::Pending {
                break;
            }
            let hit = match event {
                Event::Fail(at, _) => cluster.under_way.get(at % cluster.under_way.len().max(1)),
                Event::Late(at) => cluster.asked.get(at % cluster.asked.len().max(1)),
                Event::Gossip(..) | Event::Write(_) => continue,
                _ => None,
            };
            if hit.is_none_or(|&effect| index(effect) != node) {
                cluster.happen(event);
            }
        }
        if cluster.read.verdict() == Verdict::Reached {
            prop_assert!(!cluster.read.finish().object.is_empty());
        }
    }
}

/// The same node as an owner and as a keeper of hints counts once.
#[test]
fn an_owner_that_keeps_hints_counts_as_an_owner_alone() {
    let [one, two, three] = [1, 2, 3].map(NodeId);
    let dot = Dot { actor: Actor(1), n: 1 };
    let mut value = Object::default();
    value.write(dot, &VersionVector::new(), entry(dot));
    let mut read = ReadOp::new(ReadPlan {
        needed: 2,
        owners: vec![one, two, three],
        away: vec![two, three],
        sloppy: Some(Sloppy { fallbacks: vec![one], doubt: false }),
        repair: Repair::Async,
        digester: digester(),
    });
    read.start();
    read.on_hint(one, value.clone());
    read.on_object(one, value);
    assert_eq!((read.verdict(), read.tally().acks()), (Verdict::Pending, 1));
    read.on_failure(two, Cause::Disconnected);
    read.on_failure(three, Cause::Disconnected);
    assert_eq!(read.verdict(), Verdict::Unreachable);
}

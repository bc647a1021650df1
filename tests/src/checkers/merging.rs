//! I8: merging is commutative, associative and idempotent, so that neither the order of messages nor
//! their copies matter.
//!
//! The one checker that asks the code: it merges, with the store's own function, what owners really
//! held of a key when faults were over.

use std::fmt::Debug;

use super::Violation;

/// What is wrong with merging these, which are of one `key`.
pub fn laws<T: PartialEq + Debug>(
    key: &str,
    held: &[T],
    merge: impl Fn(&T, &T) -> T,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut equal = |law: &str, one: &T, other: &T, of: &[&T]| {
        if one != other {
            let text = format!("merging {key} is not {law}: {one:?}, or {other:?}, of {of:?}");
            found.push(Violation { invariant: "I8", text, operations: Vec::new() });
        }
    };
    for a in held {
        equal("idempotent", &merge(a, a), a, &[a]);
        for b in held {
            let both = merge(a, b);
            equal("commutative", &both, &merge(b, a), &[a, b]);
            equal("idempotent", &merge(&both, b), &both, &[a, b]);
            for c in held {
                equal("associative", &merge(&both, c), &merge(a, &merge(b, c)), &[a, b, c]);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Numbers = BTreeSet<u32>;

    fn broken(merge: impl Fn(&Numbers, &Numbers) -> Numbers) -> BTreeSet<String> {
        let held = [Numbers::from([1, 2]), Numbers::from([2, 3]), Numbers::from([4])];
        let law = |violation: Violation| {
            let of = violation.text.split_once(" is not ").unwrap().1.to_owned();
            of.split_once(':').unwrap().0.to_owned()
        };
        laws("k", &held, merge).into_iter().map(law).collect()
    }

    #[test]
    fn each_law_is_missed_where_it_does_not_hold() {
        assert_eq!(broken(|a, b| a | b), BTreeSet::new());
        assert_eq!(broken(|a, _| a.clone()), ["commutative".to_owned()].into());
        assert!(broken(|a, b| a ^ b).contains("idempotent"));
        let counts = |a: &Numbers, b: &Numbers| (a.len() != b.len()).then(|| a | b);
        assert!(broken(|a, b| counts(a, b).unwrap_or_default()).contains("associative"));
    }
}

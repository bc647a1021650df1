//! Names that look like one that does not exist.

use anyhow::Error;
use quorate_client::ErrorKind;

use super::Session;
use crate::failure::Hint;

/// How many changed, missing or swapped letters still look like a slip.
const SLIPS_MAX: usize = 2;

/// How many names are listed.
const LISTED_MAX: usize = 5;

/// The error of a command on `namespace`; if that does not exist, with what was perhaps meant.
pub(crate) async fn with_near_names(session: &Session, error: Error, namespace: &str) -> Error {
    let kind = error.downcast_ref::<quorate_client::Error>().map(quorate_client::Error::kind);
    let of_write = error.downcast_ref::<quorate_client::WriteError>().map(|error| error.kind());
    let unknown = kind.or(of_write) == Some(ErrorKind::NotFound);
    if !unknown {
        return error;
    }
    // Whoever cannot be asked now has no suggestion; the error itself is said all the same.
    let Ok(there) = session.client.list_namespaces().await else { return error };
    let names: Vec<&str> = there.iter().map(|namespace| namespace.name.as_str()).collect();
    if names.contains(&namespace) {
        return error;
    }
    error.context(Hint(hint(namespace, &names)))
}

/// The error of a command on a member that there is not, with what was perhaps meant.
pub(super) async fn with_near_members(session: &Session, error: Error, member: &str) -> Error {
    let kind = error.downcast_ref::<quorate_client::Error>().map(quorate_client::Error::kind);
    if kind != Some(ErrorKind::NotFound) {
        return error;
    }
    let Ok(topology) = session.client.topology().await else { return error };
    let names: Vec<&str> = topology.members.iter().map(|member| &*member.name).collect();
    // The error lists them all.
    match near(member, &names).as_slice() {
        [] => error,
        near => error.context(Hint(meant(near))),
    }
}

fn meant(near: &[&str]) -> String {
    format!("did you mean {}?", near.join(" or "))
}

/// What to say of a name that is none of `names`.
fn hint(wrong: &str, names: &[&str]) -> String {
    let near: Vec<&str> = near(wrong, names);
    match (near.as_slice(), names) {
        ([], []) => format!("there is none yet: namespace create {wrong} makes it"),
        ([], names) => {
            let some = names.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
            let more = if names.len() > LISTED_MAX { ", .." } else { "" };
            format!("there are {some}{more}")
        }
        (near, _) => meant(near),
    }
}

fn near<'a>(wrong: &str, names: &[&'a str]) -> Vec<&'a str> {
    let slips = |name: &&str| strsim::damerau_levenshtein(wrong, name);
    let looks_like = |name: &&&str| slips(name) <= SLIPS_MAX.min(wrong.len() / 2);
    let mut near: Vec<&str> = names.iter().filter(looks_like).copied().collect();
    near.sort_by_key(slips);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_names_listed() {
        let names = ["users", "orders", "unicode"];
        assert_eq!(near("user", &names), ["users"]);
        assert_eq!(near("usres", &names), ["users"]);
        assert_eq!(near("x", &names), [""; 0]);
        assert!(hint("odrers", &names).ends_with("did you mean orders?"));
        assert!(hint("x", &names).ends_with("there are users, orders, unicode"));
        assert!(hint("x", &[]).contains("namespace create x"));
        assert!(hint("zz", &["a", "b", "c", "d", "e", "f"]).ends_with("a, b, c, d, e, .."));
    }
}

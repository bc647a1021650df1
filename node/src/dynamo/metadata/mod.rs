//! The one document that all members agree on, and the register that keeps it one.
//!
//! Who is a member, which namespaces exist and who owns what must be the same everywhere, so it is
//! one immutable [`Document`] per version, and a chain: each names the hash of its predecessor.
//!
//! ```text
//!   version 1 <-- version 2 <-- version 3         what a namespace or a member was when
//!   voters abc    voters abc    voters bcd
//!                 chosen by     chosen by
//!                 abc           abc               version 4 will be chosen by bcd
//! ```
//!
//! [`document`] is the document and its pure changes; [`register`] chooses each version by
//! single-decree Paxos among the voters that the version before names. The data path never waits
//! for any of it: a node serves with the newest document that it knows.
//!
//! Left out: changes of members, voters and layouts, which come with transfers.

pub mod document;
pub mod register;

pub use document::{ClusterKey, Document};

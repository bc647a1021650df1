//! The Dynamo protocol as pure code: no async, no clock, no randomness of its own, no IO.
//!
//! Read it in this order: [`key`] and [`clock`] are the nouns, [`object`] is what a replica holds
//! for a key, [`frontier`] what it has seen; [`ring`], [`placement`] and [`preference`] say who
//! holds what; [`quorum`], [`write`](mod@write) and [`read`] run one request, [`resolve`] tells
//! what became of one, [`standing`] says whose silence counts, with [`recall`] of what others said of
//! themselves, [`skew`] whether a node's clock may order writes, [`ttl`] how long values live, [`hint`]
//! what is kept for those that missed it, [`credit`] how fast that comes home, [`outstanding`] for whom
//! it may be; [`metadata`] keeps the one document that all members agree on.
//!
//! Time comes in as an argument, randomness as `&mut impl Rng`, and order from B-trees, so that the
//! same inputs give the same outputs to the byte.

pub mod arrival;
pub mod clock;
pub mod context;
pub mod credit;
pub mod encoding;
pub mod exchange;
pub mod format;
pub mod frontier;
pub mod hint;
pub mod key;
pub mod merkle;
pub mod metadata;
pub mod object;
pub mod operation;
pub mod outstanding;
pub mod placement;
pub mod preference;
pub mod quorum;
pub mod read;
pub mod recall;
pub mod resolve;
pub mod ring;
pub mod skew;
pub mod standing;
pub mod ttl;
pub mod write;

//! A Quorate node.
//!
//! Dependencies point one way: [`node`] assembles everything; [`service`] and [`tasks`] speak to
//! clients and do the background work; [`coordinator`] and [`vnode`] run requests; [`storage`] and
//! [`transport`] keep and carry bytes; [`dynamo`] is the protocol itself, pure code without IO.
//! A test in `tests/` enforces it.

#[macro_use]
pub mod mutants;

pub mod args;
pub mod certs;
pub mod clocks;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod coordinator;
pub mod dev;
pub mod dynamo;
pub mod env;
pub mod error;
pub mod http;
pub mod init;
pub mod limits;
pub mod liveness;
pub mod node;
pub mod process;
pub mod replica;
pub mod service;
pub mod shard;
pub mod signal;
pub mod standing;
pub mod storage;
pub mod tasks;
pub mod telemetry;
pub mod trace;
pub mod transport;
pub mod vnode;

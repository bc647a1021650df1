//! Real processes, seen from outside: what users do with Quorate, and what they do wrong.

mod bad_input;
mod bad_start;
mod contract;
mod dev;
mod grpc;
mod import;
mod lww;
mod rebuild;
mod shutdown;
mod tls;

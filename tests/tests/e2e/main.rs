//! Real processes, seen from outside: what users do with Quorate, and what they do wrong.

mod availability;
mod bad_input;
mod bad_start;
mod clock;
mod contract;
mod dev;
mod exchange;
mod grpc;
mod hostile;
mod import;
mod limits;
mod liveness;
mod lww;
mod manual;
mod metrics;
mod rebuild;
mod resolve;
mod resume;
mod shell;
mod shutdown;
mod standing;
mod tls;
mod trace;
mod ttl;

//! Being written.

pub mod view;

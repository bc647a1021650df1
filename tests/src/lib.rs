//! Harnesses and end-to-end tests of Quorate.

pub mod sim;

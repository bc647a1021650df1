//! Planted defects: how it is known that the simulator would notice a mistake.
//!
//! A place where a mistake would be easy has it, behind its name, and a test turns on one after the
//! other and demands that each is caught (`tests/tests/mutants.rs`):
//!
//! ```text
//!   Tally::new(needed - u8::from(planted!("one_ack_too_few")), ..)     a condition: true while active
//!   planted!("delete_without_a_dot", { return; });                     what to do while active
//! ```
//!
//! They are compiled under `--cfg quorate_mutants` alone, which is no feature that a dependent could
//! turn on. Otherwise the condition is `false`, the statement is nothing, and the names are not in the
//! program. Left out: two defects at once, which would hide each other.

#[cfg(quorate_mutants)]
use std::cell::Cell;

/// Whether the planted defect of this name is active; with a block, what it does then.
#[cfg(not(quorate_mutants))]
macro_rules! planted {
    ($name:literal) => {
        false
    };
    ($name:literal, $wrong:block) => {};
}

/// Whether the planted defect of this name is active; with a block, what it does then.
#[cfg(quorate_mutants)]
macro_rules! planted {
    ($name:literal) => {
        $crate::mutants::is_active(concat!("planted: ", $name))
    };
    ($name:literal, $wrong:block) => {
        if $crate::mutants::is_active(concat!("planted: ", $name)) $wrong
    };
}

/// Every planted defect.
#[cfg(quorate_mutants)]
pub const NAMES: [&str; 48] = [
    "absence_counted_from_a_fallback",
    "acknowledged_before_the_batch",
    "actor_kept_over_a_rollback",
    "answered_before_the_batch",
    "compact_encoding_arithmetic",
    "damaged_record_taken_as_absent",
    "delete_without_a_dot",
    "delivered_hint_forgets_what_came_meanwhile",
    "delivered_hint_replaces_the_newer_object",
    "digest_mismatch_ignored",
    "dots_counted_per_key",
    "dots_seen_without_their_object",
    "earlier_opening_taken_as_new",
    "expiry_restarted_by_handoff",
    "fallback_actor_kept_after_its_hints_went_home",
    "frontier_ahead_of_its_batch",
    "frontier_kept_over_damage",
    "frontier_takes_versions_prefix",
    "hint_acknowledged_before_the_batch",
    "hint_deleted_on_a_buffered_ack",
    "lookup_says_not_applied_for_another_node",
    "loss_forgotten_by_a_restart",
    "lww_clock_below_what_it_holds",
    "lww_clock_below_what_its_client_saw",
    "lww_picked_after_context_removal",
    "merge_drops_a_concurrent_sibling",
    "met_before_the_loss",
    "not_found_without_asking_fallbacks",
    "one_ack_too_few",
    "one_answer_too_few",
    "own_hint_counts_as_a_second_ack",
    "persist_forgotten_by_purge",
    "purged_by_one_clock",
    "receipt_names_who_did_not_acknowledge",
    "recount_left_out",
    "refusal_not_recorded",
    "repair_replaces_instead_of_merging",
    "replicated_before_the_batch",
    "retry_elsewhere_applied_twice",
    "retry_taken_as_new",
    "rolled_back_store_believed",
    "standing_after_one_exchange_of_two",
    "standing_from_opening_after_a_power_cut",
    "synced_before_the_sync",
    "token_covers_a_sibling_never_shown",
    "tree_left_as_it_was_by_overwrites",
    "vnode_kept_over_a_failed_batch",
    "wiped_voter_votes",
];

#[cfg(quorate_mutants)]
thread_local! {
    /// A simulated run is one thread, and others run beside it.
    static ACTIVE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Keeps a defect active on this thread.
#[cfg(quorate_mutants)]
#[derive(Debug)]
#[must_use = "the defect ends with it"]
pub struct Active(());

/// Activates a defect on this thread, until the guard is dropped.
#[cfg(quorate_mutants)]
pub fn activate(name: &'static str) -> Active {
    assert!(NAMES.contains(&name), "no defect is named {name}");
    assert_eq!(ACTIVE.replace(Some(name)), None, "one defect at a time");
    Active(())
}

#[cfg(quorate_mutants)]
impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.set(None);
    }
}

/// What [`planted!`] asks. Its prefix is where the site itself stands in a program, and no list of
/// names.
#[cfg(quorate_mutants)]
pub fn is_active(site: &'static str) -> bool {
    ACTIVE.get().is_some_and(|name| site.strip_prefix("planted: ") == Some(name))
}

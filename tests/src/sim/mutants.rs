//! The planted defects of `quorate_node::mutants`, and what gives each of them away.
//!
//! The bounds are a few times what it takes today: a change anywhere draws other runs from the same
//! seeds. One that takes ever more seeds has lost what caught it. What seeds come to too rarely is told as
//! a story.

use anyhow::Result;
use memchr::memmem;

use super::profile::Profile;
use super::run::Report;
use super::stories::{self, Story};

/// A planted defect, and the runs that show it.
#[derive(Clone, Copy, Debug)]
pub struct Defect {
    /// Its name.
    pub name: &'static str,
    /// Which runs may be made, one of which shows it.
    pub runs: Runs,
    /// The invariant that is found broken; or what the assert says that fires.
    pub breaks: &'static str,
}

/// Runs among which one is to show a defect.
#[derive(Clone, Copy, Debug)]
pub enum Runs {
    /// Those of a profile, from so many seeds, from 0 on.
    Seeds(Profile, u64),
    /// One: seeds come to it too rarely.
    Told(Story),
}

impl Runs {
    /// How many there are.
    pub fn count(self) -> u64 {
        match self {
            Self::Seeds(_, seeds) => seeds,
            Self::Told(_) => 1,
        }
    }

    /// Makes the one of this number.
    pub fn run(self, number: u64) -> Result<Report> {
        match self {
            Self::Seeds(profile, _) => profile.scenario(number).run(false),
            Self::Told(story) => story(),
        }
    }
}

impl Defect {
    const fn new(name: &'static str, profile: Profile, seeds: u64, breaks: &'static str) -> Self {
        Self { name, runs: Runs::Seeds(profile, seeds), breaks }
    }

    const fn told(name: &'static str, story: Story, breaks: &'static str) -> Self {
        Self { name, runs: Runs::Told(story), breaks }
    }
}

/// All of them, by name.
pub const DEFECTS: &[Defect] = &[
    Defect::told(
        "absence_counted_from_a_fallback",
        stories::the_one_that_knows_is_away,
        "not found",
    ),
    Defect::new("acknowledged_before_the_batch", Profile::EVERYTHING, 40, "I17"),
    Defect::new("actor_kept_over_a_rollback", Profile::EVERYTHING, 20, "was issued twice"),
    Defect::new("answered_before_the_batch", Profile::EVERYTHING, 40, "I17"),
    Defect::new("compact_encoding_arithmetic", Profile::EVERYTHING, 10, "I4"),
    Defect::new("damaged_record_taken_as_absent", Profile::THREE, 40, "I10"),
    Defect::new("delete_without_a_dot", Profile::EVERYTHING, 5, "I1"),
    Defect::new("delivered_hint_forgets_what_came_meanwhile", Profile::SLOPPY, 40, "I19"),
    Defect::new("delivered_hint_replaces_the_newer_object", Profile::SLOPPY, 10, "I17"),
    Defect::new("digest_mismatch_ignored", Profile::SIBLINGS, 5, "I10"),
    Defect::new("dots_counted_per_key", Profile::EVERYTHING, 10, "I4"),
    Defect::told("dots_seen_without_their_object", stories::nobody_owes_what_owners_missed, "I7"),
    Defect::new("earlier_opening_taken_as_new", Profile::EVERYTHING, 40, "I6"),
    Defect::new("expiry_restarted_by_handoff", Profile::SLOPPY, 40, "I15"),
    Defect::told(
        "fallback_actor_kept_after_its_hints_went_home",
        stories::a_fallback_writes_again_what_went_home,
        "I1",
    ),
    Defect::new("frontier_ahead_of_its_batch", Profile::EVERYTHING, 40, "I5"),
    Defect::told("frontier_kept_over_damage", stories::an_owner_forgot_what_it_had_seen, "I7"),
    Defect::new("frontier_takes_versions_prefix", Profile::EVERYTHING, 40, "I5"),
    Defect::new("hint_acknowledged_before_the_batch", Profile::SLOPPY, 40, "I17"),
    Defect::new("hint_deleted_on_a_buffered_ack", Profile::SLOPPY, 10, "I19"),
    Defect::told(
        "lookup_says_not_applied_for_another_node",
        stories::others_are_asked_about_a_write,
        "I2",
    ),
    Defect::told("loss_forgotten_by_a_restart", stories::a_record_is_gone_without_a_trace, "I10"),
    Defect::new("lww_clock_below_what_it_holds", Profile::LWW_EVERYTHING, 20, "does not exceed"),
    Defect::new("lww_clock_below_what_its_client_saw", Profile::LWW_CLOCKS, 200, "I10"),
    Defect::new("lww_picked_after_context_removal", Profile::LWW_CLOCKS, 150, "I3"),
    Defect::new("merge_drops_a_concurrent_sibling", Profile::SIBLINGS, 5, "I1"),
    Defect::told("met_before_the_loss", stories::a_record_is_gone_without_a_trace, "I10"),
    Defect::told(
        "not_found_without_asking_fallbacks",
        stories::a_hint_cannot_go_home_yet,
        "not found",
    ),
    Defect::new("one_ack_too_few", Profile::SIBLINGS, 5, "I17"),
    Defect::new("one_answer_too_few", Profile::SIBLINGS, 5, "I10"),
    Defect::new("own_hint_counts_as_a_second_ack", Profile::SLOPPY, 10, "I17"),
    Defect::told("persist_forgotten_by_purge", stories::what_one_lets_persist_others_keep, "I15"),
    Defect::told("purged_by_one_clock", stories::one_clock_is_an_hour_ahead, "I1"),
    Defect::new("receipt_names_who_did_not_acknowledge", Profile::SIBLINGS, 10, "I17"),
    Defect::told("recount_left_out", stories::an_owner_forgot_what_it_had_seen, "I7"),
    Defect::new("refusal_not_recorded", Profile::EVERYTHING, 60, "I2"),
    Defect::new("repair_replaces_instead_of_merging", Profile::THREE, 20, "I17"),
    Defect::new("replicated_before_the_batch", Profile::SQUEEZED, 40, "I6"),
    Defect::new("retry_elsewhere_applied_twice", Profile::SLOPPY, 40, "I4"),
    Defect::new("retry_taken_as_new", Profile::EVERYTHING, 10, "I4"),
    Defect::told(
        "rolled_back_store_believed",
        stories::a_copy_is_put_in_the_place_of_a_store,
        "I10",
    ),
    Defect::told(
        "standing_after_one_exchange_of_two",
        stories::an_owner_comes_back_from_a_power_cut,
        "I10",
    ),
    Defect::told(
        "standing_from_opening_after_a_power_cut",
        stories::an_owner_comes_back_from_a_power_cut,
        "I10",
    ),
    Defect::new("synced_before_the_sync", Profile::EVERYTHING, 20, "I17"),
    Defect::new("token_covers_a_sibling_never_shown", Profile::SIBLINGS, 5, "I6"),
    Defect::new("tree_left_as_it_was_by_overwrites", Profile::SIBLINGS, 5, "I7"),
    Defect::new("vnode_kept_over_a_failed_batch", Profile::SQUEEZED, 100, "I5"),
    Defect::new("wiped_voter_votes", Profile::VOTERS, 60, "I7"),
];

/// Whether a program holds a text.
pub fn holds(program: &[u8], text: &str) -> bool {
    memmem::find(program, text.as_bytes()).is_some()
}

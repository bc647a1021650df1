//! Making a failing run small: what is left is what it takes to fail.
//!
//! Faults are left out, half of them at first and then ever fewer (delta debugging, Zeller and
//! Hildebrandt, 2002), and the run is cut short and its clients are sent away as long as it fails. A
//! scenario is data and its run repeatable, so nothing else is needed; but whatever is left out
//! changes all that is drawn after it, so that another run may fail, or the same one no more.

use super::faults::Schedule;
use super::run::Scenario;

/// The smallest scenario that was found to fail as `fails` says, in at most so many runs.
pub fn shrink(
    scenario: &Scenario,
    runs_max: usize,
    mut fails: impl FnMut(&Scenario) -> bool,
) -> Scenario {
    let (mut least, mut runs) = (scenario.clone(), 0);
    let mut accept = |least: &mut Scenario, candidate: Scenario| {
        runs += 1;
        let fails = runs <= runs_max && fails(&candidate);
        if fails {
            *least = candidate;
        }
        (fails, runs < runs_max)
    };
    let mut part = least.faults.0.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < least.faults.0.len() {
            let candidate = without(&least, from, part);
            let (fewer, goes_on) = accept(&mut least, candidate);
            if !goes_on {
                return least;
            }
            from += if fewer { 0 } else { part };
        }
        part /= 2;
    }
    while least.length_ms > 1_000 {
        let length_ms = least.length_ms * 3 / 4;
        let shorter = Scenario { length_ms, ..least.clone() };
        if !accept(&mut least, shorter).0 {
            break;
        }
    }
    while least.workload.clients > 1 {
        let mut fewer = least.clone();
        fewer.workload.clients -= 1;
        if !accept(&mut least, fewer).0 {
            break;
        }
    }
    least
}

/// The same without so many of its faults.
fn without(scenario: &Scenario, from: usize, count: usize) -> Scenario {
    let mut faults = scenario.faults.0.clone();
    faults.drain(from..(from + count).min(faults.len()));
    Scenario { faults: Schedule(faults), ..scenario.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::faults::Fault;
    use crate::sim::profile::Profile;

    #[test]
    fn what_is_left_is_what_it_takes() {
        let scenario = Profile::EVERYTHING.scenario(3);
        let kills = |scenario: &Scenario| {
            let kill = |at| scenario.faults.0.iter().any(|f| f.fault == Fault::Kill(at));
            kill(1) && kill(2) && scenario.workload.clients >= 3 && scenario.length_ms > 5_000
        };
        let mut scenario = scenario;
        for at in [1, 2] {
            let fault = Fault::Kill(at);
            scenario.faults.0.push(crate::sim::faults::Planned { at_ms: 9_000, fault });
        }
        let least = shrink(&scenario, 10_000, kills);
        assert_eq!(least.faults.0.len(), 2, "{}", least.faults);
        assert_eq!(least.workload.clients, 3);
        assert!(kills(&least) && least.length_ms < 8_000);
        assert_eq!(shrink(&scenario, 0, kills), scenario);
    }
}

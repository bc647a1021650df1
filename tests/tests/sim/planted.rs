//! Whether the simulator would notice: planted defects, each of which it must.
//!
//! They are compiled into another program than those that users run, by a wrapper around rustc; what
//! that program prints shows here with `--nocapture`.

use quorate_tests::sim::mutants::{DEFECTS, holds};
use quorate_tests::{binaries, cargo};

#[test]
fn sim_every_planted_defect_is_caught() {
    let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mutants.sh");
    let tests = ["--locked", "-p", "quorate-tests", "--test", "mutants", "--", "--nocapture"];
    let ran = cargo("test").args(tests).env("RUSTC_WORKSPACE_WRAPPER", wrapper).output().unwrap();
    let [told, why] = [&ran.stdout, &ran.stderr].map(|text| String::from_utf8_lossy(text));
    println!("{told}");
    assert!(ran.status.success(), "{told}\n{why}");
    for defect in DEFECTS {
        let caught = format!("mutant {}: caught by {}", defect.name, defect.breaks);
        assert!(told.contains(&caught), "it does not say {caught:?}");
    }
}

#[test]
fn sim_the_ordinary_program_holds_no_planted_defect() {
    let program = std::fs::read(&binaries().quorate).unwrap();
    assert!(holds(&program, "quorum"), "the search finds nothing at all");
    assert!(!holds(&program, "planted: "));
    for defect in DEFECTS {
        assert!(!holds(&program, defect.name), "the ordinary program holds {}", defect.name);
    }
}

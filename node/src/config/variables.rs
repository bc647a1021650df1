//! Environment variables that look like ours and are none: a misspelt one would do nothing, silently.

use toml::Table;

use super::layers::ENVIRONMENT_PREFIX;

/// What is read beside the keys of the configuration: the file's place, and what `kv-cli` takes.
const OTHERS: [&str; 6] =
    ["CONFIG", "ENDPOINTS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TLS_SERVER_NAME"];

/// What the tests of this program are steered by. A seed of theirs is a number.
const TESTS: [&str; 4] = ["RUNS", "MUTANT", "HISTORY", "UNICODE_DATA"];
const TESTS_BEGIN: [&str; 2] = ["SIM_", "CRASH_"];

/// How many changed, missing or swapped letters still look like a slip.
const SLIPS_MAX: usize = 3;

/// A line for each variable that nobody reads.
pub(super) fn unknown(environment: &[(String, String)], keys: &Table) -> Vec<String> {
    let keys: Vec<String> = keys.keys().map(|key| key.to_uppercase()).collect();
    let known: Vec<&str> = keys.iter().map(String::as_str).chain(OTHERS).collect();
    let warning = |(name, value): &(String, String)| {
        let rest = name.strip_prefix(ENVIRONMENT_PREFIX)?;
        if known.contains(&rest) || is_of_tests(rest, value) || is_of_kubernetes(rest, value) {
            return None;
        }
        let meant = match nearest(rest, &known) {
            Some(near) => format!("; did you mean {ENVIRONMENT_PREFIX}{near}?"),
            None => String::new(),
        };
        Some(format!("the environment variable {name} is none of ours and does nothing{meant}"))
    };
    environment.iter().filter_map(warning).collect()
}

fn is_of_tests(rest: &str, value: &str) -> bool {
    let seed = rest == "SEED" && value.parse::<u64>().is_ok();
    seed || TESTS.contains(&rest) || TESTS_BEGIN.iter().any(|begin| rest.starts_with(begin))
}

/// Kubernetes tells each container of the services beside it, also of `quorate` or `quorate-clients`:
/// `QUORATE_SERVICE_HOST`, `QUORATE_SERVICE_PORT_GRPC`, `QUORATE_PORT=tcp://..`,
/// `QUORATE_PORT_7501_TCP_ADDR`.
fn is_of_kubernetes(rest: &str, value: &str) -> bool {
    let rest = format!("_{rest}");
    let numbered = |(_, port): (&str, &str)| port.starts_with(|c: char| c.is_ascii_digit());
    rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || (rest.ends_with("_PORT") && value.contains("://"))
        || rest.split_once("_PORT_").is_some_and(numbered)
}

fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let slips = |name: &&str| strsim::damerau_levenshtein(&wrong.to_uppercase(), name);
    let near = known.iter().copied().min_by_key(slips)?;
    (slips(&near) <= SLIPS_MAX.min(wrong.len() / 2)).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn warned(name: &str, value: &str) -> Vec<String> {
        let keys = Table::try_from(Config::default()).unwrap();
        unknown(&[(name.to_owned(), value.to_owned())], &keys)
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_name_that_was_meant() {
        for (name, meant) in [
            ("QUORATE_WIEGHT", "QUORATE_WEIGHT"),
            ("QUORATE_SEED", "QUORATE_SEEDS"),
            ("QUORATE_DATADIR", "QUORATE_DATA_DIR"),
            ("QUORATE_weight", "QUORATE_WEIGHT"),
            ("QUORATE_ENDPOINT", "QUORATE_ENDPOINTS"),
        ] {
            let told = warned(name, "a:7501");
            assert_eq!(told.len(), 1, "{name}");
            assert!(told[0].contains(name), "{told:?}");
            assert!(told[0].ends_with(&format!("did you mean {meant}?")), "{told:?}");
        }
        assert!(warned("QUORATE_HOMEPAGE", "x")[0].ends_with("does nothing"));
    }

    #[test]
    fn what_is_read_by_somebody_is_not() {
        let names =
            ["QUORATE_WEIGHT", "QUORATE_CONFIG", "QUORATE_TLS_CA", "QUORATE_SIM_SEEDS", "HOME"];
        for name in names {
            assert_eq!(warned(name, "1"), [""; 0], "{name}");
        }
        assert_eq!(warned("QUORATE_SEED", "17"), [""; 0]);
    }

    #[test]
    fn what_kubernetes_says_of_services_is_passed_over() {
        for (name, value) in [
            ("QUORATE_SERVICE_HOST", "10.0.0.1"),
            ("QUORATE_SERVICE_PORT", "7501"),
            ("QUORATE_SERVICE_PORT_GRPC", "7501"),
            ("QUORATE_PORT", "tcp://10.0.0.1:7501"),
            ("QUORATE_PORT_7501_TCP", "tcp://10.0.0.1:7501"),
            ("QUORATE_PORT_7501_TCP_ADDR", "10.0.0.1"),
            ("QUORATE_CLIENTS_SERVICE_HOST", "10.0.0.1"),
        ] {
            assert_eq!(warned(name, value), [""; 0], "{name}");
        }
        for name in ["QUORATE_PORT", "QUORATE_PORT_GRPC", "QUORATE_SERVICE"] {
            assert_eq!(warned(name, "7501").len(), 1, "{name}");
        }
    }

    #[test]
    fn every_variable_of_the_other_tool_is_known() {
        let arguments = include_str!("../../../client/src/bin/kv-cli/args.rs");
        let named = arguments.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next());
        let named: Vec<&str> = named.collect();
        assert!(named.len() > 3, "{named:?}");
        for name in named {
            assert_eq!(warned(name, "x"), [""; 0], "{name}");
        }
    }
}

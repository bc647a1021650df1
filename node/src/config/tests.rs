use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use toml::Table;

use super::*;

const DEPLOYED: &str = include_str!("../../../deploy/node.toml");

/// Sources with a file of this text in a directory of its own, which lives as long as the guard.
fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    (directory, Sources { file: Some(path), ..Sources::default() })
}

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
    Sources { environment, ..Sources::default() }
}

fn error(sources: Sources) -> String {
    sources.load().unwrap_err().to_string()
}

fn set(key: &str, value: impl Into<toml::Value>) -> String {
    let flags = Table::from_iter([(key.to_owned(), value.into())]);
    match (Sources { flags, ..Sources::default() }).load() {
        Ok(_) => "fine".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_deployed_file_lists_every_key_with_its_default() {
    let deployed: Config = toml::from_str(DEPLOYED).unwrap();
    assert_eq!(deployed, Config::default());
    let keys = |table: Table| table.into_iter().map(|(key, _)| key).collect::<BTreeSet<_>>();
    let known = keys(Table::try_from(Config::default()).unwrap());
    assert_eq!(keys(toml::from_str(DEPLOYED).unwrap()), known);
}

#[test]
fn the_deployed_file_comments_every_key() {
    let blocks = DEPLOYED.split("\n\n").filter(|block| block.contains(" = "));
    for block in blocks.filter(|block| !block.starts_with("# A node")) {
        assert!(block.trim_start().starts_with("# "), "without a comment:\n{block}");
    }
}

#[test]
fn the_defaults_are_valid() {
    let effective = Sources::default().load().unwrap();
    assert_eq!(effective.config, Config::default());
    assert_eq!(effective.origin("weight"), &Origin::Default);
    assert!((1..=64).contains(&effective.config.shard_count()));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_guard, mut sources) = file("weight = 2\nshards = 2\nzone = 'a'\nseeds = ['h:1']");
    sources.environment = [("QUORATE_WEIGHT", "3"), ("QUORATE_SHARDS", "3"), ("QUORATE_X", "?")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    sources.flags = Table::from_iter([("weight".to_owned(), 4.into())]);
    let effective = sources.load().unwrap();
    let Config { weight, shards, zone, .. } = &effective.config;
    assert_eq!((*weight, *shards, zone.as_str()), (4, 3, "a"));
    assert_eq!(effective.origin("weight").to_string(), "flag --weight");
    assert_eq!(effective.origin("shards").to_string(), "environment variable QUORATE_SHARDS");
    assert!(effective.origin("zone").to_string().ends_with("/node.toml"));
    assert!(effective.to_string().contains("# flag --weight\n"), "{effective}");
    assert!(effective.one_line().contains("zone=\"a\" weight=4 "), "{}", effective.one_line());
}

#[test]
fn what_is_shown_is_a_file_that_gives_the_same() {
    let sources = environment(&[("QUORATE_SEEDS", "a:1, b:2"), ("QUORATE_LOG_FORMAT", "json")]);
    let effective = sources.load().unwrap();
    assert_eq!(effective.config.seeds, ["a:1", "b:2"]);
    let shown = Config::deserialize(toml::from_str::<Table>(&effective.to_string()).unwrap());
    assert_eq!(shown.unwrap(), effective.config);
}

#[test]
fn a_relative_data_directory_begins_where_it_was_written() {
    for text in ["", "data_dir = 'data'"] {
        let (guard, sources) = file(text);
        assert_eq!(sources.load().unwrap().config.data_dir, guard.path().join("data"));
    }
    let (_guard, mut sources) = file("data_dir = 'data'");
    sources.environment = vec![("QUORATE_DATA_DIR".to_owned(), "here".to_owned())];
    assert_eq!(sources.load().unwrap().config.data_dir, Path::new("here"));
}

#[test]
fn an_error_in_the_file_names_file_line_key_and_reason() {
    let (_guard, sources) = file("zone = 'a'\nwieght = 3\n");
    let text = error(sources);
    for part in ["node.toml is malformed", "line 2", "unknown field `wieght`", "`weight`"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let (_guard, sources) = file("weight = 'heavy'");
    let text = error(sources);
    for part in ["line 1, column 10", "weight = 'heavy'", "invalid type: string", "u32"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    let (_guard, sources) = file("engine = 'rocks'");
    let text = error(sources);
    assert!(
        text.contains("unknown variant `rocks`, expected one of `fjall`, `sled`, `memory`"),
        "{text}"
    );
    let (_guard, sources) = file("weight = ");
    assert!(error(sources).contains("line 1, column 10"));
    let (_guard, sources) = file("weight = 0");
    let text = error(sources);
    assert!(text.contains("weight = 0 (/") && text.contains("node.toml): must be in 1..=100"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let sources = Sources { file: Some("/nowhere/node.toml".into()), ..Sources::default() };
    let text = error(sources);
    let reason = "cannot read the configuration file /nowhere/node.toml: No such file";
    assert!(text.starts_with(reason), "{text}");
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    assert_eq!(
        error(environment(&[("QUORATE_WEIGHT", "heavy")])),
        "invalid configuration: weight = \"heavy\" (environment variable QUORATE_WEIGHT): \
         must be a whole number"
    );
    let text = error(environment(&[("QUORATE_ENGINE", "rocks")]));
    assert!(text.contains("engine = \"rocks\" (environment variable QUORATE_ENGINE): unknown"));
    let text = error(environment(&[("QUORATE_WEIGHT", "-1")]));
    assert!(text.contains("weight = -1 (environment variable QUORATE_WEIGHT): invalid value"));
    let text = error(environment(&[("QUORATE_SHARDS", "x"), ("QUORATE_ZONE", "")]));
    assert!(text.starts_with("invalid configuration: 2 values\n  shards = \"x\""), "{text}");
}

#[test]
fn sizes_may_have_units_wherever_they_are_written() {
    let (_guard, sources) = file("cache_bytes = '32MiB'\nmessage_max_bytes = \"1MiB\"");
    let config = sources.load().unwrap().config;
    assert_eq!((config.cache_bytes, config.message_max_bytes), (32 << 20, 1 << 20));
    let config = environment(&[("QUORATE_MEMORY_MAX_BYTES", "2GiB")]).load().unwrap().config;
    assert_eq!(config.memory_max_bytes, 2 << 30);

    let text = error(environment(&[("QUORATE_CACHE_BYTES", "64MB8")]));
    assert!(text.contains("QUORATE_CACHE_BYTES): '64MB8' is no size; write for example"), "{text}");
    let (_guard, sources) = file("cache_bytes = 'much'");
    let text = error(sources);
    assert!(text.contains("line 1") && text.contains("'much' is no size"), "{text}");
    let (_guard, sources) = file("message_max_bytes = '5GiB'");
    assert!(error(sources).contains("bytes are too many"));
    let (_guard, sources) = file("cache_bytes = true");
    assert!(error(sources).contains("a number of bytes, or a size such as"));
}

#[test]
fn a_misspelt_variable_is_told_with_a_configuration_and_with_what_is_wrong_in_one() {
    let effective = environment(&[("QUORATE_WIEGHT", "3")]).load().unwrap();
    let told = "QUORATE_WIEGHT is none of ours and does nothing; did you mean QUORATE_WEIGHT?";
    assert!(effective.warnings().iter().any(|warning| warning.ends_with(told)));
    let text = error(environment(&[("QUORATE_WIEGHT", "3"), ("QUORATE_SHARDS", "x")]));
    assert!(text.contains("shards = \"x\"") && text.ends_with(told), "{text}");
}

#[test]
fn every_key_has_its_limits() {
    let far = "must be in ";
    for (key, value, reason) in [
        ("weight", 101, "must be in 1..=100"),
        ("cache_bytes", 1000, "must be in 1048576..=1099511627776"),
        ("disk_reserve_bytes", i64::MAX, "must be in 0..=1125899906842624"),
        ("shards", 65, "must be in 0..=64"),
        ("shard_queue", 0, far),
        ("sync_interval_ms", 101, "must be in 1..=100"),
        ("trees_interval_ms", 999, "must be in 1000..=86400000"),
        ("clock_skew_max_ms", 0, "must be in 1..=60000"),
        ("request_timeout_ms", 0, far),
        ("requests_max", 0, far),
        ("request_timeout_max_ms", 3_600_001, far),
        ("request_timeout_max_ms", 4000, "must be at least request_timeout_ms = 5000"),
        ("connections_max", 0, far),
        ("streams_max", 0, far),
        ("memory_max_bytes", 1000, "must be 0 or at least 268435456: cache_bytes, "),
        ("message_max_bytes", 1000, far),
    ] {
        let text = set(key, value);
        assert!(text.contains(&format!("{key} = {value} (flag --")), "{text}");
        assert!(text.contains(reason), "{text}");
    }
    for (key, value, reason) in [
        ("node_name", "", "must be 1 to 64 letters"),
        ("zone", "a b", "must be 1 to 64 letters"),
        ("data_dir", "", "must name a directory"),
        ("log_level", "info,=x=", "give error, warn, info, debug, trace or off"),
        ("log_level", "loud", "\"loud\" is no level; give error, warn, info, debug, trace or off"),
        ("log_format", "xml", "unknown variant `xml`, expected `text` or `json`"),
        ("client_address", "localhost", "must be HOST:PORT"),
        ("peer_address", ":7000", "must be HOST:PORT"),
        ("http_address", "a:70000", "with a port in 0..=65535"),
        ("http_address", "127.0.0.1:7401", "is client_address too"),
        ("client_advertise", "a:0", "must have a port other than 0"),
        ("peer_advertise", "0.0.0.0:7501", "names every interface"),
        ("peer_address", "0.0.0.0:7501", "must be set to HOST:PORT, since peer_address"),
        ("client_address", "[::]:7401", "must be set to HOST:PORT, since client_address"),
    ] {
        let text = set(key, value);
        assert!(text.contains(reason), "{key} = {value}: {text}");
    }
    let seeds = set("seeds", vec!["a:1", "b"]);
    assert!(seeds.contains("\"b\" must be HOST:PORT, such as 127.0.0.1:7501 or"), "{seeds}");
    let listen = set("client_address", "localhost");
    assert!(listen.contains("such as 127.0.0.1:7401 or"), "{listen}");
}

#[test]
fn addresses_may_be_names_or_numbers_and_ports_may_be_0_where_one_listens() {
    for good in ["localhost:0", "node-1.example.org:7401", "[::1]:7401", "10.0.0.1:65535"] {
        assert_eq!(set("client_address", good), "fine", "{good}");
    }
    for bad in ["http://a:1", "a:b:1", "[a]:1", "::1:1", "a,b:1", "a@b:1", "a:-1"] {
        assert_ne!(set("client_address", bad), "fine", "{bad}");
    }
}

#[test]
fn half_of_a_tls_is_refused_with_what_is_missing() {
    let refused = |pairs: &[(&str, &str)]| {
        let flags = pairs.iter().map(|&(key, value)| (key.to_owned(), value.into()));
        match (Sources { flags: flags.collect(), ..Sources::default() }).load() {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    let (cert, key, ca) = ("client_tls_cert", "client_tls_key", "client_tls_ca");
    assert!(refused(&[(cert, "a")]).contains("client_tls_key = \"\" (default): must name a PEM"));
    assert!(refused(&[(key, "a")]).contains("client_tls_cert = \"\" (default): must name"));
    let lone = refused(&[(ca, "a")]);
    assert!(lone.contains("since client_tls_ca is set") && lone.contains("2 values"), "{lone}");
    assert_eq!(refused(&[(cert, "a"), (key, "b")]), "fine");
    assert_eq!(refused(&[(cert, "a"), (key, "b"), (ca, "c")]), "fine");

    let (cert, key, ca) = ("peer_tls_cert", "peer_tls_key", "peer_tls_ca");
    let lone = refused(&[(cert, "a"), (key, "b")]);
    assert!(lone.contains("peer_tls_ca = \"\" (default): must name a PEM file, since"), "{lone}");
    assert!(refused(&[(ca, "a")]).contains("since peer_tls_ca is set"));
    assert_eq!(refused(&[(cert, "a"), (key, "b"), (ca, "c")]), "fine");
}

#[test]
fn paths_of_certificates_begin_where_they_were_written() {
    let (guard, mut sources) = file("client_tls_cert = 'a.pem'\nclient_tls_key = '/b.key'");
    sources.environment = vec![("QUORATE_CLIENT_TLS_CA".to_owned(), "ca.pem".to_owned())];
    let config = sources.load().unwrap().config;
    assert_eq!(config.client_tls_cert, guard.path().join("a.pem"));
    assert_eq!(config.client_tls_key, Path::new("/b.key"));
    assert_eq!(config.client_tls_ca, Path::new("ca.pem"));
    assert_eq!(config.peer_tls_ca, Path::new(""), "what is not set stays so");
}

#[test]
fn ports_that_others_reach_without_tls_are_warned_of() {
    let exposed = |address: &str, certificate: &str| {
        let (client_address, client_tls_cert) = (address.to_owned(), certificate.into());
        Config { client_address, client_tls_cert, ..Config::default() }.warnings()
    };
    for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
        assert!(exposed(address, "").is_empty(), "{address}");
    }
    for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "node-1:1"] {
        let warnings = exposed(address, "");
        assert!(warnings[0].starts_with(&format!("client_address = \"{address}\"")), "{address}");
        assert!(exposed(address, "a.pem").is_empty(), "{address} has TLS");
    }
}

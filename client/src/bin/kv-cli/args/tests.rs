use std::time::Duration;

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(line.split(' '))
}

fn refusal(line: &str) -> String {
    let error = parse(line).expect_err(line);
    assert_eq!(error.exit_code(), 2, "{line}");
    error.to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn every_line_of_the_contract_parses() {
    let lines = [
        "kv-cli --endpoints a:1,b:2 --output json --timeout 5s put ns k v -w all \
         --durability synced --context AAAA",
        "kv-cli put ns k - -w 2",
        "kv-cli get ns k -r one",
        "kv-cli get ns k --r one",
        "kv-cli put ns k v --w one",
        "kv-cli namespace create ns -n 3 -r quorum -w 1 --value-max-bytes 64KiB",
        "kv-cli shell",
        "kv-cli shell ns --keep-going",
        "kv-cli completions bash",
        "kv-cli --color never count ns",
        "kv-cli get ns k --replica node-1",
        "kv-cli delete ns k -w quorum",
        "kv-cli scan ns --prefix p --limit 3",
        "kv-cli scan ns -r one",
        "kv-cli count ns",
        "kv-cli count ns -r 2",
        "kv-cli namespace create ns --n 3 --r quorum --w 1 --conflict siblings",
        "kv-cli namespace create ns --strict",
        "kv-cli namespace create ns --sloppy",
        "kv-cli namespace update ns --strict",
        "kv-cli namespace update ns -r 1 -w all --durability synced --value-max-bytes 2MiB --sloppy",
        "kv-cli put ns k v --sloppy",
        "kv-cli put ns k v --strict -w 2",
        "kv-cli get ns k l --strict",
        "kv-cli delete ns k --sloppy",
        "kv-cli import ns f --format lines --strict",
        "kv-cli bench ns --workload read --sloppy",
        "kv-cli namespace list",
        "kv-cli namespace describe ns",
        "kv-cli namespace drop ns",
        "kv-cli import ns f --format csv --delimiter ; --key-column 0",
        "kv-cli import ns f --format jsonl",
        "kv-cli import ns f --format lines --state s",
        "kv-cli import ns f --format lines",
        "kv-cli export ns --format csv",
        "kv-cli export ns --format csv --delimiter : --key-column 1",
        "kv-cli export ns f --format jsonl --siblings all",
        "kv-cli bench ns --workload mixed --keys 9 --value-size 8 --concurrency 7 --duration 12s \
         --rate 5 --zipf --prepare --blind",
        "kv-cli cluster status",
        "kv-cli cluster ring",
        "kv-cli cluster ring k --namespace ns",
        "kv-cli hints",
        "kv-cli hints --target node-1",
        "kv-cli hints await --target node-1 --timeout 1m",
    ];
    for line in lines {
        let words = line.split_whitespace();
        assert!(Args::try_parse_from(words).is_ok(), "{line}");
    }
}

#[test]
fn global_options_stand_anywhere() {
    for line in ["kv-cli --timeout 2s count ns", "kv-cli count ns --timeout 2s"] {
        assert_eq!(parse(line).unwrap().global.timeout, Some(Duration::from_secs(2)));
    }
    let args = parse("kv-cli cluster status --endpoints a:1,b:2").unwrap();
    assert_eq!(args.global.endpoints, ["a:1", "b:2"]);
}

#[test]
fn values_may_begin_with_a_hyphen_and_so_may_keys_that_are_said_to_be_none_of_the_flags() {
    let args = parse("kv-cli put ns k -1 -w 2").unwrap();
    let TopCommand::One(Command::Put(put)) = args.command else { panic!("{args:?}") };
    assert_eq!((put.key.to_str(), put.value.to_str()), (Some("k"), Some("-1")));
    assert!(put.w.is_some());
    let args = parse("kv-cli put ns -w 2 -- -k -1").unwrap();
    let TopCommand::One(Command::Put(put)) = args.command else { panic!("{args:?}") };
    assert_eq!((put.key.to_str(), put.value.to_str()), (Some("-k"), Some("-1")));
    for line in ["put ns --force 5", "get ns --force", "delete ns --force", "cluster ring --force"]
    {
        assert!(refusal(&format!("kv-cli {line}")).contains("unexpected argument"), "{line}");
    }
}

#[test]
fn wrong_values_are_named() {
    assert!(refusal("kv-cli bench ns --workload read --keys 0").contains("--keys"));
    assert!(refusal("kv-cli bench ns --workload read --concurrency 0").contains("--concurrency"));
    assert!(refusal("kv-cli bench ns --workload read --rate 0").contains("--rate"));
    assert!(refusal("kv-cli count ns --timeout 5").contains("write for example"));
    assert!(refusal("kv-cli count ns --endpoints localhost").contains("HOST:PORT"));
    assert!(refusal("kv-cli import ns f --format csv --delimiter ab").contains("--delimiter"));
    assert!(refusal("kv-cli get ns k -r 0").contains('0'));
    assert!(refusal("kv-cli get ns k -r all --replica node-1").contains("--replica"));
    assert!(refusal("kv-cli put ns k v --context !!").contains("--context"));
    refusal("kv-cli frobnicate");
}

#[test]
fn a_time_to_live_has_a_unit_and_bounds() {
    let ttl = |text: &str| match parse(&format!("kv-cli put ns k v --ttl {text}"))?.command {
        TopCommand::One(Command::Put(put)) => Ok(put.ttl.unwrap()),
        other => panic!("{other:?}"),
    };
    let after = |ms| Ttl::After(Duration::from_millis(ms));
    let day_ms = 86_400_000;
    for (text, expected) in [
        ("1ms", after(1)),
        ("500ms", after(500)),
        ("10s", after(10_000)),
        ("5m", after(300_000)),
        ("12h", after(day_ms / 2)),
        ("1d", after(day_ms)),
        ("3650d", after(3650 * day_ms)),
        ("never", Ttl::Never),
    ] {
        assert_eq!(ttl(text).unwrap(), expected, "{text}");
    }
    let wrong = |text: &str| ttl(text).map_err(|error: clap::Error| error.to_string()).unwrap_err();
    for text in ["0s", "-1s", "3651d", "99999999999999999999999s"] {
        assert!(wrong(text).contains("out of range"), "{text}");
    }
    for text in ["5", "s", "-", "1.5h", "5y", "soon"] {
        assert!(wrong(text).contains("no time to live"), "{text}");
    }
}

#[test]
fn a_quorum_is_strict_or_sloppy_and_not_both() {
    let lines = [
        "namespace create ns",
        "namespace update ns",
        "put ns k v",
        "get ns k",
        "delete ns k",
        "import ns f --format lines",
        "bench ns --workload read",
    ];
    for line in lines {
        let refused = refusal(&format!("kv-cli {line} --sloppy --strict"));
        assert!(refused.contains("'--sloppy' cannot be used with '--strict'"), "{refused}");
        let refused = refusal(&format!("kv-cli {line} --slopy"));
        assert!(refused.contains("similar argument exists: '--sloppy'"), "{refused}");
    }
    for flag in ["--sloppy", "--strict"] {
        assert!(refusal(&format!("kv-cli get ns k --replica n {flag}")).contains(flag));
    }
    assert_eq!(QuorumArgs::default().quorum(), Quorum::Default);
}

#[test]
fn an_update_changes_something_and_neither_n_nor_the_rule() {
    assert!(refusal("kv-cli namespace update ns").contains("required"));
    for line in ["--n 3", "--conflict lww"] {
        let refused = refusal(&format!("kv-cli namespace update ns --strict {line}"));
        assert!(refused.contains("unexpected argument"), "{refused}");
    }
    assert!(refusal("kv-cli namespace update ns -w 0").contains('0'));
    assert!(refusal("kv-cli namespace update ns --value-max-bytes 0").contains("out of range"));
}

#[test]
fn durations_need_a_unit_and_a_sane_size() {
    assert_eq!(parse::duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse::duration("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(parse::duration("2m"), Ok(Duration::from_secs(120)));
    for bad in ["", "5", "s", "-1s", "0s", "NaNs", "infs", "1e9h", "5 s", "5sec", "25h"] {
        assert!(parse::duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_may_have_units() {
    let size = parse::bytes(1..=1 << 30);
    let cases = [
        ("1", 1),
        ("1000", 1000),
        ("64k", 64 << 10),
        ("64KiB", 64 << 10),
        ("1M", 1 << 20),
        ("1MiB", 1 << 20),
        ("1GiB", 1 << 30),
        ("2kB", 2000),
        ("3MB", 3_000_000),
    ];
    for (text, bytes) in cases {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for bad in ["", "k", "-1", "1.5M", "1 k", "1TiB", "0", "2GiB", "99999999999999999999", "9e9G"] {
        assert!(size(bad).is_err(), "{bad}");
    }
}

#[test]
fn delimiters_are_one_character() {
    assert_eq!(parse::delimiter(";"), Ok(b';'));
    assert_eq!(parse::delimiter("\\t"), Ok(b'\t'));
    for bad in ["", "\"", "\n", "ab", "é"] {
        assert!(parse::delimiter(bad).is_err(), "{bad}");
    }
}

#[test]
fn endpoints_are_host_and_port() {
    for good in ["127.0.0.1:7401", "localhost:1", "[::1]:7401"] {
        assert!(parse::endpoint(good).is_ok(), "{good}");
    }
    for bad in ["", ":1", "host", "host:", "host:0", "host:99999", "http://host:1"] {
        assert!(parse::endpoint(bad).is_err(), "{bad}");
    }
}

#[test]
fn usage_does_not_show_what_the_environment_gives() {
    // A variable that is always set.
    let command = Args::command().mut_arg("request_id", |arg| arg.env("PATH"));
    let words = ["kv-cli", "put", "ns"].map(OsString::from);
    let error = command.clone().try_get_matches_from(&words).unwrap_err();
    assert!(error.to_string().contains("Usage: kv-cli put --request-id <ID>"), "{error}");
    let error = plain(command, &words, error).to_string();
    assert!(error.contains("Usage: kv-cli put <NS> <KEY> <VALUE|->"), "{error}");
}

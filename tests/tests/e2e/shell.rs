//! `kv-cli shell` as a script, completions, and what scripts read on stderr.

use quorate_tests::{Cli, Cluster, PortBlock, Ran};
use serde_json::{Value, json};

fn script(cli: &Cli, arguments: &str, lines: &str) -> Ran {
    cli.run_with(arguments.split(' '), lines.as_bytes())
}

/// The error on stderr, which is all that is there.
#[track_caller]
fn error(ran: &Ran) -> Value {
    match ran.said().as_slice() {
        [only] => only["error"].clone(),
        several => panic!("{}: {several:?}", ran.line),
    }
}

#[test]
fn a_shell_runs_lines_and_scripts_read_its_errors() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    lines_of_a_script(&cli);
    ends_of_a_script(&cli);
    errors_as_json(&cli);
    notices_as_json(&cli);
    near_names(&cli);
    full_disks(&cli);
}

fn lines_of_a_script(cli: &Cli) {
    let ran = script(
        cli,
        "shell",
        "namespace create users\n\
         # a comment, then an empty line\n\n\
         put users 'two words' \"a\nb\"\n\
         use users\n\
         put $'\\xff' $'\\x00x'\n\
         get 'two words'\n\
         get $'\\xff' --output json\n\
         use\n\
         count users\n\
         exit\n\
         nonsense after the end\n",
    )
    .ok();
    let text = ran.text();
    let tail: Vec<&str> = text.lines().rev().take(4).collect();
    let (count, object, second, first) = (tail[0], tail[1], tail[2], tail[3]);
    assert_eq!((first, second, count), ("a", "b", "2"), "{text}");
    let object: Value = serde_json::from_str(object).expect("--output json of one line");
    assert_eq!(object["siblings"][0]["value_base64"], "AHg=");
    assert_eq!(ran.stderr, "");
    assert_eq!(script(cli, "shell users", "get 'two words'\n").ok().text(), "a\nb\n");
    assert_eq!(script(cli, "shell users", "count --namespace users\n").ok().text(), "2\n");
}

fn ends_of_a_script(cli: &Cli) {
    let lines = "put kept 1\nget missing\nput not-reached 1\n";
    let ran = script(cli, "shell users", lines).exits(1);
    assert!(ran.stderr.contains("not found: namespace users has no key 'missing'"), "{ran:?}");
    assert!(ran.stderr.contains("line 2"), "{ran:?}");
    cli.line("get users kept").ok();
    cli.line("get users not-reached").exits(1);

    let going = script(cli, "shell users --keep-going", "frobnicate\nget missing\nput reached 1\n");
    assert!(going.exits(2).stderr.contains("frobnicate"));
    cli.line("get users reached").ok();

    script(cli, "shell", "get users 'open\n")
        .fails_with(&["a single quote in line 1", "never ends"]);
    let lines = "get missing\nput reached 2\nget 'open\nput not-reached 1\n";
    let open = script(cli, "shell users --keep-going", lines).exits(1).stderr;
    assert!(open.contains("line 3 of the script never ends"), "{open}");
    assert!(open.contains("nothing was run from its line 3 on"), "{open}");
    script(cli, "shell", "put users k -\n").fails_with(&["the shell reads stdin itself"]);
    script(cli, "shell", "use user\n").fails_with(&["there is no namespace user", "users?"]);
    script(cli, "shell user", "").fails_with(&["did you mean users?"]);
    script(cli, "shell", "count users --timeout 3s\n").ok();
    let nowhere = PortBlock::reserve(1);
    let down = Cli::new(&[format!("127.0.0.1:{}", nowhere.client(1))]);
    script(&down, "shell --timeout 1s", "count users\n").fails_with(&["no endpoint answered"]);
}

fn errors_as_json(cli: &Cli) {
    let ask = |line: &str| cli.run(["--output", "json"].into_iter().chain(line.split(' ')));
    for line in ["frobnicate", "put users", "bench users --workload nothing"] {
        let error = error(&ask(line).exits(2));
        assert_eq!(error["kind"], "usage", "{error}");
    }
    let missing = ask("get users missing").exits(1);
    assert_eq!(error(&missing)["kind"], "not_found");
    assert_eq!(missing.json()["siblings"], json!([]));
    for line in ["namespace describe nowhere", "namespace drop nowhere", "delete users missing"] {
        assert_eq!(error(&ask(line).exits(1))["kind"], "not_found", "{line}");
    }
    for line in [
        "put nowhere k v",
        "get nowhere k",
        "scan nowhere",
        "count nowhere",
        "export nowhere --format csv",
        "bench nowhere --workload read",
        "import nowhere /dev/null --format csv",
    ] {
        let error = error(&ask(line).exits(2));
        assert_eq!(error["kind"], "not_found", "{line}");
        assert!(error["message"].as_str().is_some_and(|m| m.contains("users")), "{error}");
    }
    let refused = error(&ask("put users k v -w 4").exits(2));
    assert_eq!((&refused["kind"], &refused["outcome"]), (&json!("invalid"), &json!("not_applied")));
    assert!(refused["node"].is_string(), "{refused}");
    assert_eq!(error(&ask("import users /no/such --format csv").exits(2))["kind"], "io");
    assert_eq!(error(&ask("namespace create users").exits(2))["kind"], "conflict");
}

fn notices_as_json(cli: &Cli) {
    cli.line("namespace create rows").ok();
    let lines = b"k\tone\nno tab\nk\ttwo\n";
    let import = "--output json import rows - --format lines";
    let ran = cli.run_with(import.split(' '), lines).exits(2);
    let said = ran.said();
    assert_eq!(said[0]["failed"]["line"], 2, "{said:?}");
    assert_eq!(said[1]["duplicate"]["first_line"], 1, "{said:?}");
    assert_eq!(said.last().map(|last| &last["error"]["kind"]), Some(&json!("incomplete")));
    let exported = cli.run("--output json export rows --format lines".split(' ')).ok();
    assert_eq!(exported.text(), "k\ttwo\n");
    let summary: Value = serde_json::from_str(exported.stderr.trim()).expect("a summary");
    assert_eq!(summary["rows"], 1);
}

fn full_disks(cli: &Cli) {
    let full = std::path::Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let mut scan = cli.command(["scan", "users"]);
    let device = std::fs::OpenOptions::new().write(true).open(full).expect("anyone may");
    let child = scan.stdout(device).stderr(std::process::Stdio::piped()).spawn().expect("built");
    let output = child.wait_with_output().expect("a child can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot write to stdout: No space left"), "{stderr}");
    let ran = cli.line("export users /dev/full --format jsonl");
    ran.fails_with(&["cannot write /dev/full: No space left"]);
}

fn near_names(cli: &Cli) {
    for line in ["get user k", "put usres k v", "count user", "namespace describe userz"] {
        let ran = cli.line(line);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("did you mean users?"), "{line}: {}", ran.stderr);
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let cli = Cli::new(&["127.0.0.1:1".to_owned()]);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = cli.line(&format!("completions {shell}")).ok().text();
        assert!(script.contains("kv-cli") && script.contains("namespace"), "{shell}");
    }
    // A shell that is there takes its own without complaint.
    let bash = cli.line("completions bash").ok().text();
    let mut check = std::process::Command::new("bash");
    check.arg("-n");
    if std::process::Command::new("bash").arg("--version").output().is_ok() {
        Ran::of(check, Some(bash.as_bytes())).ok();
        for (words, expected) in [
            ("kv-cli namesp", "namespace"),
            ("kv-cli namespace cr", "create"),
            ("kv-cli get users k --re", "--replica"),
            ("kv-cli cluster st", "status"),
        ] {
            assert!(completed(&bash, words).contains(expected), "{words}");
        }
    }
}

/// What bash offers for the last of the words.
fn completed(script: &str, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let [.., before, last] = words[..] else { panic!("a program and a word") };
    let asked = format!(
        "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_kv-cli kv-cli {last} {before}\n\
         echo \"${{COMPREPLY[@]}}\"\n",
        words.join(" "),
        words.len() - 1
    );
    Ran::of(std::process::Command::new("bash"), Some(asked.as_bytes())).ok().text()
}

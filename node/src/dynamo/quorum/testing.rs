//! What the transcripts of reads and writes share: a folder of scripts, and how things print.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use goldenscript::{ArgumentConsumer, Runner};

use super::{Cause, Failure, Tally, Verdict};
use crate::dynamo::key::NodeId;

/// Runs every script of `node/src/dynamo/{folder}`, each with a new runner. At least `least` must
/// be there, so that a moved folder does not pass unseen.
pub(crate) fn run_scripts<R: Runner>(folder: &str, least: usize, new: impl Fn() -> R) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dynamo").join(folder);
    let mut scripts: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= least, "only {} scripts", scripts.len());
    for script in scripts {
        goldenscript::run(&mut new(), &script)
            .unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    }
}

/// The rest of the positional arguments, as nodes.
pub(crate) fn nodes(args: &mut ArgumentConsumer<'_>) -> Result<Vec<NodeId>, Box<dyn Error>> {
    std::iter::from_fn(|| args.next_pos()).map(|node| Ok(NodeId(node.parse()?))).collect()
}

/// The next positional argument, as whatever is wanted.
pub(crate) fn next<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer<'_>,
) -> Result<T, Box<dyn Error>> {
    Ok(args.next_pos().ok_or("an argument is missing")?.parse()?)
}

pub(crate) fn cause(name: &str) -> Result<Cause, Box<dyn Error>> {
    match name {
        "timeout" => Ok(Cause::Timeout),
        "disconnected" => Ok(Cause::Disconnected),
        "overloaded" => Ok(Cause::Overloaded),
        "refused" => Ok(Cause::Refused),
        "storage" => Ok(Cause::Storage),
        "late" => Ok(Cause::Late),
        "away" => Ok(Cause::Away),
        _ => Err(format!("{name} is no cause").into()),
    }
}

/// `reached 2/2`; `unreachable 1/2, since 3 timed out`.
pub(crate) fn show(verdict: Verdict, tally: Tally, failures: &[Failure]) -> String {
    let counts = format!("{}/{}", tally.acks(), tally.needed());
    let causes: Vec<_> = failures.iter().map(|f| format!("{} {}", f.node.0, f.cause)).collect();
    match verdict {
        Verdict::Pending => format!("pending {counts}"),
        Verdict::Reached => format!("reached {counts}"),
        Verdict::Unreachable if causes.is_empty() => format!("unreachable {counts}"),
        Verdict::Unreachable => format!("unreachable {counts}, since {}", causes.join(", ")),
    }
}

/// `1 2 3`, or `nobody`.
pub(crate) fn show_nodes(nodes: &[NodeId]) -> String {
    let names: Vec<_> = nodes.iter().map(|node| node.0.to_string()).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(" ") }
}

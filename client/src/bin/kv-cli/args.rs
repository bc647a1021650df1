//! The command line: the contract that scripts rely on, and the help that explains it.

mod hints;
pub(crate) mod parse;
#[cfg(test)]
mod tests;
mod ttl;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{ArgGroup, ColorChoice, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use quorate_client::{Context, Durability, Level, OperationId, Quorum, TlsConfig, Ttl};

pub(crate) use self::hints::{HintsArgs, HintsCommand};
pub(crate) use self::ttl::{ExpireArgs, ExpiryArgs, PersistArgs, TtlArgs};
use crate::output::OutputFormat;

const LEVELS: &str = "LEVEL is one, quorum, all, or a number of replicas from 1 to the \
namespace's n.\nExit codes: 0 found or done, 1 not found, 2 an error with its reason on stderr, \
130 Ctrl-C.";

const EXAMPLES: &str = "Examples:
  kv-cli namespace create users
  kv-cli put users alice 'hello'
  kv-cli get users alice
  kv-cli --output json get users alice -r all
  kv-cli import users rows.csv --format csv --delimiter ';'
  kv-cli cluster status

LEVEL is one, quorum, all, or a number of replicas from 1 to the namespace's n.
Exit codes: 0 found or done, 1 not found, 2 an error with its reason on stderr, 130 Ctrl-C.";

/// Quorate from a shell: read and write keys, move files in and out, look at the cluster.
#[derive(Parser, Debug)]
#[command(name = "kv-cli", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: TopCommand,
}

impl Args {
    /// The command line of these words, the program's name first.
    pub(crate) fn of(words: &[OsString]) -> Result<Self, clap::Error> {
        Self::try_parse_from(words).map_err(|error| plain(Self::command(), words, error))
    }
}

/// The error as it were without the environment, whose options usage lines show as if they had to be
/// written.
fn plain(mut command: clap::Command, words: &[OsString], error: clap::Error) -> clap::Error {
    // Help does name the environment.
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || !error.use_stderr() {
        return error;
    }
    command = command.mut_args(|arg| arg.env(Resettable::Reset));
    match command.try_get_matches_from(words) {
        Err(plain) if plain.kind() == error.kind() => plain,
        _ => error,
    }
}

/// Options of every command; they may stand before or after it.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Global {
    /// Nodes to ask for the cluster's topology, in turn; one that answers is enough
    #[arg(long, global = true, env = "QUORATE_ENDPOINTS", value_name = "HOST:PORT,..")]
    #[arg(value_delimiter = ',', value_parser = parse::endpoint)]
    #[arg(default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403,127.0.0.1:7404,\
                           127.0.0.1:7405")]
    pub(crate) endpoints: Vec<String>,
    /// Text for people, json for scripts
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub(crate) output: OutputFormat,
    /// Time for each operation, with retries: 500ms, 5s, 2m [default: 5s; hints await: no limit]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Colours; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
    /// Name of this run's requests in the nodes' log lines: 1 to 64 visible ASCII characters
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    // Last, since its heading would go on over what follows.
    #[command(flatten)]
    pub(crate) tls: Tls,
}

/// TLS: on if there is a CA to trust.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "TLS: on with --tls-ca")]
pub(crate) struct Tls {
    /// CA of the nodes' certificates, PEM
    #[arg(long, global = true, env = "QUORATE_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate to show to nodes that require one, PEM
    #[arg(long, global = true, env = "QUORATE_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, global = true, env = "QUORATE_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Name that the nodes' certificates are valid for, if not the host that is dialed
    #[arg(long, global = true, env = "QUORATE_TLS_SERVER_NAME", value_name = "NAME")]
    pub(crate) tls_server_name: Option<String>,
}

impl Tls {
    /// Reads the files that the options name.
    pub(crate) fn load(self) -> anyhow::Result<Option<TlsConfig>> {
        let Self { tls_ca, tls_cert, tls_key, tls_server_name } = self;
        let Some(ca) = tls_ca else {
            let more = tls_cert.is_some() || tls_key.is_some() || tls_server_name.is_some();
            ensure!(!more, "--tls-ca is missing: options of TLS need the CA to trust");
            return Ok(None);
        };
        let mut tls = TlsConfig::from_ca_file(ca).context("--tls-ca or QUORATE_TLS_CA")?;
        tls = match (tls_cert, tls_key) {
            (None, None) => tls,
            (Some(certificate), Some(key)) => tls
                .with_identity_files(certificate, key)
                .context("--tls-cert and --tls-key, or QUORATE_TLS_CERT and QUORATE_TLS_KEY")?,
            (Some(_), None) => bail!("--tls-key is missing: the key of --tls-cert"),
            (None, Some(_)) => bail!("--tls-cert is missing: the certificate of --tls-key"),
        };
        Ok(Some(match tls_server_name {
            Some(name) => tls.with_server_name(name),
            None => tls,
        }))
    }
}

/// Whether a node that is no owner of a key may stand in for an owner that is away.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct QuorumArgs {
    /// Let others keep writes for owners that are away; a read may miss what they keep
    #[arg(long, conflicts_with = "strict")]
    pub(crate) sloppy: bool,
    /// Count the key's owners alone: a read sees every write acknowledged before it, if r + w > n
    #[arg(long)]
    pub(crate) strict: bool,
}

impl QuorumArgs {
    /// As the SDK takes it; without a flag, its default.
    pub(crate) fn quorum(self) -> Quorum {
        match (self.sloppy, self.strict) {
            (true, _) => Quorum::Sloppy,
            (_, true) => Quorum::Strict,
            (false, false) => Quorum::Default,
        }
    }
}

/// What kv-cli can be asked for.
#[derive(Subcommand, Debug)]
pub(crate) enum TopCommand {
    #[command(flatten)]
    One(Command),
    Shell(ShellArgs),
    Completions(CompletionsArgs),
}

/// Run many commands over one connection, with history and completion
///
/// On a terminal it asks for lines and completes commands, flags and namespaces by Tab. Otherwise
/// stdin is a script, a command a line. It ends with the first that does not succeed, and with the
/// exit code of that one.
#[derive(clap::Args, Debug)]
#[command(after_help = SHELL_HELP)]
pub(crate) struct ShellArgs {
    /// The namespace to use, which commands then leave out
    #[arg(value_name = "NS")]
    pub(crate) namespace: Option<String>,
    /// In a script: run the other lines all the same; the exit code is that of the first failure
    #[arg(long)]
    pub(crate) keep_going: bool,
}

const SHELL_HELP: &str = "In the shell `use NS` makes NS the namespace that commands leave out \
(--namespace names another one), `use` makes them name it again, `exit` or Ctrl-D leaves, Ctrl-C \
ends the command that runs, and `help` lists the commands. Words are quoted as in a POSIX shell; \
$'\\xff\\n' holds any bytes.

Lines are kept in $XDG_STATE_HOME/quorate/kv-cli-history (~/.local/state without it), readable to \
you alone. They hold the values that you typed: a line that begins with a space is not kept.

Examples:
  kv-cli shell
  kv-cli shell users < commands.txt
  printf 'put alice hello\\nget alice\\n' | kv-cli shell users --output json";

/// Print a script that completes kv-cli's command lines in your shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kv-cli completions bash > ~/.local/share/bash-completion/completions/kv-cli
  kv-cli completions zsh > \"${fpath[1]}/_kv-cli\"
  kv-cli completions fish > ~/.config/fish/completions/kv-cli.fish")]
pub(crate) struct CompletionsArgs {
    /// Your shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// What is asked of a cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Put(PutArgs),
    Get(GetArgs),
    Delete(DeleteArgs),
    Expire(ExpireArgs),
    Persist(PersistArgs),
    Ttl(TtlArgs),
    Resolve(ResolveArgs),
    Scan(ScanArgs),
    Count(CountArgs),
    /// Create, change, list, describe and drop namespaces
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    Import(ImportArgs),
    Export(ExportArgs),
    Bench(BenchArgs),
    /// Look at the members and at where keys live
    #[command(subcommand)]
    Cluster(ClusterCommand),
    Hints(HintsArgs),
}

impl Command {
    /// Whether connecting is a part of the one operation that it consists of.
    pub(crate) fn is_one_operation(&self) -> bool {
        match self {
            Self::Put(_) | Self::Get(_) | Self::Delete(_) | Self::Resolve(_) => true,
            Self::Expire(_) | Self::Persist(_) | Self::Ttl(_) => true,
            Self::Namespace(_) | Self::Cluster(_) => true,
            Self::Scan(_) | Self::Count(_) | Self::Import(_) | Self::Export(_) => false,
            Self::Bench(_) | Self::Hints(_) => false,
        }
    }

    /// The namespace that it is about, unless it makes or drops one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        match self {
            Self::Put(args) => Some(&args.namespace),
            Self::Get(args) => Some(&args.namespace),
            Self::Delete(args) => Some(&args.namespace),
            Self::Expire(args) => Some(&args.namespace),
            Self::Persist(args) => Some(&args.namespace),
            Self::Ttl(args) => Some(&args.namespace),
            Self::Scan(args) => Some(&args.namespace),
            Self::Count(args) => Some(&args.namespace),
            Self::Import(args) => Some(&args.namespace),
            Self::Export(args) => Some(&args.namespace),
            Self::Bench(args) => Some(&args.namespace),
            Self::Namespace(_) | Self::Cluster(_) | Self::Hints(_) | Self::Resolve(_) => None,
        }
    }
}

/// Write a value
///
/// With --context the value replaces exactly what that read or write showed. Without one it stands
/// beside whatever is there, as a sibling.
#[derive(clap::Args, Debug)]
#[command(after_help = PUT_HELP)]
pub(crate) struct PutArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key, 1 to 4096 bytes; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    /// The value, or - to read it from stdin to its end, byte for byte
    #[arg(value_name = "VALUE|-", allow_hyphen_values = true)]
    pub(crate) value: OsString,
    /// What the value replaces: the context that a get, put or delete answered
    #[arg(long)]
    pub(crate) context: Option<Context>,
    /// How long the value is to live: 500ms, 10s, 5m, 12h, 30d, up to 3650d; or never [default: the
    /// namespace's]
    #[arg(long, value_name = "TTL", value_parser = parse::ttl, allow_hyphen_values = true)]
    pub(crate) ttl: Option<Ttl>,
    /// How many replicas must acknowledge [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) w: Option<Level>,
    /// When a replica may acknowledge: buffered survives the process, synced a power cut
    /// [default: the namespace's]
    #[arg(long, value_name = "buffered|synced")]
    pub(crate) durability: Option<Durability>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}
const PUT_HELP: &str = "Without --sloppy or --strict it is as the namespace says.
json: context (null when other siblings stand beside the value), siblings (how many, this one \
included), receipt{dot, acked[], synced, fallbacks[{node, owner}]}; a fallback keeps the write for \
that owner, until it is back

Examples:
  kv-cli put users alice 'hello'
  kv-cli put users alice 'hello again' --context \"$CONTEXT\" -w all
  kv-cli put sessions alice 'token' --ttl 30m
  kv-cli put files logo.png - < logo.png";

/// Read a key, or several
///
/// Text is the raw value, byte for byte, and one newline. Of several siblings each follows a line
/// with its index, such as [1/2]. Several keys are read as a batch and shown as by scan, in their
/// order. Exit code 1 if a key has no value; of several, stderr says which.
#[derive(clap::Args, Debug)]
#[command(after_help = GET_HELP)]
pub(crate) struct GetArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    /// More keys
    #[arg(value_name = "KEY")]
    pub(crate) more: Vec<OsString>,
    /// How many replicas must answer [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL", conflicts_with = "replica")]
    pub(crate) r: Option<Level>,
    /// Show what this node alone holds, without asking another
    #[arg(long, value_name = "NODE", conflicts_with_all = ["sloppy", "strict"])]
    pub(crate) replica: Option<String>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

const GET_HELP: &str = "Without --sloppy or --strict it is as the namespace says.
json: {\"siblings\":[{\"value\",\"value_base64\",\"expires_ms\"?}],\"context\",\"replicas\",\"fallbacks\"?}; \
value has U+FFFD in place of bytes that are not UTF-8, value_base64 is exact.
Of several keys, a line for each as by scan; a key without a value has no siblings.

Examples:
  kv-cli get users alice
  kv-cli get users alice bob carol
  kv-cli get users alice -r all --output json
  kv-cli get users alice --replica node-2";

/// Delete a key
///
/// With --context exactly what that context covers is deleted. Without one the key is read by
/// quorum and what that read saw is deleted. Exit code 1 if there was nothing to delete.
#[derive(clap::Args, Debug)]
#[command(after_help = "Without --sloppy or --strict it is as the namespace says.
json: context, siblings (how many values are left), receipt; all as of put

Examples:
  kv-cli delete users alice
  kv-cli delete users alice --context \"$CONTEXT\"")]
pub(crate) struct DeleteArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    /// What to delete: the context that a get or put answered
    #[arg(long)]
    pub(crate) context: Option<Context>,
    /// How many replicas must acknowledge [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) w: Option<Level>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

/// Learn what became of a write whose outcome is unknown
///
/// All who may have the write are asked, for an hour. If nobody has, and its coordinator answers, that
/// one refuses it from then on: it is not applied and never will be.
#[derive(clap::Args, Debug)]
#[command(after_help = RESOLVE_HELP)]
pub(crate) struct ResolveArgs {
    /// The operation id, as the failed write said it
    #[arg(value_name = "ID")]
    pub(crate) operation: OperationId,
}

const RESOLVE_HELP: &str =
    "Exit codes: 0 applied, 1 not applied, 3 still unknown: stdout says why; 2 an error, \
130 Ctrl-C.
json: outcome (applied, not_applied, unknown or expired), dot (or null), key_hash, message";

/// List keys and values, partition by partition, in byte order within each
///
/// Text is `KEY<TAB>VALUE` per line, control characters escaped; of several siblings each has a line
/// `KEY<TAB>[1/2]<TAB>VALUE`. For exact bytes take --output json, or export. Owners alone are read: not
/// what others keep for those that are away, and with too few of them it fails.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "json: a line {\"key\",\"key_base64\",\"siblings\":[..],\"context\"} per key

Examples:
  kv-cli scan users --prefix al --limit 10"
)]
pub(crate) struct ScanArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// Only keys that begin with these bytes
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    pub(crate) prefix: OsString,
    /// At most so many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// How many replicas must answer [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) r: Option<Level>,
}

/// Count the keys of a namespace by reading all of them, from owners alone as by scan
#[derive(clap::Args, Debug)]
#[command(after_help = "json: {\"count\"}")]
pub(crate) struct CountArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// How many replicas must answer [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) r: Option<Level>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NamespaceCommand {
    Create(CreateArgs),
    Update(UpdateArgs),
    /// List the namespaces and their settings
    List,
    /// Show one namespace; exit code 1 if there is none of that name
    Describe {
        /// Its name
        name: String,
    },
    /// Drop a namespace and everything in it; exit code 1 if there is none of that name
    Drop {
        /// Its name
        name: String,
    },
}

/// Create a namespace
///
/// Its quorums are sloppy, unless --strict says otherwise.
#[derive(clap::Args, Debug)]
#[command(after_help = LEVELS)]
pub(crate) struct CreateArgs {
    /// Its name: 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit
    pub(crate) name: String,
    /// Replicas of each key
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) n: u32,
    /// How many replicas must answer a read
    #[arg(short, long, value_name = "LEVEL", default_value = "quorum")]
    pub(crate) r: Level,
    /// How many replicas must acknowledge a write
    #[arg(short, long, value_name = "LEVEL", default_value = "quorum")]
    pub(crate) w: Level,
    /// What happens to concurrent writes of one key, for ever
    #[arg(long, value_enum, default_value = "siblings")]
    pub(crate) conflict: Conflict,
    /// When a replica may acknowledge
    #[arg(long, value_name = "buffered|synced", default_value = "buffered")]
    pub(crate) durability: Durability,
    /// The largest value: bytes, or 64KiB, 1MiB [default: 1048576]
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes(1..=u32::MAX))]
    pub(crate) value_max_bytes: Option<u32>,
    /// How long values live whose writes do not say: 10s, 5m, 12h, 30d, up to 3650d [default: never]
    #[arg(long, value_name = "TTL", value_parser = parse::ttl, allow_hyphen_values = true)]
    pub(crate) default_ttl: Option<Ttl>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

/// Change the defaults of a namespace; exit code 1 if there is none of that name
///
/// What is not named stays as it is. n and the conflict rule are chosen when a namespace is created,
/// for ever.
#[derive(clap::Args, Debug)]
#[command(after_help = UPDATE_HELP, group(
    ArgGroup::new("change")
        .args(["r", "w", "durability", "value_max_bytes", "default_ttl", "sloppy", "strict"])
        .multiple(true)
        .required(true)
))]
pub(crate) struct UpdateArgs {
    /// Its name
    pub(crate) name: String,
    /// How many replicas must answer a read
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) r: Option<Level>,
    /// How many replicas must acknowledge a write
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) w: Option<Level>,
    /// When a replica may acknowledge
    #[arg(long, value_name = "buffered|synced")]
    pub(crate) durability: Option<Durability>,
    /// The largest value: bytes, or 64KiB, 1MiB. Larger ones that are there already stay
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes(1..=u32::MAX))]
    pub(crate) value_max_bytes: Option<u32>,
    /// How long values live whose writes do not say, from now on: 10s, 5m, 12h, 30d; or never
    #[arg(long, value_name = "TTL", value_parser = parse::ttl, allow_hyphen_values = true)]
    pub(crate) default_ttl: Option<Ttl>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

const UPDATE_HELP: &str = "LEVEL is one, quorum, all, or a number of replicas from 1 to the \
namespace's n.
json: namespace{name, id, n, r, w, quorum, conflict, durability, value_max_bytes, default_ttl_ms}, \
unreachable[]

Examples:
  kv-cli namespace update users --strict
  kv-cli namespace update sessions --default-ttl 30m
  kv-cli namespace update users --sloppy -w all --durability synced";

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Conflict {
    /// All are kept until a client resolves them
    Siblings,
    /// The last one wins, by the nodes' clocks; the others are dropped
    Lww,
}

/// What the rows of a file look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum RowFormat {
    /// The key is one field; the value is the whole line, byte for byte, without its end
    Csv,
    /// {"key","value"} per line; key_base64 and value_base64 for what is not UTF-8
    Jsonl,
    /// `KEY<TAB>VALUE` per line
    Lines,
}

/// Load the rows of a file
///
/// A row replaces what is under its key; a row that is there already is not written again, so that
/// the same import twice leaves the same state. Rows of one key are applied in the order of the
/// file. A row that is no row of the format, or cannot be written within --timeout, is reported by
/// line on stderr and does not stop the others; exit code 2 if there is any. When no row could be
/// stored for --timeout after one failed, the cluster is gone, and the import ends.
#[derive(clap::Args, Debug)]
#[command(after_help = IMPORT_HELP)]
pub(crate) struct ImportArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The file, or - for stdin
    pub(crate) file: PathBuf,
    /// What its rows look like
    #[arg(long, value_enum)]
    pub(crate) format: RowFormat,
    /// csv: what separates fields, one ASCII character or \t [default: ,]
    #[arg(long, value_name = "C", value_parser = parse::delimiter)]
    pub(crate) delimiter: Option<u8>,
    /// csv: which field is the key, counted from 0 [default: 0]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key_column: Option<usize>,
    /// Keep here how far it came, and go on from there when run again
    #[arg(long, value_name = "PATH")]
    pub(crate) state: Option<PathBuf>,
    /// How many replicas must tell what a row replaces [default: quorum]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) r: Option<Level>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

const IMPORT_HELP: &str =
    "A line ends with \\n or \\r\\n; neither is part of the row. Empty lines \
are no rows. csv fields may be quoted as in RFC 4180, and quoted fields may hold line ends; there \
is no header line; rows must be UTF-8 and have as many fields as the first. A \
byte order mark before the first row is passed over, but in lines it is part of the key, and told. Duplicate keys are \
reported by line, among the first 14 million distinct keys; the last row of a key wins, also of \
the siblings that export --siblings all wrote. Values live as long as the namespace has it: an export holds no ends. At most 100 lines of each kind are listed. Writes are retried elsewhere under the same operation id (at \
least once; copies show as one); in an lww namespace at their coordinator alone (once).

With --state the same import may be interrupted at any moment and run again, with the same state: it \
reads the file from its beginning, but writes only from the first row that is not known to be \
stored. A state of another file, format, namespace or cluster is refused, and so is a second import \
while one with the same state runs. Ctrl-C says what is stored and where the next run goes on. Remove \
a complete state to import anew.

A key that cannot be read is not written, though a put would be: the row would stand beside what is \
there. With -r one, beside what owners that are away hold, until the same import is run again. \
Without --sloppy or --strict it is as the namespace says.

Last line on stdout (json: one object): rows, stored, failed, unknown, bytes, seconds

Examples:
  kv-cli import unicode UnicodeData.txt --format csv --delimiter ';'
  kv-cli import users rows.tsv --format lines --state rows.state
  zcat users.jsonl.gz | kv-cli import users - --format jsonl --timeout 30s";

/// Which keys with several siblings to export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum SiblingsArg {
    /// None: they are reported, and the export fails
    Fail,
    /// All, a row for each sibling; import keeps the last row of a key alone
    All,
}

/// Write all rows of a namespace to a file or to stdout
///
/// FILE appears only when the export is complete. A key that the format cannot hold, or that has
/// several siblings, is reported on stderr; exit code 2 if there is any. Owners alone are read, as by scan.
#[derive(clap::Args, Debug)]
#[command(after_help = EXPORT_HELP)]
pub(crate) struct ExportArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The file; stdout without one, or with -
    pub(crate) file: Option<PathBuf>,
    /// csv: the values, a line each; lines: `KEY<TAB>VALUE`; jsonl: {"key","value"}
    #[arg(long, value_enum)]
    pub(crate) format: RowFormat,
    /// csv: what separates the fields of the values [default: , or ; or \t or |, whichever does]
    #[arg(long, value_name = "C", value_parser = parse::delimiter)]
    pub(crate) delimiter: Option<u8>,
    /// csv: which field is the key, counted from 0 [default: whichever is]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) key_column: Option<usize>,
    /// What to do about keys with several siblings
    #[arg(long, value_enum, default_value = "fail")]
    pub(crate) siblings: SiblingsArg,
}

const EXPORT_HELP: &str =
    "Rows come partition by partition; what has expired is left out, and when a value will is not \
written; sort them to compare two exports. What \
import could not read back as it is, such as a value with a line end as lines, is an error: jsonl \
holds everything. csv holds values alone, so one field of each must be its key, in the same place and \
of as many fields in all of them; if that takes a --delimiter or --key-column at the import, a note \
says so. Of the rows that --siblings all writes for one key, import keeps the last alone. \
Ctrl-C says how many rows were written, and that they are not all.

Examples:
  kv-cli export unicode --format csv | sort > sorted.txt
  kv-cli export users users.jsonl --format jsonl --siblings all";

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Workload {
    /// Reads only
    Read,
    /// Writes only
    Write,
    /// Half reads, half writes, at random
    Mixed,
}

/// Measure throughput and latency
///
/// Without --rate each of the workers starts its next operation when the last one has ended. With
/// it operations are due at fixed times, and latency counts from when one was due, so that a slow
/// answer also counts against those that it held up.
#[derive(clap::Args, Debug)]
#[command(after_help = BENCH_HELP)]
pub(crate) struct BenchArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// What to do
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    /// How many keys: bench-000000000000 and on
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// The size of each value, random: bytes, or 4KiB, 1MiB
    #[arg(long, value_name = "SIZE", default_value = "1024")]
    #[arg(value_parser = parse::bytes(0..=1 << 30))]
    pub(crate) value_size: u32,
    /// How many operations at once
    #[arg(long, value_name = "C", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) concurrency: u32,
    /// For how long operations are started
    #[arg(long, value_name = "TIME", default_value = "12s", value_parser = parse::duration)]
    pub(crate) duration: Duration,
    /// Operations per second, due at fixed times
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// Popular and unpopular keys (Zipf, exponent 0.99) instead of equal ones
    #[arg(long)]
    pub(crate) zipf: bool,
    /// Keys of one operation: above 1, a batch
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) batch: u32,
    /// First write every key, uncounted
    #[arg(long)]
    pub(crate) prepare: bool,
    /// Send no contexts: siblings pile up until the limit of 100 refuses more
    #[arg(long)]
    pub(crate) blind: bool,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

const BENCH_HELP: &str =
    "A write sends the last context received for its key, unless --blind; after \
a race, or when a key has too many siblings, it reads the key first, within the write's latency. Writes are retried elsewhere under the \
same operation id; in an lww namespace at their coordinator alone.

Without --sloppy or --strict it is as the namespace says.

With --batch N the workers read or write N different keys at a time. Each key counts as an \
operation, with the latency of its batch; --rate and missed count batches.

operations are all attempted; ok are those that succeeded within --timeout, the others failed, unknown \
outcomes included; ops_per_s and latencies are of those that are ok. missed: due under --rate, but \
not started in time, since all of --concurrency were busy: with many of them the load does not wait \
for the cluster. Of each kind of error stderr shows an example; exit code 2 if all of them failed.
json: operations, ok, failed, errors{kind: n}, not_found, retries, seconds, ops_per_s, \
latency_us{p50,p90,p99,p999}, missed

Examples:
  kv-cli bench load --workload write --keys 100000 --value-size 1024 --concurrency 64
  kv-cli bench load --workload mixed --prepare --zipf --rate 5000 --duration 1m --output json
  kv-cli --timeout 1s bench load --workload write --rate 40000 --concurrency 20000";

#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Show the members: which are alive, who votes, and which of them answer
    Status,
    Ring(RingArgs),
    /// Show what each member lacks that others have seen, and how old writes were when they came to it
    #[command(
        after_help = "A write is as old as the time since its coordinator made it, by the clocks of the \
        two. Ages are of what came since the member was started; P50 and P99 are rounded up to a power of \
        two of a millisecond."
    )]
    Staleness,
}

/// Show each node's share of the keys, or which nodes own one key
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kv-cli cluster ring
  kv-cli cluster ring alice --namespace users")]
pub(crate) struct RingArgs {
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: Option<OsString>,
    /// The key's namespace; needed if there are several
    #[arg(long, value_name = "NS")]
    pub(crate) namespace: Option<String>,
}

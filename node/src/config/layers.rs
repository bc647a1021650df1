//! Where values come from: the file, then the environment, then flags.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use quorate_proto::size;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::{Table, Value};

use super::{Config, variables};

/// What every environment variable of a key begins with.
pub(super) const ENVIRONMENT_PREFIX: &str = "QUORATE_";

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody said otherwise.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One impossible value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Who gave it.
    pub origin: Origin,
    /// The key.
    pub key: String,
    /// The value, as TOML.
    pub value: String,
    /// What is wrong with it, and what is allowed.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, value, reason } = self;
        write!(f, "{key} = {value} ({origin}): {reason}")
    }
}

/// Why there is no configuration. Nothing was started.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read. Correct its path, or its permissions.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is no TOML, or has an unknown key or a value of another type. Correct the place.
    #[error("the configuration file {} is malformed: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        detail: String,
    },
    /// Values that cannot be. Correct each where it came from.
    #[error("invalid configuration: {}{}", list(problems), notes(unknown))]
    Invalid {
        /// All that were found.
        problems: Vec<Problem>,
        /// What is to be said of the environment: perhaps a misspelt variable is why.
        unknown: Vec<String>,
    },
}

fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => many.iter().fold(format!("{} values", many.len()), |mut text, problem| {
            let _ = write!(text, "\n  {problem}");
            text
        }),
    }
}

fn notes(unknown: &[String]) -> String {
    unknown.iter().map(|note| format!("\n  note: {note}")).collect()
}

/// What a configuration is made of.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// The file, if one is named.
    pub file: Option<PathBuf>,
    /// The environment, or a part of it; other variables may be among it.
    pub environment: Vec<(String, String)>,
    /// What flags set.
    pub flags: Table,
}

/// A valid configuration, and where each of its values came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
    /// What is to be said of the environment.
    environment: Vec<String>,
}

impl Sources {
    /// A file and this process's environment. Variables that are not UTF-8 are none of ours.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(text).collect();
        Self { file, environment, flags: Table::new() }
    }

    /// With what flags set: a struct whose fields are named as the keys are.
    pub fn with_flags(mut self, flags: &impl Serialize) -> Self {
        self.flags = Table::try_from(flags).expect("flags are plain values under names");
        self
    }

    /// Reads, merges and validates.
    pub fn load(self) -> Result<Effective, ConfigError> {
        let mut merged = Merged::default();
        if let Some(path) = &self.file {
            merged.add_file(path)?;
        }
        merged.add_environment(&self.environment);
        for (key, value) in self.flags {
            let flag = format!("--{}", key.replace('_', "-"));
            merged.add(key, value, Origin::Flag(flag));
        }
        merged.unknown = variables::unknown(&self.environment, &defaults());
        merged.finish(self.file.as_deref())
    }
}

/// The values so far, with their origins and what is wrong with them.
#[derive(Default)]
struct Merged {
    values: Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    unknown: Vec<String>,
}

impl Merged {
    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
        let malformed = |error: toml::de::Error| {
            let detail = error.to_string().trim_end().to_owned();
            ConfigError::Malformed { path: path.to_path_buf(), detail }
        };
        // Parsed as a configuration first: these errors point at line and column.
        toml::from_str::<Config>(&text).map_err(malformed)?;
        for (key, value) in toml::from_str::<Table>(&text).map_err(malformed)? {
            self.add(key, value, Origin::File(path.to_path_buf()));
        }
        Ok(())
    }

    /// Takes the variables that are named as a key; others may belong to other tools.
    fn add_environment(&mut self, environment: &[(String, String)]) {
        for (key, default) in defaults() {
            let name = format!("{ENVIRONMENT_PREFIX}{}", key.to_uppercase());
            let Some((_, text)) = environment.iter().rev().find(|(n, _)| *n == name) else {
                continue;
            };
            let origin = Origin::Environment(name);
            match parse(text, &key, &default) {
                Ok(value) => self.add(key, value, origin),
                Err(reason) => {
                    self.problems.push(Problem { origin, key, value: format!("{text:?}"), reason });
                }
            }
        }
    }

    fn add(&mut self, key: String, value: Value, origin: Origin) {
        // Alone with the defaults, so that the error is this value's.
        let alone = Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = Config::deserialize(alone) {
            let (value, reason) = (value.to_string(), error.message().to_owned());
            self.problems.push(Problem { origin, key, value, reason });
            return;
        }
        self.origins.insert(key.clone(), origin);
        self.values.insert(key, value);
    }

    fn finish(mut self, file: Option<&Path>) -> Result<Effective, ConfigError> {
        let mut config = Config::deserialize(self.values).expect("each value was checked alone");
        let written = Table::try_from(&config).expect("a configuration is a table");
        for (key, reason) in config.validate() {
            let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
            let value = written.get(key).map_or_else(String::new, Value::to_string);
            self.problems.push(Problem { origin, key: key.to_owned(), value, reason });
        }
        if !self.problems.is_empty() {
            let (problems, unknown) = (self.problems, self.unknown);
            return Err(ConfigError::Invalid { problems, unknown });
        }
        if let Some(file) = file {
            let directory = file.parent().unwrap_or(Path::new(""));
            let elsewhere = |key| {
                matches!(self.origins.get(key), Some(Origin::Environment(_) | Origin::Flag(_)))
            };
            for (key, path) in config.paths_mut() {
                if !elsewhere(key) && !path.as_os_str().is_empty() {
                    *path = directory.join(&*path);
                }
            }
        }
        Ok(Effective { config, origins: self.origins, environment: self.unknown })
    }
}

impl Effective {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// What an operator should hear at every start.
    pub fn warnings(&self) -> Vec<String> {
        [self.environment.clone(), self.config.warnings()].concat()
    }

    /// Key and value pairs on one line, for the log.
    pub fn one_line(&self) -> String {
        self.written()
            .lines()
            .map(|line| line.replacen(" = ", "=", 1))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// As TOML, a line for each key.
    fn written(&self) -> String {
        toml::to_string(&self.config).expect("a configuration is a table of plain values")
    }
}

/// As a file that would give the same configuration, with the origin of each value.
impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.written().lines() {
            let (key, _) = line.split_once(" = ").expect("each line is a key and its value");
            writeln!(f, "{line:<40} # {}", self.origin(key))?;
        }
        Ok(())
    }
}

/// Every key with its default.
fn defaults() -> Table {
    Table::try_from(Config::default()).expect("a configuration is a table")
}

/// Reads `text` as a value of the kind of `like`; else says what it must be.
fn parse(text: &str, key: &str, like: &Value) -> Result<Value, String> {
    match like {
        Value::Integer(_) if is_size(key) => {
            let bytes = size::parse(text.trim())?;
            i64::try_from(bytes).map(Value::Integer).map_err(|_| "is too large".to_owned())
        }
        Value::Integer(_) => {
            let number = text.trim().parse().map(Value::Integer);
            number.map_err(|_| "must be a whole number".to_owned())
        }
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Whether a key is a number of bytes, which may have a unit.
fn is_size(key: &str) -> bool {
    key.ends_with("_bytes")
}

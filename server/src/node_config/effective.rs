//! Where settings come from: flag over variable over file over default, and how what is in force is printed.
//!
//! Invariant: whatever was given and is no setting, or cannot be one, is an error that names where it came from.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{NodeConfig, SECTIONS};

/// Variables that begin like settings and are none: where the command line finds a node, where `./dev` keeps compiled
/// crates, and which binary the tests run.
const NOT_SETTINGS: [&str; 3] = ["QIANG_SERVER", "QIANG_CACHE_DIR", "QIANG_BIN"];

/// What every variable that is a setting begins with.
const PREFIX: &str = "QIANG_";

/// Why a node's settings are not usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key or a value of the wrong type.
    #[error("the configuration file {} is wrong: {detail}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what.
        detail: String,
    },
    /// A variable that begins with `QIANG_` is no setting.
    #[error("the environment variable {name} is no setting{hint}")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// A variable or flag has a value of the wrong type.
    #[error("{origin} is {value:?}: {detail}")]
    Value {
        /// The variable or flag.
        origin: Source,
        /// What it was set to.
        value: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A setting has a value that cannot be used.
    #[error("{key} is {value} ({origin}): {detail}")]
    Setting {
        /// Section and key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where it comes from.
        origin: Source,
        /// Why it cannot be used.
        detail: String,
    },
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Default => f.write_str("the default"),
            Source::File(path) => write!(f, "from {}", path.display()),
            Source::Variable(name) => write!(f, "the environment variable {name}"),
            Source::Flag(flag) => write!(f, "the flag {flag}"),
        }
    }
}

/// A setting given as a flag: the flag, the section and key it sets, and its value.
pub type FlagSetting = (&'static str, &'static str, String);

/// The settings in force, with where each comes from.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The settings.
    pub config: NodeConfig,
    sources: BTreeMap<String, Source>,
}

impl Effective {
    /// Brings together file, environment and flags: flag over variable over file over default.
    ///
    /// # Errors
    /// See [`Error`]; whatever was given and cannot be used is named.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[FlagSetting],
    ) -> Result<Self, Error> {
        let mut sources = BTreeMap::new();
        let mut config = match file {
            Some(path) => read_file(path, &mut sources)?,
            None => NodeConfig::default(),
        };
        for (name, value) in environment {
            if !name.starts_with(PREFIX) || NOT_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            let key = key_of_variable(&name).ok_or_else(|| unknown_variable(&name))?;
            let origin = Source::Variable(name);
            config = config.with(&key, &value, &origin)?;
            sources.insert(key, origin);
        }
        for (flag, key, value) in flags {
            let origin = Source::Flag(flag);
            config = config.with(key, value, &origin)?;
            sources.insert((*key).to_owned(), origin);
        }
        let effective = Self { config, sources };
        effective.check()?;
        Ok(effective)
    }

    /// The settings as a commented TOML file; the origin of each that is no default is named.
    pub fn to_toml(&self) -> String {
        let table = self.config.to_table();
        let mut out = String::from(
            "# Settings of one node. A flag wins over an environment variable (QIANG_SECTION__KEY, such as\n\
             # QIANG_HTTP__LISTEN), that over this file, that over the default. Unknown keys are errors.\n",
        );
        for (section, docs) in &SECTIONS {
            out.push('\n');
            for line in docs.about {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "[{section}]");
            for (field, lines) in docs.fields {
                for line in *lines {
                    let _ = writeln!(out, "#{line}");
                }
                let value = &table[*section][*field];
                let _ = match self.source(&format!("{section}.{field}")) {
                    Source::Default => writeln!(out, "{field} = {value}"),
                    origin => writeln!(out, "{field} = {value} # {origin}"),
                };
            }
        }
        out
    }

    pub(super) fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }
}

impl NodeConfig {
    /// The settings with one of them, which exists, set from text.
    fn with(&self, key: &str, text: &str, origin: &Source) -> Result<Self, Error> {
        let wrong = |detail: String| Error::Value {
            origin: origin.clone(),
            value: text.to_owned(),
            detail,
        };
        let mut table = self.to_table();
        let (section, field) = key.split_once('.').expect("a key is a section and a field");
        let place = &mut table[section][field];
        *place = match place {
            toml::Value::Integer(_) => {
                let number = text
                    .trim()
                    .parse()
                    .map_err(|_| wrong("must be a whole number".to_owned()))?;
                toml::Value::Integer(number)
            }
            _ => toml::Value::String(text.to_owned()),
        };
        Self::deserialize(table).map_err(|error| wrong(error.message().trim().to_owned()))
    }
}

/// Whether `key` (`section.field`) is a setting.
pub(super) fn is_setting(key: &str) -> bool {
    let found = |section: &str, field: &str| {
        SECTIONS.iter().any(|(name, docs)| {
            *name == section && docs.fields.iter().any(|(name, _)| *name == field)
        })
    };
    key.split_once('.')
        .is_some_and(|(section, field)| found(section, field))
}

/// The setting that a variable names: `QIANG_HTTP__LISTEN` is `http.listen`.
fn key_of_variable(name: &str) -> Option<String> {
    let (section, field) = name.strip_prefix(PREFIX)?.split_once("__")?;
    let key = format!("{section}.{field}");
    // The exact name only: two spellings of one setting would leave open which one wins.
    let exact = key == key.to_ascii_uppercase();
    let key = key.to_ascii_lowercase();
    (exact && is_setting(&key)).then_some(key)
}

fn unknown_variable(name: &str) -> Error {
    let orchestrated = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT");
    let meant = SECTIONS.iter().find_map(|(section, docs)| {
        docs.fields.iter().find_map(|(field, _)| {
            let right = format!("{PREFIX}{section}__{field}").to_ascii_uppercase();
            (right.replace('_', "") == name.to_ascii_uppercase().replace('_', "")).then_some(right)
        })
    });
    let hint = match meant {
        Some(right) => format!("; {right} is"),
        None if orchestrated => {
            ": Kubernetes sets it for a Service of this name; set `enableServiceLinks: false` in the pod".to_owned()
        }
        None => "; settings are named QIANG_SECTION__KEY, and `qiang serve --print-config` lists them: unset it".to_owned(),
    };
    Error::UnknownVariable {
        name: name.to_owned(),
        hint,
    }
}

fn read_file(path: &Path, sources: &mut BTreeMap<String, Source>) -> Result<NodeConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |error: toml::de::Error| Error::File {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    };
    let config = toml::from_str(&text).map_err(wrong)?;
    let given: toml::Table = toml::from_str(&text).map_err(wrong)?;
    for (section, fields) in &given {
        for field in fields.as_table().into_iter().flat_map(toml::Table::keys) {
            sources.insert(format!("{section}.{field}"), Source::File(path.to_owned()));
        }
    }
    Ok(config)
}

//! Where settings come from, the later over the earlier: file, environment, flags.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use toml::{Table, Value};

use crate::failure::{Context, Failure};

use super::file::Config;

#[path = "kubernetes.rs"]
mod kubernetes;

const PREFIX: &str = "CONVEYOR_RAFT__";

/// Settings by flag: section, key, value.
pub(crate) type Overrides = Vec<(&'static str, &'static str, Value)>;

/// Who set what, by section and key.
pub(crate) type Origins = BTreeMap<(String, String), String>;

/// The settings that `file`, the variables `env` and `flags` make together.
pub(crate) fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Overrides,
) -> Result<Config, Failure> {
    Ok(load_with_origins(file, env, flags)?.0)
}

/// The same, and where each key that is set comes from, by section and key.
pub(crate) fn load_with_origins(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Overrides,
) -> Result<(Config, Origins), Failure> {
    let (mut table, source) = match file {
        Some(path) => (read(path)?, path.display().to_string()),
        None => (Table::new(), "the settings".to_owned()),
    };
    let mut origins = Origins::new();
    for (section, keys) in &table {
        for key in keys.as_table().into_iter().flat_map(Table::keys) {
            origins.insert((section.clone(), key.clone()), source.clone());
        }
    }
    // The file alone first: its own mistakes are then named with their line.
    let mut pod = BTreeMap::new();
    for (name, value) in env {
        if let Some(known) = name.to_str().filter(|name| kubernetes::of_interest(name)) {
            pod.insert(known.to_owned(), value.to_string_lossy().into_owned());
        }
        if let Some(at) = override_by_env(&mut table, &name, value)? {
            origins.insert(at, name.to_string_lossy().into_owned());
        }
    }
    for (section, key, value) in flags {
        set(&mut table, section, key, value).map_err(Failure::new)?;
        origins.insert((section.to_owned(), key.to_owned()), "a flag".to_owned());
    }
    kubernetes::fill(&mut table, &mut origins, &pod).map_err(Failure::new)?;
    let mut config: Config = Value::Table(table).try_into().context(&source)?;
    if let Some(base) = file.and_then(Path::parent) {
        config.rebase(base);
    }
    Ok((config, origins))
}

fn read(path: &Path) -> Result<Table, Failure> {
    let text = std::fs::read_to_string(path).context(format!("cannot read {}", path.display()))?;
    text.parse().context(path.display())
}

/// `CONVEYOR_RAFT__SECTION__KEY`. Values are TOML where they parse as such (numbers, true, lists)
/// and text otherwise, so that neither needs quotes within quotes.
fn override_by_env(
    table: &mut Table,
    name: &OsString,
    value: OsString,
) -> Result<Option<(String, String)>, Failure> {
    let Some(path) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
        return Ok(None);
    };
    let name = format!("{PREFIX}{path}");
    let wrong = |why: &str| Failure::new(format!("environment: {name}: {why}"));
    let Some((section, key)) = path.split_once("__") else {
        return Err(wrong("write CONVEYOR_RAFT__SECTION__KEY"));
    };
    let (section, key) = (section.to_lowercase(), key.to_lowercase());
    let value = value
        .into_string()
        .map_err(|_| wrong("the value is not UTF-8"))?;
    let value = match is_text(&section, &key) {
        true => Value::String(value),
        false => parse_value(value),
    };
    set(table, &section, &key, value).map_err(|why| wrong(&why))?;
    Ok(Some((section, key)))
}

/// Keys whose value is text even where it looks like something else, such as a directory `2026`.
fn is_text(section: &str, key: &str) -> bool {
    !matches!(
        (section, key),
        ("node", "id")
            | ("raft" | "wal" | "snapshots", _)
            | ("peers", "list" | "single" | "join" | "strict_expiry")
            | ("edge", "roles" | "max_message_bytes" | "max_connections")
    ) && (section != "backup" || key == "dir")
}

fn parse_value(text: String) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => Value::String(text),
    }
}

fn set(table: &mut Table, section: &str, key: &str, value: Value) -> Result<(), String> {
    let section_value = table
        .entry(section.to_owned())
        .or_insert_with(|| Value::Table(Table::new()));
    match section_value {
        Value::Table(keys) => {
            keys.insert(key.to_owned(), value);
            Ok(())
        }
        _ => Err(format!("[{section}] is a value in the file, not a section")),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

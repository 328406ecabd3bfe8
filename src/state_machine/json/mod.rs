//! The JSON form of commands: one a line, `{"Command":{fields}}`, names as in [`RouterCommand`].
//!
//! [`parse_line`] takes what people write; `serde_json::to_string` of a command prints it, and what
//! is printed parses back to the same command.
//!
//! - Upstream's spellings are taken as well: `AssignPipelineToSidecar`,
//!   `RevokePipelineFromSidecar`, `local_services`, `stage_assignments`, `SERVICE_TYPE_SOURCE`.
//! - A bare string in `services` or `stages` is an object with only its name.
//! - Bytes are a string, taken as its UTF-8 text unless it starts with `base64:`; or an array of
//!   numbers; or an object, taken as its compact JSON text with its keys in order.
//! - A 64-bit number may be a string, for those whose numbers end at 2^53.
//! - Times may be in RFC 3339.

mod commands;
mod fields;
mod state;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::RouterCommand;
use fields::{Fields, suggestion};

/// Says before a string that the rest of it is Base64.
const BASE64: &str = "base64:";

/// Bytes as a string: as they are if they are UTF-8, else in Base64.
pub(crate) fn bytes<T: AsRef<[u8]>, S: Serializer>(
    bytes: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let bytes = bytes.as_ref();
    match str::from_utf8(bytes) {
        Ok(text) if !text.starts_with(BASE64) => serializer.serialize_str(text),
        _ => serializer.serialize_str(&format!("{BASE64}{}", STANDARD.encode(bytes))),
    }
}

/// A line of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The command.
    pub command: RouterCommand,
    /// When in the day it is meant to come, milliseconds, if the line says so.
    pub at_ms: Option<u64>,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Form<'a> {
            #[serde(flatten)]
            command: &'a RouterCommand,
            #[serde(skip_serializing_if = "Option::is_none")]
            at_ms: Option<u64>,
        }
        #[derive(Serialize)]
        struct Noop {
            #[serde(rename = "Noop")]
            fields: BTreeMap<String, ()>,
            #[serde(skip_serializing_if = "Option::is_none")]
            at_ms: Option<u64>,
        }
        let at_ms = self.at_ms;
        match &self.command {
            // A bare string has no room for the time.
            RouterCommand::Noop => Noop {
                fields: BTreeMap::new(),
                at_ms,
            }
            .serialize(serializer),
            command => Form { command, at_ms }.serialize(serializer),
        }
    }
}

/// What is wrong with a line, naming command and field. Whoever reads lines adds the number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LineError(pub String);

impl LineError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// The command in one line of input; `None` if the line is blank or a comment (`#`).
///
/// # Errors
/// If it is no JSON, no command, or a command whose fields are not what they should be: of another
/// type, over a limit, missing, or unknown (then with the nearest name that exists).
pub fn parse_line(line: &str) -> Result<Option<Line>, LineError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(line)
        .map_err(|error| LineError::new(format!("not a JSON value: {error}")))?;
    parse(value).map(Some)
}

/// The command in a JSON value.
///
/// # Errors
/// As [`parse_line`].
pub fn parse(value: Value) -> Result<Line, LineError> {
    let mut object = match value {
        Value::String(name) => Map::from_iter([(name, Value::Object(Map::new()))]),
        Value::Object(object) => object,
        _ => return Err(LineError::new(SHAPE)),
    };
    let at_ms = match object.remove("at_ms") {
        None => None,
        Some(value) => Some(
            fields::unsigned(&value)
                .ok_or_else(|| LineError::new("at_ms: must be a number of milliseconds"))?,
        ),
    };
    let mut entries = object.into_iter();
    let (Some((name, body)), None) = (entries.next(), entries.next()) else {
        return Err(LineError::new(SHAPE));
    };
    let Some(name) = commands::canonical(&name) else {
        let near = suggestion(&name, commands::NAMES.iter().copied());
        return Err(LineError::new(format!("unknown command \"{name}\"{near}")));
    };
    let named = |why: String| LineError::new(format!("{name}: {why}"));
    let body = match body {
        Value::Object(body) => body,
        Value::Null => Map::new(),
        _ => return Err(named("its fields must be an object".into())),
    };
    let mut fields = Fields::new(body);
    let command = commands::build(name, &mut fields);
    fields.finish().map_err(named)?;
    command
        .validate()
        .map_err(|error| named(error.to_string()))?;
    Ok(Line { command, at_ms })
}

const SHAPE: &str = "must be one command, as in {\"RenewLease\":{\"service_id\":\"shop/mask-0\"}}";

#[cfg(test)]
mod tests;

//! Takes the fields of an object one after the other, and notes what is wrong.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::BASE64;
use crate::state_machine::EventTime;

/// A number that may be written as a string.
pub(super) fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// ` (did you mean "labels"?)` if one of `names` is near.
pub(super) fn suggestion<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names
        .map(|each| (strsim::osa_distance(name, each), each))
        .filter(|(distance, each)| *distance <= 1 + each.len() / 4)
        .min();
    near.map_or_else(String::new, |(_, each)| {
        format!(" (did you mean \"{each}\"?)")
    })
}

/// The fields that are left of an object, the names asked for so far, and the first thing wrong.
///
/// Every taking method gives a value even if there is none, so that a command can be put together
/// in one expression; [`Fields::finish`] says whether that value is worth anything.
pub(super) struct Fields {
    left: Map<String, Value>,
    asked: Vec<&'static str>,
    wrong: Option<String>,
}

impl Fields {
    pub(super) fn new(left: Map<String, Value>) -> Self {
        Self {
            left,
            asked: Vec::new(),
            wrong: None,
        }
    }

    /// # Errors
    /// What is wrong with the fields: an unknown one first, since it may well be the reason why
    /// another is missing.
    pub(super) fn finish(self) -> Result<(), String> {
        if let Some(unknown) = self.left.keys().next() {
            let near = suggestion(unknown, self.asked.iter().copied());
            return Err(format!("unknown field \"{unknown}\"{near}"));
        }
        self.wrong.map_or(Ok(()), Err)
    }

    fn note(&mut self, why: String) {
        self.wrong.get_or_insert(why);
    }

    /// The value of the first of `names` that is there; `null` is not there.
    fn take(&mut self, names: &[&'static str]) -> Option<Value> {
        self.asked.extend(names);
        let mut found = None;
        for name in names {
            match self.left.remove(*name) {
                Some(_) if found.is_some() => {
                    self.note(format!("{name}: is stated twice, by two of its names"));
                }
                Some(value) if !value.is_null() => found = Some(value),
                _ => {}
            }
        }
        found
    }

    /// The first of `names`, as `read` understands it, `what` being said where it does not.
    fn optional<T>(
        &mut self,
        names: &[&'static str],
        what: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(names)?;
        let read = read(value);
        if read.is_none() {
            self.note(format!("{}: must be {what}", names[0]));
        }
        read
    }

    fn required<T: Default>(&mut self, name: &'static str, value: Option<T>) -> T {
        if value.is_none() {
            self.note(format!("missing field \"{name}\""));
        }
        value.unwrap_or_default()
    }

    pub(super) fn optional_string(&mut self, name: &'static str) -> Option<String> {
        self.optional(&[name], "a string", string)
    }

    pub(super) fn string_or_empty(&mut self, name: &'static str) -> String {
        self.optional_string(name).unwrap_or_default()
    }

    pub(super) fn string(&mut self, name: &'static str) -> String {
        let value = self.optional_string(name);
        self.required(name, value)
    }

    pub(super) fn optional_u64(&mut self, name: &'static str) -> Option<u64> {
        self.optional(&[name], "a whole number from 0 on", |value| {
            unsigned(&value)
        })
    }

    pub(super) fn u64(&mut self, name: &'static str) -> u64 {
        let value = self.optional_u64(name);
        self.required(name, value)
    }

    pub(super) fn optional_u32(&mut self, name: &'static str) -> Option<u32> {
        let what = "a whole number from 0 to 4294967295";
        self.optional(&[name], what, |value| unsigned(&value)?.try_into().ok())
    }

    pub(super) fn u32(&mut self, name: &'static str) -> u32 {
        let value = self.optional_u32(name);
        self.required(name, value)
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let flag = self.optional(&[name], "true or false", |value| value.as_bool());
        flag.unwrap_or(false)
    }

    pub(super) fn bytes_or_empty(&mut self, name: &'static str) -> Vec<u8> {
        self.optional_bytes(name).unwrap_or_default()
    }

    pub(super) fn bytes(&mut self, name: &'static str) -> Vec<u8> {
        let value = self.optional_bytes(name);
        self.required(name, value)
    }

    fn optional_bytes(&mut self, name: &'static str) -> Option<Vec<u8>> {
        let what = "a string, \"base64:...\", an array of bytes, or an object";
        self.optional(&[name], what, bytes)
    }

    /// Seconds since the Unix epoch, or RFC 3339.
    pub(super) fn seconds_or_zero(&mut self, name: &'static str) -> u64 {
        let what = "seconds since 1970, or a time as in \"2026-01-01T00:00:00Z\"";
        let seconds = self.optional(&[name], what, |value| {
            unsigned(&value).or_else(|| {
                let time: Timestamp = value.as_str()?.parse().ok()?;
                time.as_second().try_into().ok()
            })
        });
        seconds.unwrap_or(0)
    }

    pub(super) fn event_time(&mut self, name: &'static str) -> Option<EventTime> {
        self.optional(&[name], TIME, event_time)
    }

    /// An object, as a map; each value as `read` understands it.
    pub(super) fn map<T>(
        &mut self,
        names: &[&'static str],
        what: &str,
        read: impl Fn(&str, Value) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let map = self.optional(names, what, |value| {
            let Value::Object(object) = value else {
                return None;
            };
            let pairs = object.into_iter();
            pairs
                .map(|(key, value)| read(&key, value).map(|value| (key, value)))
                .collect()
        });
        map.unwrap_or_default()
    }

    /// As `map`, and it must be there.
    pub(super) fn require(&mut self, name: &'static str) {
        if !self.left.contains_key(name) {
            self.note(format!("missing field \"{name}\""));
        }
    }

    /// An object with partitions as its keys.
    pub(super) fn partitions<T>(
        &mut self,
        name: &'static str,
        what: &str,
        read: impl Fn(Value) -> Option<T>,
    ) -> BTreeMap<u32, T> {
        let map = self.optional(&[name], what, |value| partitions(value, read));
        map.unwrap_or_default()
    }

    /// A list of strings.
    pub(super) fn strings(&mut self, name: &'static str) -> Vec<String> {
        let list = self.optional(&[name], "an array of strings", |value| match value {
            Value::Array(items) => items.into_iter().map(string).collect(),
            _ => None,
        });
        list.unwrap_or_default()
    }

    /// A list of objects, where a bare string stands for an object with only `key`.
    pub(super) fn objects<T>(
        &mut self,
        names: &[&'static str],
        key: &str,
        read: impl Fn(&mut Fields) -> T,
    ) -> Vec<T> {
        let name = names[0];
        let Some(value) = self.take(names) else {
            return Vec::new();
        };
        let Value::Array(items) = value else {
            self.note(format!("{name}: must be an array"));
            return Vec::new();
        };
        let mut list = Vec::with_capacity(items.len());
        for (nth, item) in items.into_iter().enumerate() {
            let object = match item {
                Value::String(_) => Map::from_iter([(key.to_owned(), item)]),
                Value::Object(object) => object,
                _ => {
                    self.note(format!("{name}[{nth}]: must be an object or a string"));
                    continue;
                }
            };
            let mut fields = Fields::new(object);
            list.push(read(&mut fields));
            if let Err(why) = fields.finish() {
                self.note(format!("{name}[{nth}]: {why}"));
            }
        }
        list
    }

    /// The one entry of the object `name`, as `{"Local":{...}}`: its key and its fields.
    pub(super) fn variant<T: Default>(
        &mut self,
        name: &'static str,
        what: &str,
        read: impl Fn(&str, &mut Fields) -> Option<T>,
    ) -> T {
        let Some(value) = self.take(&[name]) else {
            return T::default();
        };
        let parts = match value {
            Value::Object(object) if object.len() == 1 => object.into_iter().next(),
            _ => None,
        };
        let Some((key, Value::Object(body))) = parts else {
            self.note(format!("{name}: must be {what}"));
            return T::default();
        };
        let mut fields = Fields::new(body);
        let Some(read) = read(&key, &mut fields) else {
            self.note(format!("{name}: must be {what}"));
            return T::default();
        };
        if let Err(why) = fields.finish() {
            self.note(format!("{name}.{key}: {why}"));
        }
        read
    }
}

const TIME: &str = "{\"seconds\":1767225600,\"nanos\":0}, or a time as in \"2026-01-01T00:00:00Z\"";

pub(super) fn string(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

pub(super) fn partitions<T>(
    value: Value,
    read: impl Fn(Value) -> Option<T>,
) -> Option<BTreeMap<u32, T>> {
    let Value::Object(object) = value else {
        return None;
    };
    let mut map = BTreeMap::new();
    for (key, value) in object {
        map.insert(key.parse().ok()?, read(value)?);
    }
    Some(map)
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => match text.strip_prefix(BASE64) {
            Some(encoded) => STANDARD.decode(encoded).ok(),
            None => Some(text.into_bytes()),
        },
        Value::Array(items) => {
            let byte = |item: &Value| unsigned(item)?.try_into().ok();
            items.iter().map(byte).collect()
        }
        Value::Object(_) => serde_json::to_vec(&value).ok(),
        _ => None,
    }
}

pub(super) fn event_time(value: Value) -> Option<EventTime> {
    if let Value::String(text) = value {
        let time: Timestamp = text.parse().ok()?;
        let nanos = time.as_nanosecond();
        return Some(EventTime {
            seconds: nanos.div_euclid(1_000_000_000).try_into().ok()?,
            nanos: nanos.rem_euclid(1_000_000_000).try_into().ok()?,
        });
    }
    let Value::Object(mut object) = value else {
        return None;
    };
    let seconds = match object.remove("seconds")? {
        Value::String(text) => text.parse().ok()?,
        number => number.as_i64()?,
    };
    let nanos = match object.remove("nanos") {
        None | Some(Value::Null) => 0,
        Some(number) => number.as_i64()?.try_into().ok()?,
    };
    object.is_empty().then_some(EventTime { seconds, nanos })
}

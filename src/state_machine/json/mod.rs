//! The JSON form of commands: parsed from a line, printed by `serde_json::to_string`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serializer;

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

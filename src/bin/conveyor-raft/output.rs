//! What is printed.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// Prints a line for whoever listens. Nobody listening any more, as behind `head`, is no failure.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

/// One object on one line, without the fields that say nothing.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(prune(serde_json::to_value(value)?).to_string())
}

fn prune(value: Value) -> Value {
    let says_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, prune(value)));
            Value::Object(fields.filter(|(_, value)| says_something(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        value => value,
    }
}

/// A count with separators: `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Rows under their titles, each column as wide as its longest cell; nothing behind the last word of a line.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let titles = titles.map(str::to_owned);
    let lines = || std::iter::once(&titles).chain(rows);
    let mut widths = [0; N];
    for line in lines() {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines() {
        for (cell, width) in line.iter().zip(widths) {
            // A text that is written into cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_are_left_out_and_zeros_stay() {
        let value = serde_json::json!({
            "a": null, "b": [], "c": {"d": null}, "e": 0, "f": "", "g": [{"h": null}]
        });
        let pruned = json(&value).expect("json");
        assert_eq!(pruned, r#"{"e":0,"f":"","g":[{}]}"#);
    }

    #[test]
    fn counts_have_separators() {
        let text: Vec<_> = [0, 999, 1_000, 26_201, 1_234_567].map(count).into();
        assert_eq!(text, ["0", "999", "1,000", "26,201", "1,234,567"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [
            ["a".to_owned(), String::new()],
            ["long".to_owned(), "b".to_owned()],
        ];
        assert_eq!(table(["N", "WHAT"], &rows), "N     WHAT\na\nlong  b\n");
    }
}

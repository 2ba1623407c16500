//! Canonical JSON (OLPC's form, as TUF signs it): keys in order of their bytes, no white space, no fractions, and in strings
//! nothing escaped but `"` and `\`.

use crate::hex::hex;
use aws_lc_rs::digest;
use serde_json::Value;
use std::fmt::Write as _;

/// The form, or `None` when a number is not whole.
pub fn bytes(value: &Value) -> Option<Vec<u8>> {
    let mut text = String::new();
    write(value, &mut text).map(|()| text.into_bytes())
}

fn write(value: &Value, to: &mut String) -> Option<()> {
    match value {
        Value::Null => to.push_str("null"),
        Value::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) if number.is_i64() || number.is_u64() => write!(to, "{number}").ok()?,
        Value::Number(_) => return None,
        Value::String(text) => string(text, to),
        Value::Array(values) => {
            to.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                write(value, to)?;
            }
            to.push(']');
        }
        Value::Object(members) => {
            // The order must not hang on how the JSON reader keeps its maps.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_bytes());
            to.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    to.push(',');
                }
                string(name, to);
                to.push(':');
                write(value, to)?;
            }
            to.push('}');
        }
    }
    Some(())
}

fn string(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            to.push('\\');
        }
        to.push(c);
    }
    to.push('"');
}

/// SHA-256 in 64 lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_only_quotes_are_escaped() {
        let value = json!({ "b": [1, -2, true, null], "a\"": "tab\there \\ é", "B": {} });
        let canonical = String::from_utf8(bytes(&value).unwrap()).unwrap();
        assert_eq!(canonical, "{\"B\":{},\"a\\\"\":\"tab\there \\\\ é\",\"b\":[1,-2,true,null]}");
        assert_eq!(bytes(&json!([0.5])), None);
        // NIST's example for SHA-256.
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

//! Serde's messages in the words of the API: the field, what it must be, the nearest known name.

use super::locate;
use crate::problem::{FieldError, Problem};
use serde_json::error::Category;

/// Longest piece of a client's own text that an answer repeats, characters.
const ECHO_LIMIT: usize = 100;
/// Names less alike than this are no suggestion (0 to 1, Jaro-Winkler).
const ALIKE: f64 = 0.75;

/// The problem behind an error of serde_json.
pub fn json(document: &[u8], error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&place).unwrap_or(&text);
    if error.classify() != Category::Data && message != "number out of range" {
        return Problem::field("body", format!("malformed JSON: {message}{place}"));
    }
    let place = locate::place_of(document, locate::offset_of(document, error.line(), error.column()));
    let of_the_whole = message.starts_with("missing field") || message.starts_with("invalid length");
    let path = if of_the_whole { place.path } else { place.last_member.unwrap_or(place.path) };
    Problem::validation(vec![field(&path, message)])
}

/// One wrong field: `path` is where the reader stood, `message` what serde said.
pub fn field(path: &str, message: &str) -> FieldError {
    let path = &shorten(path);
    let names = quoted(message);
    let first = || names.first().map_or_else(String::new, |name| shorten(name));
    let child = || if path.is_empty() { first() } else { format!("{path}.{}", first()) };
    if message.starts_with("missing field") {
        return plain(child(), |field| format!("{field} is required"));
    }
    if message.starts_with("duplicate field") {
        return plain(child(), |field| format!("{field} is given twice"));
    }
    if message.starts_with("unknown field") {
        let known: Vec<String> = names.iter().skip(1).map(|name| (*name).to_owned()).collect();
        let message = format!("unknown field {}{}", child(), suggestion(&first(), &known));
        return FieldError { field: child(), message, allowed: None };
    }
    if message.starts_with("unknown variant") {
        let allowed: Vec<String> = names.iter().skip(1).map(|name| (*name).to_owned()).collect();
        let message = format!("{path} must be one of {}", allowed.join(", "));
        return FieldError { field: path.clone(), message, allowed: Some(allowed) };
    }
    let field = if path.is_empty() { "body".to_owned() } else { path.clone() };
    plain(field, |field| sentence(field, message))
}

fn plain(field: String, message: impl FnOnce(&str) -> String) -> FieldError {
    FieldError { message: message(&field), field, allowed: None }
}

/// What a value must be, from serde's description of what it expected.
fn sentence(field: &str, message: &str) -> String {
    if message.contains("UUID") {
        return format!("invalid {field}");
    }
    if message.contains("digit found in string") || message.contains("parse integer from empty string") {
        return format!("{field} must be an integer");
    }
    if message.contains("out of range") || message.contains("number too large") || message.contains("number too small") {
        return format!("{field} is out of range");
    }
    if let Some((_, expected)) = message.split_once(", expected ").filter(|_| message.starts_with("invalid ")) {
        return format!("{field} must be {}", expectation(expected));
    }
    if ["is ", "must ", "contains ", "has "].iter().any(|verb| message.starts_with(verb)) {
        return format!("{field} {}", shorten(message));
    }
    format!("{field}: {}", shorten(message))
}

fn expectation(expected: &str) -> String {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative".into(),
        "f32" | "f64" => "a number".into(),
        "a map" => "an object".into(),
        "a sequence" => "an array".into(),
        _ if expected.starts_with("struct ") => "an object".into(),
        _ => shorten(expected),
    }
}

/// `; did you mean x?`, or the known names where none is alike.
fn suggestion(name: &str, known: &[String]) -> String {
    let likeness = |candidate: &&String| strsim::jaro_winkler(name, candidate);
    match known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        None => String::new(),
        Some(nearest) if likeness(&nearest) >= ALIKE => format!("; did you mean {nearest}?"),
        Some(_) => format!("; known fields: {}", known.join(", ")),
    }
}

/// The names that serde puts between backticks.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// A client's text, cut and without control characters.
pub fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(ECHO_LIMIT).collect()
}

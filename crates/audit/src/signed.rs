//! A report that can be shown to others: signed with Ed25519 over its canonical JSON (keys sorted, no blanks, as in RFC 8785), so that any
//! tool may format the file anew.

use crate::Report;
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use serde_json::{Value, json};
use std::fmt::Write;
use thiserror::Error;

/// Bytes of the secret that a key is made from.
pub const SEED_BYTES: usize = 32;

const ALGORITHM: &str = "Ed25519";

/// What an installation signs its reports with.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// From a secret of [`SEED_BYTES`] bytes in hex; `None` for anything else.
    pub fn from_hex(secret: &str) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(&hex::decode(secret.trim()).ok()?).ok().map(Self)
    }

    /// A new secret in hex; `None` where the system has no random numbers.
    pub fn new_secret() -> Option<String> {
        let mut seed = [0; SEED_BYTES];
        SystemRandom::new().fill(&mut seed).ok()?;
        Some(hex::encode(seed))
    }

    /// In hex.
    pub fn public_key(&self) -> String {
        hex::encode(self.0.public_key())
    }

    /// `{report, signature: {algorithm, publicKey, value}}`.
    ///
    /// # Errors
    /// When the report cannot be written as JSON.
    pub fn sign(&self, report: &Report) -> serde_json::Result<Value> {
        let report = serde_json::to_value(report)?;
        let value = hex::encode(self.0.sign(canonical(&report).as_bytes()));
        Ok(json!({"report": report, "signature": {"algorithm": ALGORITHM, "publicKey": self.public_key(), "value": value}}))
    }
}

/// A report as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub report: Report,
    /// Whose signature it is, in hex.
    pub public_key: String,
}

/// Why a file is not what it should be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing can be said about it.
    #[error("it is no signed report: {0}")]
    NotSigned(String),
    #[error("the report was changed after it was signed, or the signature is of something else")]
    Changed,
}

/// # Errors
/// When the text is no signed report, or its signature is not of what it says.
pub fn verify(text: &str) -> Result<Verified, Refusal> {
    let not_signed = |why: String| Refusal::NotSigned(why);
    let file: Value = serde_json::from_str(text).map_err(|error| not_signed(format!("it is not JSON: {error}")))?;
    let field = |name: &str| {
        let value =
            file.pointer(name).ok_or_else(|| not_signed(format!("it has no {}", name.trim_start_matches('/').replace('/', "."))))?;
        Ok::<_, Refusal>(value)
    };
    let report = field("/report")?;
    let algorithm = field("/signature/algorithm")?;
    if *algorithm != ALGORITHM {
        return Err(not_signed(format!("its signature.algorithm is {algorithm}, and only \"{ALGORITHM}\" is known")));
    }
    let bytes = |name: &str, length: usize| {
        let decoded = field(name)?.as_str().and_then(|text| hex::decode(text).ok()).filter(|bytes| bytes.len() == length);
        decoded.ok_or_else(|| not_signed(format!("its {} is not {length} bytes in hex", name.trim_start_matches('/').replace('/', "."))))
    };
    let (public_key, value) = (bytes("/signature/publicKey", 32)?, bytes("/signature/value", 64)?);
    UnparsedPublicKey::new(&ED25519, &public_key).verify(canonical(report).as_bytes(), &value).map_err(|_| Refusal::Changed)?;
    let report =
        serde_json::from_value(report.clone()).map_err(|error| not_signed(format!("what is signed is no audit report: {error}")))?;
    Ok(Verified { report, public_key: hex::encode(public_key) })
}

/// Numbers in reports are whole, so their text is canonical already.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            let mut text = String::from("{");
            for (number, name) in names.into_iter().enumerate() {
                let comma = if number == 0 { "" } else { "," };
                let field = fields.get(name).map(canonical).unwrap_or_default();
                // Into a string: it cannot fail.
                let _ = write!(text, "{comma}{}:{field}", Value::String(name.clone()));
            }
            text + "}"
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scope, book::Book};

    fn key() -> SigningKey {
        SigningKey::from_hex(&"07".repeat(SEED_BYTES)).unwrap()
    }

    fn report() -> Report {
        Book::default().report("2026-11-21T12:00:00Z".parse().unwrap(), Scope::default())
    }

    #[test]
    fn a_signed_report_is_verified_however_it_is_formatted() {
        let signed = key().sign(&report()).unwrap();
        for text in [signed.to_string(), serde_json::to_string_pretty(&signed).unwrap()] {
            assert_eq!(verify(&text), Ok(Verified { report: report(), public_key: key().public_key() }));
        }
    }

    #[test]
    fn any_other_value_than_the_signed_one_is_refused() {
        let signed = key().sign(&report()).unwrap();
        for (place, other) in [
            ("/report/clean", json!(false)),
            ("/report/checkedEvents", json!(1)),
            ("/report/invariants/0/different", json!(1)),
            ("/report/madeAt", json!("2026-11-21T12:00:01Z")),
            ("/signature/value", json!("00".repeat(64))),
            ("/signature/publicKey", json!(SigningKey::from_hex(&"08".repeat(SEED_BYTES)).unwrap().public_key())),
        ] {
            let mut altered = signed.clone();
            *altered.pointer_mut(place).unwrap() = other;
            assert_eq!(verify(&altered.to_string()), Err(Refusal::Changed), "{place}");
        }
        let mut more = signed.clone();
        more["report"]["note"] = json!("all is well");
        assert_eq!(verify(&more.to_string()), Err(Refusal::Changed));
    }

    #[test]
    fn what_is_no_signed_report_is_said_to_be_none() {
        let signed = key().sign(&report()).unwrap();
        let without = |name: &str| {
            let mut altered = signed.clone();
            altered["signature"].as_object_mut().unwrap().remove(name);
            altered.to_string()
        };
        let mut other = signed.clone();
        other["signature"]["algorithm"] = json!("none");
        let cases = [
            ("{".to_owned(), "not JSON"),
            (serde_json::to_string(&report()).unwrap(), "has no report"),
            (without("value"), "has no signature.value"),
            (without("publicKey"), "has no signature.publicKey"),
            (other.to_string(), "only \"Ed25519\" is known"),
        ];
        for (text, why) in cases {
            let refusal = verify(&text).unwrap_err();
            assert!(matches!(&refusal, Refusal::NotSigned(found) if found.contains(why)), "{refusal:?}");
        }
    }

    #[test]
    fn a_secret_is_32_bytes_and_no_two_are_the_same() {
        assert!(["", "07", "zz"].iter().all(|text| SigningKey::from_hex(text).is_none()));
        let secret = SigningKey::new_secret().unwrap();
        assert!(SigningKey::from_hex(&format!("{secret}\n")).is_some());
        assert_ne!(secret, SigningKey::new_secret().unwrap());
    }
}

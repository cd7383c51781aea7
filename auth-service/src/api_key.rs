//! Secrets of API keys: how they are made, recognised and hashed.
//!
//! A made secret is `weir_`, 40 random letters and digits (238 bits), and six more that are the CRC-32 of what precedes them: scanners find
//! leaked ones, and a mistyped one is refused without asking the store. An operator may choose any other `weir_…` of 20 to 255 visible
//! ASCII characters as the administrator's key; a chosen one that has the shape of a made one must have its checksum too.

use hmac::{Hmac, KeyInit, Mac};
use ports::accounts::KeyHash;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use secrecy::SecretString;
use sha2::Sha256;

pub const PREFIX: &str = "weir_";
const RANDOM_LENGTH: usize = 40;
const CHECKSUM_LENGTH: usize = 6;
const SHORTEST: usize = 20;
const LONGEST: usize = 255;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a text is, as far as can be told without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// May be a key: worth a look-up.
    Plausible,
    /// Without the prefix, too short, too long, or with a character that no key has.
    NotAKey,
    /// Has the shape of a made key, but was mistyped or invented.
    WrongChecksum,
}

pub fn generate() -> SecretString {
    from_seed(rand::random())
}

/// The same secret for the same seed, which nobody else may know.
pub fn from_seed(seed: [u8; 32]) -> SecretString {
    let mut random = StdRng::from_seed(seed);
    let mut secret = String::with_capacity(PREFIX.len() + RANDOM_LENGTH + CHECKSUM_LENGTH);
    secret.push_str(PREFIX);
    for _ in 0..RANDOM_LENGTH {
        secret.push(char::from(ALPHABET[random.random_range(0..ALPHABET.len())]));
    }
    secret.push_str(&checksum(&secret));
    secret.into()
}

pub fn form(text: &str) -> Form {
    let Some(body) = text.strip_prefix(PREFIX) else { return Form::NotAKey };
    if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Form::NotAKey;
    }
    let made = body.len() == RANDOM_LENGTH + CHECKSUM_LENGTH && body.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (head, tail) = text.split_at(text.len() - CHECKSUM_LENGTH);
    if made && checksum(head) != tail { Form::WrongChecksum } else { Form::Plausible }
}

/// The CRC-32 in base 62, which fits six digits.
fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [ALPHABET[0]; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        let index = usize::try_from(rest % 62).unwrap_or(0);
        *digit = ALPHABET[index];
        rest /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

/// HMAC-SHA-256 under the installation's pepper: a stolen table of hashes is of no use without it.
#[derive(Clone)]
pub struct KeyHasher {
    keyed: Hmac<Sha256>,
}

impl KeyHasher {
    pub fn new(pepper: &[u8; 32]) -> Self {
        // One block of SHA-256, padded with zeros as RFC 2104 does with shorter keys.
        let mut block = [0; 64];
        block[..pepper.len()].copy_from_slice(pepper);
        Self { keyed: Hmac::new(&block.into()) }
    }

    pub fn hash(&self, secret: &str) -> KeyHash {
        let mut keyed = self.keyed.clone();
        keyed.update(secret.as_bytes());
        keyed.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::collections::HashSet;

    #[test]
    fn every_made_secret_is_plausible_and_different() {
        let secrets: HashSet<String> = (0..1_000).map(|_| generate().expose_secret().to_owned()).collect();
        assert_eq!(secrets.len(), 1_000);
        assert!(secrets.iter().all(|secret| form(secret) == Form::Plausible && secret.len() == 51));
    }

    #[test]
    fn one_wrong_character_is_noticed_without_the_store() {
        let secret = generate().expose_secret().to_owned();
        for at in PREFIX.len()..secret.len() {
            let mut typo = secret.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(form(&String::from_utf8(typo).unwrap()), Form::WrongChecksum, "at {at}");
        }
    }

    #[test]
    fn an_operators_own_key_is_plausible_unless_it_is_too_short_too_long_or_unprintable() {
        let long = format!("weir_{}", "k".repeat(250));
        let too_long = format!("{long}k");
        for good in ["weir_choose-your-own-key", "weir_0123456789abcdef0123456789abcdef0123456789abcdef", "weir_a!b#c$d%e&f'g(h)", &long] {
            assert_eq!(form(good), Form::Plausible, "{good}");
        }
        for bad in [
            "",
            "weir_",
            "weir_tooshort",
            "sk-0123456789abcdef0123",
            "WEIR_0123456789abcdef",
            "weir_with a space in it",
            "weir_mit-ümlaut-und-mehr",
            &too_long,
        ] {
            assert_eq!(form(bad), Form::NotAKey, "{bad}");
        }
    }

    /// Stored hashes must stay findable over releases. Reference: `openssl dgst -sha256 -mac HMAC -macopt hexkey:0707…07`.
    #[test]
    fn the_hash_of_a_secret_never_changes() {
        let hash = KeyHasher::new(&[7; 32]).hash("weir_test");
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "a57868649c300928e8172320cecca296e915897a8b1b79fcc4edcef4cb4c3c05");
        assert_ne!(KeyHasher::new(&[8; 32]).hash("weir_test"), hash);
    }
}

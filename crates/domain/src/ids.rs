//! Who and what: typed ids, provider and model names, the payer and the shard that everything of a payer belongs to.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use thiserror::Error;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// Ordered streams of events; equal to the number of partitions of the usage topic.
pub const SHARDS: u8 = 64;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            /// Accepts any spelling of a UUID with hyphens; there is one value per UUID, however it was written.
            fn from_str(text: &str) -> Result<Self, IdError> {
                match text.len() {
                    36 => Uuid::parse_str(text).map(Self).map_err(|_| IdError),
                    _ => Err(IdError),
                }
            }
        }
    };
}

uuid_id!(UserId);
uuid_id!(OrgId);
uuid_id!(
    /// An API key's public id (never the secret).
    KeyId
);
uuid_id!(EventId);
uuid_id!(
    /// A charge. Carries its shard, see [`ChargeId::new`].
    ChargeId
);
uuid_id!(
    /// A saga. Carries its shard as a charge's id does.
    SagaId
);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("is not a UUID such as 6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11")]
pub struct IdError;

impl ChargeId {
    /// A UUIDv7 whose 12 bits after the version hold the shard, so that the id alone says where its rows are.
    pub fn new(shard: Shard, now: DateTime<Utc>) -> Self {
        Self(made_in(shard, now))
    }

    /// Of usage that names itself: the same id for the same hash of its name, so that it is booked once.
    pub const fn of_usage(shard: Shard, name_hash: [u8; 16]) -> Self {
        let mut bytes = name_hash;
        bytes[6] = 0x70;
        bytes[7] = shard.index();
        bytes[8] = (name_hash[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }

    /// Milliseconds since the Unix epoch; of an id made by [`ChargeId::of_usage`], any number.
    pub fn made_at_ms(self) -> i64 {
        self.0.as_bytes()[..6].iter().fold(0, |millis, byte| millis << 8 | i64::from(*byte))
    }

    /// `None` for ids that neither [`ChargeId::new`] nor [`ChargeId::of_usage`] made; such a charge does not exist.
    pub fn shard(self) -> Option<Shard> {
        shard_in(self.0)
    }
}

impl SagaId {
    pub fn new(shard: Shard, now: DateTime<Utc>) -> Self {
        Self(made_in(shard, now))
    }

    /// `None` for ids that [`SagaId::new`] did not make; such a saga does not exist.
    pub fn shard(self) -> Option<Shard> {
        shard_in(self.0)
    }
}

fn made_in(shard: Shard, now: DateTime<Utc>) -> Uuid {
    let random = Uuid::new_v4().into_bytes();
    let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0).to_be_bytes();
    let mut bytes = random;
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6] = 0x70;
    bytes[7] = shard.index();
    bytes[8] = (random[8] & 0x3f) | 0x80;
    Uuid::from_bytes(bytes)
}

fn shard_in(id: Uuid) -> Option<Shard> {
    let bytes = id.as_bytes();
    if bytes[6] != 0x70 {
        return None;
    }
    Shard::new(bytes[7]).ok()
}

impl EventId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

/// One of the [`SHARDS`] streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Shard(u8);

#[derive(Debug, Error)]
#[error("a shard is a number below {SHARDS}, not {0}")]
pub struct ShardError(u8);

impl Shard {
    pub const fn new(index: u8) -> Result<Self, ShardError> {
        if index < SHARDS { Ok(Self(index)) } else { Err(ShardError(index)) }
    }

    pub fn of_tenant(tenant: Uuid) -> Self {
        let index = xxh3_64(tenant.as_bytes()) % u64::from(SHARDS);
        Self(u8::try_from(index).unwrap_or(0))
    }

    pub const fn index(self) -> u8 {
        self.0
    }

    pub fn all() -> impl Iterator<Item = Self> {
        (0..SHARDS).map(Self)
    }
}

impl TryFrom<u8> for Shard {
    type Error = ShardError;
    fn try_from(index: u8) -> Result<Self, ShardError> {
        Self::new(index)
    }
}

impl From<Shard> for u8 {
    fn from(shard: Shard) -> Self {
        shard.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose pool pays. Also the tenant: every row of the ledger belongs to one payer and lives in its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "UPPERCASE")]
pub enum Payer {
    User(UserId),
    Org(OrgId),
}

impl Payer {
    pub const fn tenant(self) -> Uuid {
        match self {
            Self::User(id) => id.0,
            Self::Org(id) => id.0,
        }
    }

    pub fn shard(self) -> Shard {
        Shard::of_tenant(self.tenant())
    }

    pub const fn org(self) -> Option<OrgId> {
        match self {
            Self::User(_) => None,
            Self::Org(id) => Some(id),
        }
    }

    /// `USER` or `ORG`, as stored in columns and shown in answers.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::User(_) => "USER",
            Self::Org(_) => "ORG",
        }
    }

    pub fn from_parts(kind: &str, id: Uuid) -> Option<Self> {
        match kind {
            "USER" => Some(Self::User(UserId(id))),
            "ORG" => Some(Self::Org(OrgId(id))),
            _ => None,
        }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr, $extra:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Trims and lower-cases, so that ` OpenAI` and `openai` are one name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let name = text.trim().to_lowercase();
                if name.is_empty() {
                    return Err(NameError::Blank);
                }
                if name.len() > $max {
                    return Err(NameError::TooLong { limit: $max });
                }
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || $extra.contains(&byte);
                if !name.bytes().all(allowed) {
                    return Err(NameError::Character);
                }
                Ok(Self(name))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name_type!(
    /// An upstream API: `openai`, `gemini`, `qwen`, … (letters, digits, `-`, `_`; at most 50 bytes).
    Provider,
    50,
    b"-_"
);
name_type!(
    /// A model inside a provider (letters, digits, `-`, `_`, `.`, `:`, `/`, `@`, `+`; at most 100 bytes).
    Model,
    100,
    b"-_.:/@+"
);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    #[error("is blank")]
    Blank,
    #[error("is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("contains a character that is not allowed")]
    Character,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_id_is_a_version_7_uuid_that_names_its_shard() {
        for shard in Shard::all() {
            let id = ChargeId::new(shard, Utc::now());
            assert_eq!(id.0.get_version_num(), 7);
            assert_eq!(id.shard(), Some(shard));
        }
        assert_eq!(ChargeId(Uuid::new_v4()).shard(), None);
    }

    /// Stored rows and partitions depend on it: another number would lose them.
    #[test]
    fn a_payer_keeps_its_shard_and_payers_share_all_of_them_evenly() {
        let shards: Vec<Shard> = Shard::all().collect();
        assert_eq!(shards.iter().map(|shard| u8::from(*shard)).collect::<Vec<_>>(), (0..64).collect::<Vec<_>>());
        let mut payers = [0; 64];
        (0..6_400_u128).for_each(|number| payers[usize::from(Shard::of_tenant(Uuid::from_u128(number)).index())] += 1);
        assert!(payers.iter().all(|count| (50..=160).contains(count)), "{payers:?}");
        let org = Payer::Org(OrgId(Uuid::from_u128(7)));
        assert_eq!((org.shard(), Shard(9).to_string(), Shard::new(64).is_err()), (Shard::of_tenant(org.tenant()), "9".into(), true));
    }

    #[test]
    fn a_payer_is_a_user_or_an_org_and_comes_back_from_its_parts() {
        let id = Uuid::from_u128(7);
        let (user, org) = (Payer::User(UserId(id)), Payer::Org(OrgId(id)));
        assert_eq!((user.org(), org.org()), (None, Some(OrgId(id))));
        assert_eq!((user.kind(), org.kind()), ("USER", "ORG"));
        for payer in [user, org] {
            assert_eq!(Payer::from_parts(payer.kind(), payer.tenant()), Some(payer));
        }
        assert_eq!(Payer::from_parts("user", id), None);
    }

    #[test]
    fn the_id_of_usage_is_made_of_its_name_and_names_its_shard_too() {
        for byte in [0, 0x5a, 0xff] {
            let id = ChargeId::of_usage(Shard(63), [byte; 16]);
            assert_eq!((id.shard(), id.0.get_version_num(), id.0.get_variant()), (Some(Shard(63)), 7, uuid::Variant::RFC4122));
            assert_eq!(id, ChargeId::of_usage(Shard(63), [byte; 16]));
            let kept = id.0.as_bytes();
            assert!(kept[..6].iter().chain(&kept[9..]).all(|own| *own == byte) && kept[8] & 0x3f == byte & 0x3f, "{id}");
        }
    }

    #[test]
    fn charge_ids_sort_by_time() {
        let early = ChargeId::new(Shard(5), DateTime::from_timestamp_millis(1_000).unwrap());
        let late = ChargeId::new(Shard(1), DateTime::from_timestamp_millis(1_001).unwrap());
        assert!(early < late);
        assert_eq!((early.made_at_ms(), late.made_at_ms()), (1_000, 1_001));
    }

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(Provider::parse(" OpenAI "), Provider::parse("openai"));
        assert_eq!(Provider::parse("  "), Err(NameError::Blank));
        assert_eq!(Provider::parse("open ai"), Err(NameError::Character));
        assert_eq!(Model::parse("GPT-4o"), Model::parse("gpt-4o"));
    }

    #[test]
    fn any_spelling_of_a_uuid_is_the_same_user() {
        let id: UserId = "6F1F3C0E-7F53-4A8E-9D5C-0B9A4F9A2E11".parse().unwrap();
        assert_eq!(id.to_string(), "6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11");
        assert!("6f1f3c0e7f534a8e9d5c0b9a4f9a2e11".parse::<UserId>().is_err());
    }
}

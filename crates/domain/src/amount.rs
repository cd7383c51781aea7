//! Amounts of tokens: whole numbers from 0 to 2^53 − 1, added and subtracted only with a check.

use serde::{Deserialize, Serialize};
use std::{fmt, iter};
use thiserror::Error;

/// An amount of tokens, 0 ..= [`Tokens::MAX`]. The largest value is the largest integer that every JSON reader keeps exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Tokens(i64);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum AmountError {
    #[error("the amount is negative")]
    Negative,
    #[error("the amount exceeds {}", Tokens::MAX)]
    TooLarge,
}

impl Tokens {
    pub const ZERO: Self = Self(0);
    /// 2^53 − 1.
    pub const MAX: Self = Self((1 << 53) - 1);

    pub const fn new(amount: i64) -> Result<Self, AmountError> {
        if amount < 0 {
            return Err(AmountError::Negative);
        }
        if amount > Self::MAX.0 {
            return Err(AmountError::TooLarge);
        }
        Ok(Self(amount))
    }

    pub const fn get(self) -> i64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` when the sum would exceed [`Tokens::MAX`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(|sum| Self::new(sum).ok())
    }

    /// `None` when `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Self::new(self.0 - other.0).ok()
    }

    /// 0 when `other` is larger.
    pub fn saturating_sub(self, other: Self) -> Self {
        self.checked_sub(other).unwrap_or(Self::ZERO)
    }
}

impl TryFrom<i64> for Tokens {
    type Error = AmountError;
    fn try_from(amount: i64) -> Result<Self, AmountError> {
        Self::new(amount)
    }
}

impl From<Tokens> for i64 {
    fn from(amount: Tokens) -> Self {
        amount.0
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sums of many amounts, which may exceed what one amount may hold.
impl iter::Sum<Tokens> for i128 {
    fn sum<I: Iterator<Item = Tokens>>(amounts: I) -> i128 {
        amounts.map(|amount| i128::from(amount.0)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_never_negative_and_never_above_the_largest_exact_json_integer() {
        assert_eq!(Tokens::new(-1), Err(AmountError::Negative));
        assert_eq!(Tokens::new(1 << 53), Err(AmountError::TooLarge));
        assert_eq!(Tokens::MAX.checked_add(Tokens(1)), None);
        assert_eq!(Tokens(1).checked_sub(Tokens(2)), None);
        assert_eq!(Tokens(3).checked_add(Tokens(4)), Some(Tokens(7)));
        assert!(serde_json::from_str::<Tokens>("9007199254740992").is_err());
        assert!(serde_json::from_str::<Tokens>("1.0").is_err());
    }
}

//! Rates and factors: decimals with exactly three places, so that a leak per millisecond is a whole number of micro-tokens.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// A non-negative decimal in thousandths, at most [`Thousandths::MAX`]. Written in JSON as a plain number (`10`, `0.5`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thousandths(i64);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum FixedPointError {
    #[error("must be a number with at most three decimal places")]
    NotADecimal,
    #[error("must be between 0 and 1000000000")]
    OutOfRange,
}

impl Thousandths {
    pub const ONE: Self = Self(1_000);
    /// 10^9 (as 10^12 thousandths).
    pub const MAX: Self = Self(1_000_000_000_000);

    pub fn new(thousandths: i64) -> Result<Self, FixedPointError> {
        if (0..=Self::MAX.0).contains(&thousandths) { Ok(Self(thousandths)) } else { Err(FixedPointError::OutOfRange) }
    }

    /// The value times 1,000.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// `value × self`, rounded half up; saturates at `ceiling`.
    pub fn scale(self, value: i64, ceiling: i64) -> i64 {
        let product = (i128::from(value) * i128::from(self.0) + 500) / 1_000;
        i64::try_from(product).unwrap_or(ceiling).min(ceiling)
    }
}

impl FromStr for Thousandths {
    type Err = FixedPointError;
    fn from_str(text: &str) -> Result<Self, FixedPointError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || (text.contains('.') && fraction.is_empty()) {
            return Err(FixedPointError::NotADecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 3 {
            return Err(FixedPointError::NotADecimal);
        }
        let whole: i64 = whole.parse().map_err(|_| FixedPointError::OutOfRange)?;
        let fraction: i64 = format!("{fraction:0<3}").parse().map_err(|_| FixedPointError::NotADecimal)?;
        Self::new(whole.checked_mul(1_000).and_then(|whole| whole.checked_add(fraction)).ok_or(FixedPointError::OutOfRange)?)
    }
}

impl fmt::Display for Thousandths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 1_000, self.0 % 1_000);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{fraction:03}").trim_end_matches('0'))
    }
}

impl Serialize for Thousandths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = serde_json::Number::from_str(&self.to_string()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Thousandths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        number.to_string().parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_decimal_places_are_exact_and_a_fourth_is_refused() {
        assert_eq!("10".parse(), Ok(Thousandths(10_000)));
        assert_eq!("0.5".parse(), Ok(Thousandths(500)));
        assert_eq!("1.250000".parse(), Ok(Thousandths(1_250)));
        assert_eq!("0.0001".parse::<Thousandths>(), Err(FixedPointError::NotADecimal));
        for text in ["-1", "", ".5", "1.", "1.x", "x.5", "1.5.5", "+1"] {
            assert_eq!(text.parse::<Thousandths>(), Err(FixedPointError::NotADecimal), "{text:?}");
        }
        assert_eq!("1e3".parse::<Thousandths>(), Err(FixedPointError::NotADecimal));
        assert_eq!("1000000000.001".parse::<Thousandths>(), Err(FixedPointError::OutOfRange));
        assert_eq!(serde_json::to_string(&Thousandths(1_250)).unwrap(), "1.25");
        assert_eq!(serde_json::from_str::<Thousandths>("0.125").unwrap(), Thousandths(125));
        assert_eq!(Thousandths(1_500).scale(3, 100), 5);
        assert_eq!(Thousandths(2_000).scale(80, 100), 100);
    }
}

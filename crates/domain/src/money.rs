//! Money: prices as decimals per million tokens, costs as whole minor units of the installation's one currency.
//!
//! The rounding rule: a charge's exact cost is summed over its kinds of tokens and then rounded once, half to even, to minor units.
//! Sums of costs are sums of these whole numbers, so a report never disagrees with its charges.

use crate::{
    amount::Tokens,
    ids::{Model, Provider},
};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};
use thiserror::Error;

/// Decimal places of a price at most; also of a minor unit.
const PLACES: u32 = 9;
/// Largest price of a million tokens.
const LARGEST_PRICE: i64 = 1_000_000;

/// A code of ISO 4217 such as `USD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

#[derive(Debug, Error, PartialEq, Eq)]
pub enum MoneyError {
    #[error("must be three capital letters such as USD")]
    NotACurrency,
    #[error("must be a decimal text such as \"2.50\" with at most {PLACES} places, from 0 to {LARGEST_PRICE}")]
    NotAPrice,
    #[error("costs more than {} minor units", Tokens::MAX)]
    TooLarge,
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| MoneyError::NotACurrency)?;
        if code.iter().all(u8::is_ascii_uppercase) { Ok(Self(code)) } else { Err(MoneyError::NotACurrency) }
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.to_string()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(*letter)))
    }
}

/// In what all costs of an installation are counted. Set once: totals of two units cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Money {
    pub currency: Currency,
    /// A minor unit is 10^−digits of the currency: 2 for cents, 6 where single calls cost less than a cent. At most 9.
    pub minor_unit_digits: u32,
}

impl Money {
    pub fn invalid(&self) -> Option<(&'static str, String)> {
        (self.minor_unit_digits > PLACES).then(|| ("minorUnitDigits", format!("minorUnitDigits must be at most {PLACES}")))
    }
}

/// What a charge costs, in minor units, 0 ..= 2^53 − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    pub minor_units: Tokens,
    pub currency: Currency,
}

/// Major units per million tokens: a decimal, written as text so that no reader rounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitPrice(Decimal);

impl UnitPrice {
    /// In 10^−9 of a major unit.
    fn nanos(self) -> i128 {
        let missing = PLACES.saturating_sub(self.0.scale());
        self.0.mantissa() * 10_i128.pow(missing)
    }
}

impl FromStr for UnitPrice {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let plain = text.len() <= 30 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let price = Decimal::from_str_exact(text).ok().filter(|_| plain).map(|price| price.normalize());
        match price {
            Some(price) if price.scale() <= PLACES && price <= Decimal::from(LARGEST_PRICE) => Ok(Self(price)),
            _ => Err(MoneyError::NotAPrice),
        }
    }
}

impl Serialize for UnitPrice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for UnitPrice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a model costs from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Price {
    pub provider: Provider,
    /// Absent: every model without a price of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Charges made earlier have the price before it. Absent: since ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<DateTime<Utc>>,
    pub input_per_million: UnitPrice,
    pub output_per_million: UnitPrice,
    /// Of input that the provider read from its cache. Absent: as other input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_per_million: Option<UnitPrice>,
}

/// The tokens of a charge by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenKinds {
    /// Not told apart: each costs as much as the dearest kind.
    Together(Tokens),
    /// `cached` is a part of `input`.
    Apart { input: Tokens, output: Tokens, cached: Tokens },
}

impl Price {
    /// Of the dearest kind of tokens: what those cost that nothing tells apart.
    pub fn dearest(&self) -> UnitPrice {
        let cached = self.cached_input_per_million.unwrap_or(self.input_per_million);
        self.input_per_million.max(self.output_per_million).max(cached)
    }

    /// The cost of these tokens, rounded half to even.
    pub fn cost(&self, tokens: TokenKinds, money: Money) -> Result<Cost, MoneyError> {
        let cached_price = self.cached_input_per_million.unwrap_or(self.input_per_million);
        let of = |tokens: Tokens, price: UnitPrice| i128::from(tokens.get()) * price.nanos();
        let nanos = match tokens {
            TokenKinds::Together(all) => of(all, self.dearest()),
            TokenKinds::Apart { input, output, cached } => {
                of(input.saturating_sub(cached), self.input_per_million) + of(cached, cached_price) + of(output, self.output_per_million)
            }
        };
        // Nano-units of a million tokens' price per token: 10^15 of them are a major unit.
        let rounded = half_to_even(nanos, 10_i128.pow(PLACES + 6 - money.minor_unit_digits.min(PLACES)));
        let minor_units = i64::try_from(rounded).ok().and_then(|units| Tokens::new(units).ok()).ok_or(MoneyError::TooLarge)?;
        Ok(Cost { minor_units, currency: money.currency })
    }

    fn applies_to(&self, provider: &Provider, model: Option<&Model>, at: DateTime<Utc>) -> bool {
        self.provider == *provider
            && (self.model.is_none() || self.model.as_ref() == model)
            && self.effective_from.is_none_or(|from| from <= at)
    }
}

/// The price in force at a moment: a model's own before its provider's, the latest of them.
pub fn price_at<'p>(
    prices: &'p BTreeMap<String, Price>,
    provider: &Provider,
    model: Option<&Model>,
    at: DateTime<Utc>,
) -> Option<&'p Price> {
    let applying = prices.values().filter(|price| price.applies_to(provider, model, at));
    applying.max_by_key(|price| (price.model.is_some(), price.effective_from))
}

fn half_to_even(amount: i128, unit: i128) -> i128 {
    let (whole, rest) = (amount / unit, amount % unit);
    match (rest * 2).cmp(&unit) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + whole % 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(amount: i64) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    fn money(digits: u32) -> Money {
        Money { currency: "USD".parse().unwrap(), minor_unit_digits: digits }
    }

    fn price(input: &str, output: &str, cached: Option<&str>) -> Price {
        Price {
            provider: Provider::parse("openai").unwrap(),
            model: None,
            effective_from: None,
            input_per_million: input.parse().unwrap(),
            output_per_million: output.parse().unwrap(),
            cached_input_per_million: cached.map(|text| text.parse().unwrap()),
        }
    }

    #[test]
    fn a_currency_is_three_capital_letters_and_has_nine_places_at_most() {
        let usd: Currency = "USD".parse().unwrap();
        assert_eq!(
            (usd.to_string(), String::from(usd), serde_json::to_string(&usd).unwrap()),
            ("USD".into(), "USD".into(), "\"USD\"".into())
        );
        for text in ["", "US", "USDT", "usd", "U$D"] {
            assert_eq!(text.parse::<Currency>(), Err(MoneyError::NotACurrency), "{text:?}");
        }
        assert_eq!((money(0).invalid(), money(9).invalid()), (None, None));
        let (field, message) = money(10).invalid().unwrap();
        assert_eq!((field, message.as_str()), ("minorUnitDigits", "minorUnitDigits must be at most 9"));
    }

    #[test]
    fn each_kind_of_tokens_has_its_price_and_the_sum_is_rounded_once() {
        let price = price("2.50", "10", Some("1.25"));
        let apart = TokenKinds::Apart { input: tokens(1_000), output: tokens(500), cached: tokens(200) };
        // 800 × 2.5 + 200 × 1.25 + 500 × 10 = 7,250 millionths of a dollar.
        assert_eq!(price.cost(apart, money(6)).unwrap().minor_units, tokens(7_250));
        assert_eq!(price.cost(apart, money(2)).unwrap().minor_units, tokens(1));
        assert_eq!(price.cost(TokenKinds::Together(tokens(1_500)), money(6)).unwrap().minor_units, tokens(15_000));
    }

    #[test]
    fn a_half_goes_to_the_even_neighbour() {
        let cents = |count| price("5000", "0", None).cost(TokenKinds::Together(tokens(count)), money(2)).unwrap().minor_units.get();
        assert_eq!([cents(1), cents(2), cents(3), cents(5)], [0, 1, 2, 2]);
    }

    #[test]
    fn a_cost_beyond_the_largest_amount_is_an_error() {
        let dear = price("1000000", "1000000", None);
        assert_eq!(dear.cost(TokenKinds::Together(Tokens::MAX), money(2)), Err(MoneyError::TooLarge));
        assert!(dear.cost(TokenKinds::Together(Tokens::MAX), money(0)).is_ok());
    }

    #[test]
    fn a_price_is_a_plain_decimal_within_its_bounds() {
        for good in ["0", "2.5", "2.50", "0.000000001", "1000000"] {
            assert!(good.parse::<UnitPrice>().is_ok(), "{good}");
        }
        for bad in ["", "-1", "+1", "1e3", "0.0000000001", "1000000.1", "1_000", "one", " 1", "NaN"] {
            assert_eq!(bad.parse::<UnitPrice>(), Err(MoneyError::NotAPrice), "{bad}");
        }
        assert!(serde_json::from_str::<UnitPrice>("2.5").is_err(), "a JSON number may have been rounded");
        assert_eq!(serde_json::to_string(&"2.50".parse::<UnitPrice>().unwrap()).unwrap(), "\"2.5\"");
    }

    #[test]
    fn a_models_own_price_goes_before_the_providers_and_the_latest_before_older_ones() {
        let at = |text: &str| Some(text.parse::<DateTime<Utc>>().unwrap());
        let (provider, model) = (Provider::parse("openai").unwrap(), Model::parse("gpt-4o").unwrap());
        let prices = BTreeMap::from([
            ("all".to_owned(), price("1", "1", None)),
            ("all-2027".to_owned(), Price { effective_from: at("2027-01-01T00:00:00Z"), ..price("2", "2", None) }),
            ("own".to_owned(), Price { model: Some(model.clone()), ..price("3", "3", None) }),
        ]);
        let in_force = |model: Option<&Model>, moment: &str| {
            price_at(&prices, &provider, model, at(moment).unwrap()).map(|price| price.input_per_million)
        };
        let expected = |text: &str| Some(text.parse::<UnitPrice>().unwrap());
        assert_eq!(in_force(None, "2026-12-31T23:59:59Z"), expected("1"));
        assert_eq!(in_force(None, "2027-01-01T00:00:00Z"), expected("2"));
        assert_eq!(in_force(Some(&model), "2027-06-01T00:00:00Z"), expected("3"));
        assert_eq!(price_at(&prices, &Provider::parse("qwen").unwrap(), None, at("2027-06-01T00:00:00Z").unwrap()), None);
    }

    proptest! {
        /// Against the exact fraction: the cost is the nearest whole number, the even one of two.
        #[test]
        fn a_cost_is_the_nearest_whole_number_of_minor_units(
            count in 0i64..1 << 40, mantissa in 0i64..1_000_000_000, scale in 0u32..=9, digits in 0u32..=9,
        ) {
            let text = Decimal::new(mantissa, scale).to_string();
            let Ok(unit_price) = text.parse::<UnitPrice>() else { return Ok(()) };
            let price = Price { input_per_million: unit_price, output_per_million: unit_price, ..price("0", "0", None) };
            let price = Price { cached_input_per_million: None, ..price };
            let (numerator, denominator) = (i128::from(count) * i128::from(mantissa) * 10_i128.pow(digits), 10_i128.pow(scale + 6));
            match price.cost(TokenKinds::Together(tokens(count)), money(digits)) {
                Err(error) => {
                    prop_assert_eq!(error, MoneyError::TooLarge);
                    prop_assert!(numerator / denominator >= i128::from(Tokens::MAX.get()));
                }
                Ok(cost) => {
                    let units = i128::from(cost.minor_units.get());
                    let twice_off = (numerator - units * denominator).abs() * 2;
                    prop_assert!(twice_off < denominator || (twice_off == denominator && units % 2 == 0));
                }
            }
        }
    }
}

//! Thresholds: how much of something has to be used until somebody is told.

use crate::amount::Tokens;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// A mark that is told about when what is used reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Threshold {
    /// Of the whole: a budget's limit, or what a pool had.
    Percent(u32),
    /// In the unit of what is used.
    Amount(Tokens),
}

impl Threshold {
    /// The used amount at which it is reached; `None` for a share of nothing.
    fn mark(self, whole: Option<Tokens>) -> Option<i128> {
        match self {
            Self::Amount(amount) => Some(amount.get().into()),
            // Rounded up: 50 % of 3 is reached by the second token.
            Self::Percent(percent) => whole.map(|whole| (i128::from(whole.get()) * i128::from(percent) + 99) / 100),
        }
    }

    /// The inverse of its display: `80%`, or an amount.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().ok().map(Self::Percent),
            None => Tokens::new(text.parse().ok()?).ok().map(Self::Amount),
        }
    }

    /// A list of them, as [`Threshold::join`] wrote it.
    pub fn parse_list(text: &str) -> Option<BTreeSet<Self>> {
        text.split(',').filter(|text| !text.is_empty()).map(Self::parse).collect()
    }

    pub fn join(thresholds: &BTreeSet<Self>) -> String {
        thresholds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Amount(amount) => write!(f, "{amount}"),
        }
    }
}

/// Those that are reached where so much is used of the whole, lowest first. Where nothing is used none is.
pub fn reached<'t>(thresholds: impl Iterator<Item = &'t Threshold>, used: i128, whole: Option<Tokens>) -> Vec<Threshold> {
    let marks = thresholds.filter_map(|own| Some((own.mark(whole)?, *own)));
    let mut reached: Vec<(i128, Threshold)> = marks.filter(|(mark, _)| used >= *mark && used > 0).collect();
    reached.sort_unstable();
    reached.into_iter().map(|(_, threshold)| threshold).collect()
}

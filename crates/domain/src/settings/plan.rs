//! A pack of tokens with its price, as the catalogue offers it.

use crate::{amount::Tokens, ids::Provider};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    pub provider: Provider,
    /// Purchased by one purchase.
    pub tokens: Tokens,
    /// Of the installation's currency.
    pub price_minor_units: Tokens,
}

impl Plan {
    pub fn invalid(&self) -> Option<(&'static str, String)> {
        self.tokens.is_zero().then(|| ("tokens", "tokens must be positive".into()))
    }
}

//! `usage` of a request: its tokens by kind, so that each kind has its price; and what a spend costs.

use crate::service::Service;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::ChargeSpec,
    ids::{Model, Provider},
    money::{Cost, TokenKinds},
};
use serde::{Deserialize, Serialize};
use service_kit::problem::Problem;

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UsageBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<i64>,
    input_tokens: i64,
    output_tokens: i64,
}

/// The kinds of `tokens`; all together when nothing tells them apart.
pub fn token_kinds(usage: Option<&UsageBody>, tokens: Tokens) -> Result<TokenKinds, Problem> {
    let Some(usage) = usage else { return Ok(TokenKinds::Together(tokens)) };
    let amount = |name: &str, amount: i64| {
        Tokens::new(amount).map_err(|_| Problem::field("usage", format!("usage.{name} must be between 0 and {}", Tokens::MAX)))
    };
    let (input, output) = (amount("inputTokens", usage.input_tokens)?, amount("outputTokens", usage.output_tokens)?);
    let cached = amount("cachedTokens", usage.cached_tokens.unwrap_or(0))?;
    if input.checked_add(output) != Some(tokens) {
        return Err(Problem::field("usage", "usage.inputTokens and usage.outputTokens must add up to tokens"));
    }
    if cached > input {
        return Err(Problem::field("usage", "usage.cachedTokens are a part of usage.inputTokens and cannot be more"));
    }
    Ok(TokenKinds::Apart { input, output, cached })
}

/// At the prices in force when the charge was made.
pub fn cost_of(service: &Service, spec: &ChargeSpec, made_at: DateTime<Utc>, kinds: TokenKinds) -> Result<Option<Cost>, Problem> {
    cost(service, &spec.provider, spec.model.as_ref(), made_at, kinds)
}

pub fn cost(
    service: &Service,
    provider: &Provider,
    model: Option<&Model>,
    at: DateTime<Utc>,
    kinds: TokenKinds,
) -> Result<Option<Cost>, Problem> {
    let cost = service.settings.current().cost(provider, model, at, kinds);
    cost.map_err(|error| Problem::field("tokens", format!("tokens {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(usage: &str) -> Result<TokenKinds, Problem> {
        token_kinds(Some(&serde_json::from_str(usage).unwrap()), Tokens::new(10).unwrap())
    }

    #[test]
    fn the_kinds_add_up_to_the_tokens_and_cached_ones_are_input() {
        assert!(kinds(r#"{"inputTokens":6,"outputTokens":4,"cachedTokens":6}"#).is_ok());
        for wrong in [
            r#"{"inputTokens":6,"outputTokens":5}"#,
            r#"{"inputTokens":6,"outputTokens":4,"cachedTokens":7}"#,
            r#"{"inputTokens":-1,"outputTokens":11}"#,
            r#"{"inputTokens":9223372036854775807,"outputTokens":9223372036854775807}"#,
        ] {
            assert!(kinds(wrong).is_err(), "{wrong}");
        }
    }
}

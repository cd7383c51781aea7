//! Counters of this service. Labels are configured provider names and fixed words only: nothing a client wrote.

use domain::ids::Provider;

/// Every well-formed, authorised consume or reserve. Outcomes are counted apart.
pub fn consume_attempted(provider: &Provider) {
    metrics::counter!("token_consume_attempts_total", "provider" => provider.as_str().to_owned()).increment(1);
}

/// `allowed`, `held`, `replayed`, `rate_limited`, `quota_insufficient`, `provider_failure`, `failed`.
pub fn consumed(provider: &Provider, outcome: &'static str) {
    metrics::counter!("token_consume_total", "provider" => provider.as_str().to_owned(), "outcome" => outcome).increment(1);
}

/// `found`, `not_found`.
pub fn quota_looked_up(provider: &Provider, outcome: &'static str) {
    metrics::counter!("token_quota_lookup_total", "provider" => provider.as_str().to_owned(), "outcome" => outcome).increment(1);
}

/// A lookup that named no configured provider or no valid id.
pub fn quota_lookup_invalid() {
    metrics::counter!("token_quota_lookup_total", "provider" => "none", "outcome" => "invalid").increment(1);
}

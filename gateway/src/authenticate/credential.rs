//! Finds the one credential of a request.

use axum::http::{HeaderMap, HeaderName, header};
use service_kit::problem::Problem;

/// Longer ones are refused without asking anybody, bytes.
const LENGTH_LIMIT: usize = 512;

/// The key from `X-Api-Key`, `Authorization: Bearer` or `x-goog-api-key`. The same key may come in more than one of them; two different ones
/// are refused, because it would be a guess whom the client means.
pub(super) fn of(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut found: Option<&str> = None;
    let own = [HeaderName::from_static("x-api-key"), HeaderName::from_static("x-goog-api-key")];
    let keys = own.iter().flat_map(|name| headers.get_all(name)).map(|value| value.to_str().ok());
    let bearers = headers.get_all(header::AUTHORIZATION).iter().map(|value| value.to_str().ok().and_then(bearer));
    for candidate in keys.chain(bearers) {
        let candidate = candidate.map(str::trim).filter(|key| is_plausible(key)).ok_or_else(invalid)?;
        if found.is_some_and(|found| found != candidate) {
            return Err(Problem::unauthenticated("more than one credential was sent"));
        }
        found = Some(candidate);
    }
    found.ok_or_else(|| Problem::unauthenticated("a credential is required: X-Api-Key, or Authorization: Bearer"))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn is_plausible(key: &str) -> bool {
    (1..=LENGTH_LIMIT).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

fn invalid() -> Problem {
    Problem::unauthenticated("the credential is not valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pairs: &[(&'static str, &str)]) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        of(&headers).map(ToOwned::to_owned).map_err(|problem| problem.detail().to_owned())
    }

    #[test]
    fn a_key_is_found_in_each_of_its_headers() {
        for pair in [
            ("x-api-key", "weir_k"),
            ("x-goog-api-key", "weir_k"),
            ("authorization", "Bearer weir_k"),
            ("authorization", "bearer  weir_k "),
        ] {
            assert_eq!(found(&[pair]).unwrap(), "weir_k", "{pair:?}");
        }
        assert_eq!(found(&[("x-api-key", "weir_k"), ("authorization", "Bearer weir_k")]).unwrap(), "weir_k");
    }

    #[test]
    fn what_is_missing_doubtful_or_of_another_kind_is_refused() {
        assert!(found(&[]).unwrap_err().contains("required"));
        assert!(found(&[("x-api-key", "a"), ("authorization", "Bearer b")]).unwrap_err().contains("more than one"));
        assert!(found(&[("x-api-key", "a"), ("x-api-key", "b")]).is_err());
        for value in ["Basic dTpw", "Bearer", "Bearer ", "weir_k", "", "Bearer a b", "Bearer a\tb"] {
            assert!(found(&[("authorization", value)]).is_err(), "{value:?}");
        }
        assert!(found(&[("x-api-key", "weir_k"), ("authorization", "Basic dTpw")]).is_err(), "one invalid credential spoils the other");
        assert!(found(&[("x-api-key", &"k".repeat(512))]).is_ok());
        assert!(found(&[("x-api-key", &"k".repeat(513))]).is_err());
    }
}

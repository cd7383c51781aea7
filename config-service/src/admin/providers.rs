//! `/api/v1/admin/providers`: the upstream APIs that may be named. Only administrators say where calls go; no caller ever gives a URL.

use super::{change, deleted, listed, load, missing, written};
use crate::{Service, error::Administrator};
use axum::{
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use domain::{
    ids::Provider,
    settings::{ProviderSettings, SettingsChange},
};
use reqwest::Url;
use service_kit::{json::StrictJson, problem::Problem};
use std::collections::BTreeSet;

const URL_LIMIT: usize = 2_000;
const MODEL_LIMIT: usize = 1_000;
/// Ten minutes.
const TIMEOUT_LIMIT_MS: u32 = 600_000;

pub async fn list(State(service): State<Service>, _: Administrator) -> Result<Response, Problem> {
    let settings = load(&service).await?;
    Ok(listed(settings.providers.iter().map(|(name, provider)| (name.as_str(), provider))))
}

pub async fn show(State(service): State<Service>, _: Administrator, Path(name): Path<String>) -> Result<Response, Problem> {
    let provider = parse(&name)?;
    let settings = load(&service).await?;
    let value = settings.providers.get(&provider).ok_or_else(|| missing("provider"))?;
    Ok(axum::Json(super::Named { name: provider.as_str(), value }).into_response())
}

pub async fn put(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
    StrictJson(settings): StrictJson<ProviderSettings>,
) -> Result<Response, Problem> {
    let provider = parse(&name)?;
    if let Some((field, message)) = invalid(&settings) {
        return Err(Problem::field(field, message));
    }
    let put = SettingsChange::PutProvider { provider: provider.clone(), settings: settings.clone() };
    let effect = change(&service, &caller, put).await?;
    Ok(written(&effect, provider.as_str(), &settings))
}

/// Refused while a limit or a plan names the provider.
pub async fn delete(
    State(service): State<Service>,
    Administrator(caller): Administrator,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let provider = parse(&name)?;
    deleted(change(&service, &caller, SettingsChange::DeleteProvider { provider }).await?, "provider")
}

fn parse(name: &str) -> Result<Provider, Problem> {
    Provider::parse(name).map_err(|error| Problem::field("name", format!("name {error}")))
}

/// The first reason why this provider cannot be called, as (field, message).
fn invalid(settings: &ProviderSettings) -> Option<(&'static str, String)> {
    if let Some(reason) = settings.base_url.as_deref().and_then(unusable_url) {
        return Some(("baseUrl", format!("baseUrl {reason}")));
    }
    if settings.timeout_ms == 0 || settings.timeout_ms > TIMEOUT_LIMIT_MS {
        return Some(("timeoutMs", format!("timeoutMs must be between 1 and {TIMEOUT_LIMIT_MS}")));
    }
    if settings.models.len() > MODEL_LIMIT {
        return Some(("models", format!("models must have at most {MODEL_LIMIT} entries")));
    }
    if settings.models.iter().collect::<BTreeSet<_>>().len() < settings.models.len() {
        return Some(("models", "models names a model twice".into()));
    }
    let default_is_listed =
        settings.default_model.as_ref().is_none_or(|model| settings.models.is_empty() || settings.models.contains(model));
    (!default_is_listed).then(|| ("defaultModel", "defaultModel must be one of models".into()))
}

fn unusable_url(text: &str) -> Option<&'static str> {
    if text.len() > URL_LIMIT {
        return Some("is longer than 2000 bytes");
    }
    let Ok(url) = Url::parse(text) else { return Some("is not a URL such as https://api.example.com") };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Some("must begin with http:// or https:// and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Settings are shown to every administrator and kept in every process's folder.
        return Some("must not contain a user name or password");
    }
    (url.query().is_some() || url.fragment().is_some()).then_some("must not have a query or fragment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_http_address_is_a_base_url() {
        for good in ["http://127.0.0.1:8093", "https://api.openai.com/v1", "http://[::1]:80/x"] {
            assert_eq!(unusable_url(good), None, "{good}");
        }
        for bad in [
            "",
            "openai.com",
            "ftp://x",
            "file:///etc/passwd",
            "http://",
            "https://u:p@x",
            "https://u@x",
            "http://x/?k=1",
            "http://x/#a",
            "javascript:alert(1)",
        ] {
            assert!(unusable_url(bad).is_some(), "{bad}");
        }
    }
}

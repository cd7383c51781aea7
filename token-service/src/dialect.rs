//! The four ways in which providers are asked for a completion and report what it cost.

use domain::{
    amount::Tokens,
    ids::{Model, Provider},
    money::TokenKinds,
    settings::Dialect,
};
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};

/// Above this (or the declared amount, if that is larger) a reported usage is no usage: no model reads and writes
/// sixteen million tokens in one call.
const LARGEST_CREDIBLE: i64 = 1 << 24;

/// One call: where to and what with.
#[derive(Debug)]
pub struct Call {
    pub url: Url,
    pub body: Value,
}

/// `None` when the base URL cannot be extended by a path.
pub fn call(dialect: Dialect, base: &Url, provider: &Provider, model: Option<&Model>, prompt: &str) -> Option<Call> {
    let model = model.map_or(fallback_model(dialect), Model::as_str);
    let messages = || json!([{"role": "user", "content": prompt}]);
    let (path, body) = match dialect {
        Dialect::Openai => (vec!["v1", "chat", "completions"], json!({"model": model, "messages": messages()})),
        Dialect::Qwen => (vec!["compatible-mode", "v1", "chat", "completions"], json!({"model": model, "messages": messages()})),
        Dialect::Gemini => {
            let action = format!("{model}:generateContent");
            let body = json!({"contents": [{"role": "user", "parts": [{"text": prompt}]}]});
            return Some(Call { url: extend(base, &["v1beta", "models", &action])?, body });
        }
        Dialect::Chat => (vec!["api", "v1", provider.as_str(), "chat"], json!({"prompt": prompt})),
    };
    Some(Call { url: extend(base, &path)?, body })
}

/// Sent when neither the request nor the settings name a model; real providers require one.
const fn fallback_model(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Openai => "gpt-4o-mini",
        Dialect::Gemini => "gemini-2.0-flash",
        Dialect::Qwen => "qwen-plus",
        Dialect::Chat => "",
    }
}

/// Segments are escaped one by one: a model's name cannot leave its place in the path.
fn extend(base: &Url, segments: &[&str]) -> Option<Url> {
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(segments);
    Some(url)
}

#[derive(Debug, PartialEq, Eq)]
pub enum Usage {
    Reported {
        tokens: Tokens,
        kinds: TokenKinds,
    },
    /// Nothing is said: the declared amount is booked.
    Absent,
}

/// A usage that cannot be: negative, fractional, no number, or beyond what is credible.
#[derive(Debug, PartialEq, Eq)]
pub struct Incredible;

#[derive(Default, Deserialize)]
struct OpenaiAnswer {
    usage: Option<OpenaiUsage>,
}

#[derive(Deserialize)]
struct OpenaiUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    total_tokens: Option<u64>,
    prompt_tokens_details: Option<OpenaiPromptDetails>,
}

#[derive(Deserialize)]
struct OpenaiPromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiAnswer {
    usage_metadata: Option<GeminiUsage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiUsage {
    prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    cached_content_token_count: Option<u64>,
    total_token_count: Option<u64>,
}

pub fn usage(dialect: Dialect, answer: &str, declared: Tokens) -> Result<Usage, Incredible> {
    let (parts, cached, total) = match dialect {
        Dialect::Chat => return Ok(Usage::Absent),
        Dialect::Openai | Dialect::Qwen => {
            let answer: OpenaiAnswer = serde_json::from_str(answer).map_err(|_| Incredible)?;
            let Some(usage) = answer.usage else { return Ok(Usage::Absent) };
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
            ([usage.prompt_tokens, usage.completion_tokens], cached, usage.total_tokens)
        }
        Dialect::Gemini => {
            let answer: GeminiAnswer = serde_json::from_str(answer).map_err(|_| Incredible)?;
            let Some(usage) = answer.usage_metadata else { return Ok(Usage::Absent) };
            ([usage.prompt_token_count, usage.candidates_token_count], usage.cached_content_token_count, usage.total_token_count)
        }
    };
    let sum = parts.into_iter().flatten().try_fold(0_u64, u64::checked_add).ok_or(Incredible)?;
    if total.is_none() && parts.iter().all(Option::is_none) {
        return Ok(Usage::Absent);
    }
    let used = i64::try_from(total.unwrap_or(sum)).map_err(|_| Incredible)?;
    if used > LARGEST_CREDIBLE.max(declared.get()) {
        return Err(Incredible);
    }
    let tokens = Tokens::new(used).map_err(|_| Incredible)?;
    Ok(Usage::Reported { tokens, kinds: kinds(tokens, parts[0], cached) })
}

/// All that is no input is output: thoughts too, which only the total counts.
fn kinds(tokens: Tokens, input: Option<u64>, cached: Option<u64>) -> TokenKinds {
    let amount = |count: Option<u64>| count.and_then(|count| Tokens::new(i64::try_from(count).ok()?).ok());
    match amount(input) {
        Some(input) if input <= tokens => {
            let cached = amount(cached).unwrap_or_default().min(input);
            TokenKinds::Apart { input, output: tokens.saturating_sub(input), cached }
        }
        _ => TokenKinds::Together(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(amount: i64) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    #[test]
    fn each_dialect_reports_its_total() {
        let openai = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#;
        let gemini = r#"{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4,"totalTokenCount":9}}"#;
        let reported = |input, output, cached| {
            let kinds = TokenKinds::Apart { input: tokens(input), output: tokens(output), cached: tokens(cached) };
            Ok(Usage::Reported { tokens: tokens(input + output), kinds })
        };
        assert_eq!(usage(Dialect::Openai, openai, tokens(1)), reported(3, 4, 0));
        assert_eq!(usage(Dialect::Gemini, gemini, tokens(1)), reported(3, 6, 0), "thoughts are output that only the total counts");
        assert_eq!(usage(Dialect::Qwen, r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, tokens(1)), reported(3, 4, 0));
        let cached = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}"#;
        assert_eq!(usage(Dialect::Openai, cached, tokens(1)), reported(3, 4, 2));
    }

    #[test]
    fn no_usage_is_not_the_same_as_one_that_cannot_be() {
        for absent in ["{}", r#"{"usage":null}"#, r#"{"usage":{}}"#] {
            assert_eq!(usage(Dialect::Openai, absent, tokens(1)), Ok(Usage::Absent), "{absent}");
        }
        for bad in ["-1", "1.5", "\"7\"", "1e30", "99999999999", "18446744073709551616", "[1]"] {
            let answer = format!(r#"{{"usage":{{"total_tokens":{bad}}}}}"#);
            assert_eq!(usage(Dialect::Openai, &answer, tokens(1)), Err(Incredible), "{bad}");
        }
        let large = format!(r#"{{"usage":{{"total_tokens":{}}}}}"#, LARGEST_CREDIBLE + 1);
        let all = tokens(LARGEST_CREDIBLE + 1);
        assert_eq!(usage(Dialect::Openai, &large, all), Ok(Usage::Reported { tokens: all, kinds: TokenKinds::Together(all) }));
    }

    #[test]
    fn a_models_name_cannot_leave_its_place_in_the_path() {
        let base: Url = "http://stub:1/base/".parse().unwrap();
        let provider = Provider::parse("gemini").unwrap();
        let model = Model::parse("../../v1/admin").unwrap();
        let call = call(Dialect::Gemini, &base, &provider, Some(&model), "hi").unwrap();
        assert_eq!(call.url.path(), "/base/v1beta/models/..%2F..%2Fv1%2Fadmin:generateContent");
    }
}

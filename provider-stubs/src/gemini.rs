//! Gemini's `generateContent`. Field names are taken in camelCase and snake_case, as Google does.

use crate::{
    completion::{Completion, complete, count_tokens},
    controls::Controls,
    exchange::{Refusal, misbehave, positive, read},
    provider::Provider,
};
use axum::{
    Json,
    body::Bytes,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub async fn generate_content(
    State(provider): State<Provider>,
    Path(call): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(provider, &call, &headers, query.as_deref(), body).await.unwrap_or_else(|refusal| refusal.into_response(provider))
}

async fn answer(
    provider: Provider,
    call: &str,
    headers: &HeaderMap,
    query: Option<&str>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let model = match call.rsplit_once(':') {
        Some((model, "generateContent")) if !model.is_empty() => model,
        Some((_, "streamGenerateContent")) => return Err(Refusal::with_status(StatusCode::NOT_IMPLEMENTED, "this server does not stream")),
        _ => return Err(Refusal::with_status(StatusCode::NOT_FOUND, "the call is models/{model}:generateContent")),
    };
    let (request, mut controls) = read(headers, query, body)?;
    let prompt_tokens = prompt_tokens(&request, &mut controls)?;
    let max_tokens = max_output_tokens(&request)?;
    if let Some(misbehaviour) = misbehave(provider, &controls).await {
        return Ok(misbehaviour);
    }
    Ok(Json(render(model, complete(provider, prompt_tokens, max_tokens, &controls))).into_response())
}

fn prompt_tokens(request: &Map<String, Value>, controls: &mut Controls) -> Result<u64, Refusal> {
    let contents = match request.get("contents") {
        Some(Value::Array(contents)) if !contents.is_empty() => contents,
        _ => return Err(Refusal::of("contents", "contents is not specified")),
    };
    let system = either(request, "systemInstruction", "system_instruction");
    let mut tokens = 0;
    for content in contents.iter().chain(system) {
        let Some(parts) = content.get("parts").and_then(Value::as_array).filter(|parts| !parts.is_empty()) else {
            return Err(Refusal::of("contents", "contents.parts must not be empty"));
        };
        for text in parts.iter().filter_map(|part| part.get("text")?.as_str()) {
            tokens += count_tokens(controls.take_directive(text)?);
        }
    }
    Ok(tokens)
}

fn max_output_tokens(request: &Map<String, Value>) -> Result<Option<u64>, Refusal> {
    let Some(config) = either(request, "generationConfig", "generation_config").and_then(Value::as_object) else { return Ok(None) };
    Ok(positive(config, "maxOutputTokens")?.or(positive(config, "max_output_tokens")?))
}

fn either<'r>(request: &'r Map<String, Value>, camel: &str, snake: &str) -> Option<&'r Value> {
    request.get(camel).or_else(|| request.get(snake)).filter(|value| !value.is_null())
}

fn render(model: &str, completion: Completion) -> Value {
    let mut body = json!({
        "candidates": [{
            "content": {"parts": [{"text": completion.text}], "role": "model"},
            "finishReason": if completion.cut { "MAX_TOKENS" } else { "STOP" },
            "index": 0,
        }],
        "modelVersion": model,
        "responseId": Uuid::new_v4().simple().to_string(),
    });
    if let Some(usage) = completion.usage {
        body["usageMetadata"] =
            json!({"promptTokenCount": usage.prompt, "candidatesTokenCount": usage.completion, "totalTokenCount": usage.total()});
    }
    body
}

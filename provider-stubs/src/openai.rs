//! OpenAI's chat completions call, which Qwen speaks too in its compatible mode. Fields we do not know are accepted, as they are there.

use crate::{
    completion::{Completion, complete, count_tokens},
    controls::Controls,
    exchange::{Refusal, misbehave, positive, read},
    provider::Provider,
};
use axum::{
    Json,
    body::Bytes,
    extract::{RawQuery, State, rejection::BytesRejection},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde_json::{Map, Value, json};
use uuid::Uuid;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

pub async fn chat_completions(
    State(provider): State<Provider>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    answer(provider, &headers, query.as_deref(), body).await.unwrap_or_else(|refusal| refusal.into_response(provider))
}

async fn answer(
    provider: Provider,
    headers: &HeaderMap,
    query: Option<&str>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let (request, mut controls) = read(headers, query, body)?;
    let model = model(&request)?;
    let prompt_tokens = prompt_tokens(&request, &mut controls)?;
    let max_tokens = positive(&request, "max_completion_tokens")?.or(positive(&request, "max_tokens")?);
    refuse_what_is_not_played(&request)?;
    if let Some(misbehaviour) = misbehave(provider, &controls).await {
        return Ok(misbehaviour);
    }
    Ok(Json(render(model, complete(provider, prompt_tokens, max_tokens, &controls))).into_response())
}

fn model(request: &Map<String, Value>) -> Result<&str, Refusal> {
    match request.get("model") {
        Some(Value::String(model)) if !model.trim().is_empty() => Ok(model),
        None | Some(Value::Null | Value::String(_)) => Err(Refusal::of("model", "you must provide a model parameter")),
        Some(_) => Err(Refusal::of("model", "model must be a string")),
    }
}

fn prompt_tokens(request: &Map<String, Value>, controls: &mut Controls) -> Result<u64, Refusal> {
    let messages = match request.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        None | Some(Value::Null) => return Err(Refusal::of("messages", "you must provide a messages parameter")),
        Some(Value::Array(_)) => return Err(Refusal::of("messages", "messages must have at least one message")),
        Some(_) => return Err(Refusal::of("messages", "messages must be an array")),
    };
    let mut tokens = 0;
    for message in messages {
        if !message.get("role").and_then(Value::as_str).is_some_and(|role| ROLES.contains(&role)) {
            return Err(Refusal::of("messages", &format!("each message needs a role, one of {}", ROLES.join(", "))));
        }
        for text in texts(message)? {
            tokens += count_tokens(controls.take_directive(text)?);
        }
    }
    Ok(tokens)
}

/// A message's texts: its content, or the text parts of it. An assistant's message may have none.
fn texts(message: &Value) -> Result<Vec<&str>, Refusal> {
    match message.get("content") {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(parts)) => Ok(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect()),
        None | Some(Value::Null) if message["role"] == "assistant" => Ok(Vec::new()),
        _ => Err(Refusal::of("messages", "each message needs content: a string or an array of parts")),
    }
}

fn refuse_what_is_not_played(request: &Map<String, Value>) -> Result<(), Refusal> {
    if request.get("stream").is_some_and(|stream| *stream != Value::Bool(false) && !stream.is_null()) {
        return Err(Refusal::of("stream", "this server does not stream: leave stream out or set it to false"));
    }
    if positive(request, "n")?.is_some_and(|n| n > 1) {
        return Err(Refusal::of("n", "this server answers with one choice: leave n out or set it to 1"));
    }
    Ok(())
}

fn render(model: &str, completion: Completion) -> Value {
    let mut body = json!({
        "id": format!("chatcmpl-{}", Uuid::new_v4().simple()),
        "object": "chat.completion",
        "created": Utc::now().timestamp(),
        "model": model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": completion.text, "refusal": null},
            "logprobs": null,
            "finish_reason": if completion.cut { "length" } else { "stop" },
        }],
    });
    if let Some(usage) = completion.usage {
        body["usage"] = json!({"prompt_tokens": usage.prompt, "completion_tokens": usage.completion, "total_tokens": usage.total()});
    }
    body
}

//! OpenAI, Gemini and Qwen as real servers to test against: their non-streaming chat calls with exact usage, and what a test asks of them;
//! and a payment processor ([`payment()`]).
//!
//! **Usage** is a plain function of the text: one token per whitespace-separated word, over every text of the request (system texts
//! included, directives not), and over the answer. The answer is `Stubbed <Provider> response`, cut after `max_tokens` words.
//!
//! **Controls** make one request misbehave. They come as headers, as query parameters of the same name, or, because the gateway sends
//! neither, as a prefix of any text in the request: `[[stub status=500 delay-ms=200]] and then the prompt`. Later ones win, in that order.
//!
//! | header or parameter | in a prompt | does |
//! |---|---|---|
//! | `x-stub-delay-ms: 250` | `delay-ms=250` | waits before answering, at most 60,000 ms |
//! | `x-stub-status: 500` | `status=500` | answers this error, 400 to 599, in the provider's shape |
//! | `x-stub-drop: true` | `drop=true` | closes the connection without an answer |
//! | `x-stub-garbage: true` | `garbage=true` | answers 200 with something that is not JSON |
//! | `x-stub-usage: omit` or `12,7` | `usage=omit`, `usage=12,7` | leaves usage out, or reports these prompt and completion tokens |
//! | `x-stub-completion-tokens: 40` | `completion-tokens=40` | answers with that many words, at most 100,000 (`max_tokens` still cuts) |

mod chat;
mod completion;
mod controls;
mod exchange;
mod gemini;
mod openai;
mod payment;
mod provider;

pub use payment::payment;

use axum::{
    Json, Router,
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use provider::Provider;
use serde_json::{Value, json};

/// `POST /v1/chat/completions`, `POST /api/v1/openai/chat`, `GET /livez`.
pub fn openai() -> Router {
    serving(Provider::OpenAi, Router::new().route("/v1/chat/completions", post(openai::chat_completions)))
}

/// `POST /v1beta/models/{model}:generateContent`, `POST /api/v1/gemini/chat`, `GET /livez`.
pub fn gemini() -> Router {
    serving(Provider::Gemini, Router::new().route("/v1beta/models/{call}", post(gemini::generate_content)))
}

/// `POST /compatible-mode/v1/chat/completions`, `POST /api/v1/qwen/chat`, `GET /livez`.
pub fn qwen() -> Router {
    serving(Provider::Qwen, Router::new().route("/compatible-mode/v1/chat/completions", post(openai::chat_completions)))
}

fn serving(provider: Provider, routes: Router<Provider>) -> Router {
    routes
        .route(&format!("/api/v1/{}/chat", provider.name()), post(chat::chat))
        .route("/livez", get(alive))
        .route("/actuator/health", get(health))
        .fallback(move || async move { unknown_path(provider) })
        .method_not_allowed_fallback(move || async move { wrong_method(provider) })
        .with_state(provider)
}

async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn health() -> Json<Value> {
    Json(json!({"status": "UP"}))
}

fn unknown_path(provider: Provider) -> Response {
    provider.error(StatusCode::NOT_FOUND, "this path does not exist here", None)
}

fn wrong_method(provider: Provider) -> Response {
    provider.error(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method", None)
}

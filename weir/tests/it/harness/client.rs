//! Requests and answers.

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// An HTTP client with one credential.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{} {:#}", self.status, self.body);
        self
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn str(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {:#}", self.body)).to_owned()
    }
}

impl Client {
    /// How long a client goes on asking for what has to come true. Nothing is measured by it: a machine may be slow.
    pub const PATIENCE: Duration = Duration::from_secs(180);

    pub fn new(base: &str, key: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A connection kept from before a restart would fail the first request after it.
        let http = reqwest::Client::builder().timeout(Client::PATIENCE).pool_max_idle_per_host(0).build().unwrap();
        Self { http, base: base.to_owned(), key: key.to_owned() }
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// The same credential at this client's address.
    pub fn with_key_of(&self, other: &Self) -> Self {
        self.with_key(&other.key)
    }

    /// The same credential at another process.
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.to_owned(), ..self.clone() }
    }

    /// For many requests to processes that are not restarted.
    pub fn that_keeps_connections(&self) -> Self {
        let http = reqwest::Client::builder().timeout(Client::PATIENCE).build().unwrap();
        Self { http, ..self.clone() }
    }

    pub async fn try_send(&self, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> reqwest::Result<Answer> {
        let request = self.request(method, path, headers);
        answer(if let Some(body) = body { request.json(body) } else { request }).await
    }

    /// A body that is no plain JSON; its content type is among the headers.
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        answer(self.request(Method::POST, path, headers).body(body)).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.key.is_empty() {
            request = request.header("x-api-key", &self.key);
        }
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>, headers: &[(&str, &str)]) -> Answer {
        self.try_send(method, path, body, headers).await.unwrap()
    }

    /// As a client should where the server is overloaded: once more under the same key after the pause that the server asks for. The
    /// flag says that an attempt had an unknown end, after which buckets may hold more than was booked.
    pub async fn post_until_decided(&self, path: &str, body: &Value) -> (Answer, bool) {
        let (key, started, mut unknown) = (Uuid::new_v4().to_string(), Instant::now(), false);
        loop {
            let answer = self.try_send(Method::POST, path, Some(body), &[("idempotency-key", &key)]).await;
            let pause = match &answer {
                Ok(answer) if answer.status == 503 || answer.body["code"] == "idempotency_in_progress" => {
                    let reason = answer.body["reason"].as_str().unwrap_or_default();
                    unknown |= ["did not say", "closed during outages"].iter().any(|text| reason.contains(text));
                    answer.header("retry-after").parse().expect("the pause to make, in seconds")
                }
                Ok(_) => return (answer.unwrap(), unknown),
                Err(_) => {
                    unknown = true;
                    1
                }
            };
            assert!(started.elapsed() < Client::PATIENCE, "{path} is still not decided: {answer:?}");
            tokio::time::sleep(Duration::from_secs(pause)).await;
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(&body), &[]).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(&body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    /// A key for this user, with the default scopes unless others are named.
    pub async fn key_for(&self, user: Uuid, scopes: Option<&[&str]>) -> Self {
        let mut body = json!({"userId": user, "name": "test"});
        if let Some(scopes) = scopes {
            body["scopes"] = json!(scopes);
        }
        let key = self.post("/api/v1/auth/api-keys", body).await.expect(201).str("apiKey");
        self.with_key(&key)
    }
}

async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, headers, body })
}

/// Asks until the answer satisfies; fails with the last answer after `within`.
pub async fn eventually(client: &Client, path: &str, satisfied: impl Fn(&Answer) -> bool) -> Answer {
    let started = Instant::now();
    loop {
        let answer = client.get(path).await;
        if satisfied(&answer) {
            return answer;
        }
        assert!(started.elapsed() < Client::PATIENCE, "{path} still answers {} {:#}", answer.status, answer.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! Users for the consume legs: each with a key, a pool that never runs dry and buckets that never refuse.

use crate::{installation::Installation, load::Prepared};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Uri};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use std::{net::SocketAddr, rc::Rc};
use uuid::Uuid;

const USERS: usize = 400;
/// Bodies that take turns; each request has an idempotency key of its own.
const REQUESTS: usize = 8_000;
const TIER: &str = "BENCH";
const MULTIPLIER: i64 = 1_000_000;
const GRANT: i64 = 1_000_000_000_000_000;

/// Makes the users and prepares what they send.
pub async fn prepare(installation: &Installation, address: SocketAddr, amounts: &[i64]) -> Result<Rc<Vec<Prepared>>> {
    let office = Office { http: reqwest::Client::new(), base: format!("http://{address}"), key: &installation.admin_key };
    let tier = json!({"priority": 50, "bucketCapacityMultiplier": MULTIPLIER, "bucketLeakRateMultiplier": MULTIPLIER});
    office.send(Method::PUT, &format!("/api/v1/admin/tiers/{TIER}"), &tier).await?;
    let mut keys = Vec::with_capacity(USERS);
    for _ in 0..USERS {
        keys.push(office.user().await?);
    }
    let mut random = StdRng::seed_from_u64(20_261_121);
    let request = |number: usize| {
        let note: [u8; 48] = random.random();
        let note: String = note.iter().map(|byte| format!("{byte:02x}")).collect();
        let tokens = amounts[number % amounts.len()];
        let body = json!({"provider": "openai", "model": "gpt-4o", "tokens": tokens, "metadata": {"note": note}});
        let api_key = HeaderValue::from_str(&keys[number % USERS])?;
        Ok(Prepared { uri: Uri::from_static("/api/v1/tokens/consume"), api_key, body: Bytes::from(body.to_string()) })
    };
    Ok(Rc::new((0..REQUESTS).map(request).collect::<Result<_>>()?))
}

/// The same bodies for the echo route.
pub fn to_echo(requests: &[Prepared]) -> Rc<Vec<Prepared>> {
    let echo = |request: &Prepared| Prepared {
        uri: Uri::from_static("/bench/echo"),
        api_key: request.api_key.clone(),
        body: request.body.clone(),
    };
    Rc::new(requests.iter().map(echo).collect())
}

struct Office<'a> {
    http: reqwest::Client,
    base: String,
    key: &'a str,
}

impl Office<'_> {
    /// Answers the new user's key.
    async fn user(&self) -> Result<String> {
        let user = Uuid::new_v4();
        let key = self.send(Method::POST, "/api/v1/auth/api-keys", &json!({"userId": user, "name": "bench"})).await?;
        self.send(Method::PUT, &format!("/api/v1/admin/users/{user}/tier"), &json!({"tier": TIER})).await?;
        let grant = json!({"userId": user, "provider": "openai", "tokens": GRANT, "reason": "bench"});
        self.send(Method::POST, "/api/v1/admin/pools/grant", &grant).await?;
        key["apiKey"].as_str().map(str::to_owned).context("a new key's answer has no apiKey")
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let response = self.http.request(method, format!("{}{path}", self.base)).header("x-api-key", self.key).json(body).send().await?;
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        if !status.is_success() {
            bail!("{path}: {status}: {}", body["message"].as_str().unwrap_or_default());
        }
        Ok(body)
    }
}

//! What an administrator does before a measurement: keys, tiers, limits, orgs, tokens.

use crate::installation::Installation;
use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use uuid::Uuid;

/// Tokens of a pool that never runs dry.
const GRANT: i64 = 1_000_000_000_000_000;

pub struct Office<'a> {
    http: reqwest::Client,
    base: String,
    admin_key: &'a str,
}

impl<'a> Office<'a> {
    pub fn of(installation: &'a Installation, address: SocketAddr) -> Self {
        Self { http: reqwest::Client::new(), base: format!("http://{address}"), admin_key: &installation.admin_key }
    }

    /// A key of this user; without scopes it gets the usual ones.
    pub async fn key(&self, user: Uuid, scopes: &[&str]) -> Result<String> {
        let mut body = json!({"userId": user, "name": "bench"});
        if !scopes.is_empty() {
            body["scopes"] = scopes.into();
        }
        let key = self.send(Method::POST, "/api/v1/auth/api-keys", &body).await?;
        key["apiKey"].as_str().map(str::to_owned).context("a new key's answer has no apiKey")
    }

    /// Fills a pool; `payer` is `userId` or `orgId`.
    pub async fn grant(&self, payer: &str, id: Uuid) -> Result<()> {
        let mut grant = json!({"provider": "openai", "tokens": GRANT, "reason": "bench"});
        grant[payer] = id.to_string().into();
        self.send(Method::POST, "/api/v1/admin/pools/grant", &grant).await.map(drop)
    }

    /// Puts a resource of the administrator's: `tiers/BENCH`, `limits/burst`.
    pub async fn put(&self, resource: &str, body: &Value) -> Result<()> {
        self.send(Method::PUT, &format!("/api/v1/admin/{resource}"), body).await.map(drop)
    }

    pub async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        self.send_as(self.admin_key, method, path, body).await
    }

    pub async fn send_as(&self, key: &str, method: Method, path: &str, body: &Value) -> Result<Value> {
        let response = self.http.request(method, format!("{}{path}", self.base)).header("x-api-key", key).json(body).send().await?;
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        if !status.is_success() {
            bail!("{path}: {status}: {}", body["message"].as_str().unwrap_or_default());
        }
        Ok(body)
    }
}

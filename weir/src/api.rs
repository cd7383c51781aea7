//! A running Weir as the operator's commands reach it.

use crate::out;
use anyhow::{Context, Result, bail};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::time::Duration;

#[derive(clap::Args, Debug)]
pub struct ApiArgs {
    /// Where Weir answers
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Administrator key
    #[arg(long, env = "WEIR__ADMIN__API_KEY", hide_env_values = true, value_name = "KEY")]
    admin_key: Option<SecretString>,
}

pub struct Api {
    http: reqwest::Client,
    base: String,
    key: SecretString,
}

impl ApiArgs {
    pub fn connect(self) -> Result<Api> {
        let (base, key) = self.address()?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Api { http, base, key })
    }

    /// Where to ask, without a slash at the end, and with which key.
    pub fn address(self) -> Result<(String, SecretString)> {
        let key = self.admin_key.context("an administrator key is needed: pass --admin-key or set WEIR__ADMIN__API_KEY")?;
        Ok((self.url.trim_end_matches('/').to_owned(), key))
    }
}

impl Api {
    /// The answer's body; a refusal becomes an error with the server's own message.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).header("x-api-key", self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{} does not answer; is `weir up` running?", self.base))?;
        let status = response.status();
        let text = response.text().await?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if !status.is_success() {
            let message = body["message"].as_str().unwrap_or("the answer has no message");
            bail!("{path}: {status}: {message}");
        }
        Ok(body)
    }
}

impl Api {
    /// Every item of a paged list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        self.list_with(path, "").await
    }

    /// Every item of a paged list with these parameters.
    pub async fn list_with(&self, path: &str, parameters: &str) -> Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.send(Method::GET, &format!("{path}?{parameters}{cursor}"), None).await?;
            items.extend(page["items"].as_array().cloned().unwrap_or_default());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }
}

/// Facts as JSON on one line, or as a table of the named columns.
pub fn print(items: &[Value], columns: &[&str], json: bool) {
    if json {
        items.iter().for_each(|item| out!("{item}"));
        return;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns.to_vec());
    for item in items {
        table.add_row(columns.iter().map(|column| match &item[*column] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Array(values) => values.iter().map(|value| value.as_str().unwrap_or_default()).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        }));
    }
    out!("{table}");
}

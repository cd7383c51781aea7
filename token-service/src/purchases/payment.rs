//! The payment processor over HTTP. Every call names the saga, so repeating one changes nothing.

use domain::{ids::SagaId, money::Cost};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::json;
use std::time::Duration;

/// Of one call; three of them fit into a claim on a saga.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How the processor answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    Done,
    /// The payer's bank does not pay.
    Declined,
    /// The payment is where this cannot follow.
    Impossible,
    /// No answer, or one that says nothing: done or not done.
    Unknown,
}

#[derive(Clone)]
pub struct PaymentProcessor {
    http: Client,
    base_url: Option<String>,
}

impl PaymentProcessor {
    /// Without an address nothing can be purchased.
    pub fn new(http: Client, base_url: Option<String>) -> Self {
        Self { http, base_url: base_url.map(|url| url.trim_end_matches('/').to_owned()) }
    }

    pub const fn is_configured(&self) -> bool {
        self.base_url.is_some()
    }

    pub async fn authorise(&self, saga: SagaId, price: Cost) -> Paid {
        let body = json!({"amountMinorUnits": price.minor_units.get(), "currency": price.currency.to_string()});
        self.send("authorise", self.request(Method::PUT, saga, "").map(|request| request.json(&body))).await
    }

    pub async fn capture(&self, saga: SagaId) -> Paid {
        self.send("capture", self.request(Method::POST, saga, "/capture")).await
    }

    /// Lets the authorisation go, now or when it arrives; money that was captured is given back.
    pub async fn void(&self, saga: SagaId) -> Paid {
        self.send("void", self.request(Method::POST, saga, "/void")).await
    }

    fn request(&self, method: Method, saga: SagaId, call: &str) -> Option<RequestBuilder> {
        let base = self.base_url.as_ref()?;
        Some(self.http.request(method, format!("{base}/v1/payments/{saga}{call}")).timeout(TIMEOUT))
    }

    async fn send(&self, call: &'static str, request: Option<RequestBuilder>) -> Paid {
        let Some(request) = request else { return Paid::Unknown };
        let paid = match request.send().await.map(|response| response.status()) {
            Ok(status) if status.is_success() => Paid::Done,
            Ok(StatusCode::PAYMENT_REQUIRED) => Paid::Declined,
            Ok(StatusCode::NOT_FOUND | StatusCode::CONFLICT) => Paid::Impossible,
            Ok(status) => {
                tracing::warn!(call, status = status.as_u16(), "the payment processor answered with an error");
                Paid::Unknown
            }
            // The URL stays out of the log: it may carry a key.
            Err(error) => {
                tracing::debug!(call, timeout = error.is_timeout(), connect = error.is_connect(), "a call to the payment processor failed");
                Paid::Unknown
            }
        };
        metrics::counter!("payment_calls_total", "call" => call, "outcome" => format!("{paid:?}").to_lowercase()).increment(1);
        paid
    }
}

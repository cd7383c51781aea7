//! The payment processor over HTTP. Every call names the saga, so repeating one changes nothing.

use domain::{ids::SagaId, money::Cost};
use futures::future::BoxFuture;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Of one call; three of them fit into a claim on a saga.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where purchases are paid.
#[derive(Clone)]
pub enum Payments {
    /// Nothing can be purchased.
    Nowhere,
    /// At this address, over HTTP.
    At(String),
    /// In a simulation, by whoever answers its calls.
    By(Arc<dyn Fn(SagaId, PaymentCall) -> BoxFuture<'static, Paid> + Send + Sync>),
}

/// What the processor is asked about the payment of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaymentCall {
    /// Sets the price aside.
    Authorise(Cost),
    /// Takes what was set aside.
    Capture,
    /// Lets the authorisation go, now or when it arrives; money that was captured is given back.
    Void,
}

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

impl PaymentCall {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorise(_) => "authorise",
            Self::Capture => "capture",
            Self::Void => "void",
        }
    }
}

#[derive(Clone)]
pub struct PaymentProcessor {
    http: Client,
    payments: Payments,
}

impl PaymentProcessor {
    pub const fn new(http: Client, payments: Payments) -> Self {
        Self { http, payments }
    }

    pub const fn is_configured(&self) -> bool {
        !matches!(self.payments, Payments::Nowhere)
    }

    pub async fn ask(&self, saga: SagaId, call: PaymentCall) -> Paid {
        let paid = match &self.payments {
            Payments::Nowhere => Paid::Unknown,
            Payments::At(url) => send(call, self.request(url.trim_end_matches('/'), saga, call)).await,
            Payments::By(answer) => answer(saga, call).await,
        };
        let outcome = format!("{paid:?}").to_lowercase();
        metrics::counter!("payment_calls_total", "call" => call.as_str(), "outcome" => outcome).increment(1);
        paid
    }

    fn request(&self, base_url: &str, saga: SagaId, call: PaymentCall) -> RequestBuilder {
        let payment = format!("{base_url}/v1/payments/{saga}");
        let request = match call {
            PaymentCall::Authorise(price) => {
                let body = json!({"amountMinorUnits": price.minor_units.get(), "currency": price.currency.to_string()});
                self.http.put(payment).json(&body)
            }
            PaymentCall::Capture => self.http.post(format!("{payment}/capture")),
            PaymentCall::Void => self.http.post(format!("{payment}/void")),
        };
        request.timeout(TIMEOUT)
    }
}

async fn send(call: PaymentCall, request: RequestBuilder) -> Paid {
    let call = call.as_str();
    match request.send().await.map(|response| response.status()) {
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
    }
}

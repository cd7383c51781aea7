//! A payment processor as a real server: authorise, capture, void, each idempotent by the reference that the caller chose.
//!
//! | call | does |
//! |---|---|
//! | `PUT /v1/payments/{reference}` `{"amountMinorUnits": 500, "currency": "EUR"}` | authorises; again: the same answer; 409 for another amount, or after a void |
//! | `POST /v1/payments/{reference}/capture` | takes the authorised money; again: the same answer; 409 where nothing is authorised |
//! | `POST /v1/payments/{reference}/void` | lets an authorisation go, or gives captured money back; of an unknown reference nothing can be authorised afterwards |
//! | `GET /v1/payments/{reference}`, `GET /v1/payments` | one payment; all of them |
//! | `PUT /v1/faults` | what happens to the next calls, see [`faults`] |

mod faults;

use crate::exchange::body_that_breaks;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use faults::{Call, Fault, Faults, Loss};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const LARGEST_AMOUNT: u64 = (1 << 53) - 1;
const LONGEST_REFERENCE: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Status {
    Authorised,
    Declined,
    Captured,
    Voided,
    /// Captured, and given back.
    Refunded,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Amount {
    amount_minor_units: u64,
    currency: String,
}

#[derive(Clone, Debug, Serialize)]
struct Payment {
    status: Status,
    /// `None` where only a void was ever heard of it.
    #[serde(flatten)]
    amount: Option<Amount>,
}

#[derive(Clone, Default)]
struct Processor {
    payments: Arc<Mutex<BTreeMap<String, Payment>>>,
    faults: Arc<Mutex<Faults>>,
}

/// `GET /livez` too.
pub fn payment() -> Router {
    Router::new()
        .route("/v1/payments", get(list))
        .route("/v1/payments/{reference}", put(authorise).get(show))
        .route("/v1/payments/{reference}/capture", post(capture))
        .route("/v1/payments/{reference}/void", post(void))
        .route("/v1/faults", put(set_faults))
        .route("/livez", get(crate::alive))
        .with_state(Processor::default())
}

async fn authorise(State(processor): State<Processor>, Path(reference): Path<String>, Json(amount): Json<Amount>) -> Response {
    if amount.amount_minor_units > LARGEST_AMOUNT || amount.currency.len() != 3 || reference.len() > LONGEST_REFERENCE {
        return refusal(StatusCode::BAD_REQUEST, "an amount up to 2^53 - 1, a currency of three letters, a reference of at most 100 bytes");
    }
    let declined = |fault: &Fault| fault.decline;
    processor
        .call(Call::Authorise, |payments, fault| match payments.get(&reference) {
            None => {
                let status = if declined(fault) { Status::Declined } else { Status::Authorised };
                let payment = Payment { status, amount: Some(amount.clone()) };
                payments.insert(reference.clone(), payment.clone());
                answer(if declined(fault) { StatusCode::PAYMENT_REQUIRED } else { StatusCode::CREATED }, &reference, &payment)
            }
            Some(known) if known.amount.as_ref() != Some(&amount) && known.amount.is_some() => {
                refusal(StatusCode::CONFLICT, "the reference stands for another amount")
            }
            Some(known) => answer(code_of(known.status, &[Status::Authorised, Status::Captured]), &reference, known),
        })
        .await
}

async fn capture(State(processor): State<Processor>, Path(reference): Path<String>) -> Response {
    processor
        .call(Call::Capture, |payments, _| match payments.get_mut(&reference) {
            None => refusal(StatusCode::NOT_FOUND, "no such payment"),
            Some(payment) => {
                if payment.status == Status::Authorised {
                    payment.status = Status::Captured;
                }
                answer(code_of(payment.status, &[Status::Captured]), &reference, payment)
            }
        })
        .await
}

async fn void(State(processor): State<Processor>, Path(reference): Path<String>) -> Response {
    processor
        .call(Call::Void, |payments, _| {
            let payment = payments.entry(reference.clone()).or_insert(Payment { status: Status::Voided, amount: None });
            payment.status = match payment.status {
                Status::Authorised | Status::Voided => Status::Voided,
                Status::Captured | Status::Refunded => Status::Refunded,
                Status::Declined => Status::Declined,
            };
            answer(StatusCode::OK, &reference, payment)
        })
        .await
}

async fn show(State(processor): State<Processor>, Path(reference): Path<String>) -> Response {
    match processor.payments().get(&reference) {
        Some(payment) => answer(StatusCode::OK, &reference, payment),
        None => refusal(StatusCode::NOT_FOUND, "no such payment"),
    }
}

async fn list(State(processor): State<Processor>) -> Response {
    let payments = processor.payments();
    let items: Vec<_> = payments.iter().map(|(reference, payment)| Shown { reference, payment }).collect();
    Json(json!({"items": items})).into_response()
}

async fn set_faults(State(processor): State<Processor>, Json(faults): Json<Faults>) -> Json<Faults> {
    processor.faults.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&faults);
    Json(faults)
}

impl Processor {
    fn payments(&self) -> MutexGuard<'_, BTreeMap<String, Payment>> {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call, as far as its fault lets it come.
    async fn call(&self, call: Call, act: impl Fn(&mut BTreeMap<String, Payment>, &Fault) -> Response) -> Response {
        let fault = self.faults.lock().unwrap_or_else(PoisonError::into_inner).next(call);
        tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
        if fault.lose == Some(Loss::Request) {
            return Response::new(body_that_breaks());
        }
        if let Some(status) = fault.status.and_then(|code| StatusCode::from_u16(code).ok()) {
            return refusal(status, "this failure was asked for");
        }
        let mut response = act(&mut self.payments(), &fault);
        if fault.twice {
            response = act(&mut self.payments(), &fault);
        }
        if fault.lose == Some(Loss::Answer) { Response::new(body_that_breaks()) } else { response }
    }
}

fn code_of(status: Status, good: &[Status]) -> StatusCode {
    match status {
        Status::Declined => StatusCode::PAYMENT_REQUIRED,
        status if good.contains(&status) => StatusCode::OK,
        _ => StatusCode::CONFLICT,
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    reference: &'a str,
    #[serde(flatten)]
    payment: &'a Payment,
}

fn answer(code: StatusCode, reference: &str, payment: &Payment) -> Response {
    (code, Json(Shown { reference, payment })).into_response()
}

fn refusal(code: StatusCode, message: &str) -> Response {
    (code, Json(json!({"error": message}))).into_response()
}

//! `POST purchase`: written down and accepted at once; [`worker`] brings it to its end.

mod directed;
mod payment;
mod worker;

pub use directed::{compensate, list_open, resume};
pub use payment::{Paid, PaymentCall, PaymentProcessor, Payments};
pub use worker::work;

use crate::{
    callers::Spender,
    change_once::change_once,
    error, idempotency,
    json_answer::json_answer,
    sagas::SagaRecord,
    service::Service,
    spend_request::{amount, known_provider, named_user, optional_org},
    token_kinds::cost,
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use domain::{
    access::{Caller, Role},
    amount::Tokens,
    ids::{OrgId, Payer, Provider, SagaId, UserId},
    ledger::{Command, Outcome, Purchase},
    money::{Cost, TokenKinds},
    pool::PoolKey,
};
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictJson, problem::Problem};
use std::sync::Arc;

const PURCHASE: &str = "POST /api/v1/tokens/purchase";

/// Alphabetical, see [`crate::consume::ConsumeBody`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PurchaseBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

/// What the catalogue sells.
struct Offer {
    plan_id: Option<String>,
    provider: Provider,
    tokens: Tokens,
    price: Cost,
}

pub async fn purchase(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<PurchaseBody>,
) -> Result<Response, Problem> {
    let keyed = idempotency::keyed(&headers, &caller, PURCHASE, &body)?;
    let user = named_user(body.user_id.as_deref(), &caller)?.id()?;
    let org = optional_org(body.org_id.as_deref())?;
    let offer = offer(&service, &body)?;
    authorise(&service, &caller, user, org, &offer.provider).await?;
    if !service.payment.is_configured() {
        return Err(Problem::unavailable("payment", "no payment processor is configured"));
    }
    let payer = org.map_or(Payer::User(user), Payer::Org);
    let Offer { plan_id, provider, tokens, price } = offer;
    let saga_id = SagaId::new(payer.shard(), service.clock.now());
    let command = Command::StartPurchase(Purchase { saga_id, pool: PoolKey { payer, provider }, user_id: user, plan_id, tokens, price });
    let answer = waking_the_worker(&service, accepted);
    service.to_its_end(change_once(Arc::clone(&service), keyed, command, payer, answer)).await
}

fn offer(service: &Service, body: &PurchaseBody) -> Result<Offer, Problem> {
    let settings = service.settings.current();
    match (&body.plan_id, &body.provider, body.tokens) {
        (Some(id), None, None) => {
            let plan = settings.plans.get(id).zip(settings.money);
            let Some((plan, money)) = plan else {
                let allowed = settings.plans.keys().cloned().collect();
                return Err(Problem::field_allowed("planId", "unknown plan", allowed));
            };
            let price = Cost { minor_units: plan.price_minor_units, currency: money.currency };
            Ok(Offer { plan_id: Some(id.clone()), provider: plan.provider.clone(), tokens: plan.tokens, price })
        }
        (None, Some(provider), tokens) => {
            let tokens = tokens.unwrap_or(0);
            if tokens <= 0 {
                return Err(Problem::field("tokens", "tokens must be positive"));
            }
            let (provider, _) = known_provider(provider, &settings)?;
            let tokens = amount("tokens", tokens)?;
            let price = cost(service, &provider, None, service.clock.now(), TokenKinds::Together(tokens))?;
            let price = price.ok_or_else(|| Problem::field("provider", "the provider has no unit price; name a planId"))?;
            Ok(Offer { plan_id: None, provider, tokens, price })
        }
        (None, None, _) => Err(Problem::field("planId", "planId, or provider and tokens, are required")),
        (Some(_), ..) => Err(Problem::field("planId", "a plan says provider and tokens itself: give either planId or those")),
    }
}

/// For the own pool; for an org as its administrator; for everybody as the platform's.
async fn authorise(service: &Service, caller: &Caller, user: UserId, org: Option<OrgId>, provider: &Provider) -> Result<(), Problem> {
    if !caller.may_use_provider(provider) {
        return Err(error::key_excludes_provider(provider));
    }
    if caller.is_admin() {
        return Ok(());
    }
    if caller.user_id != Some(user) {
        return Err(error::may_not_spend_for_user());
    }
    let Some(org) = org else { return Ok(()) };
    if !caller.may_use_org(org) {
        return Err(error::key_excludes_org());
    }
    let facts = service.facts.of(user, Some(org)).await.map_err(|failure| error::store(&failure))?;
    if facts.role == Some(Role::OrgAdmin) { Ok(()) } else { Err(error::may_not_spend_for_org()) }
}

type Answer = fn(&Outcome) -> Result<Response, Problem>;

/// The worker looks once more than it had to when the answer is a replay.
fn waking_the_worker(service: &Arc<Service>, answer: Answer) -> impl Fn(&Outcome) -> Result<Response, Problem> + Send + Sync + use<> {
    let service = Arc::clone(service);
    move |outcome| {
        service.purchases_due.notify_one();
        answer(outcome)
    }
}

fn accepted(outcome: &Outcome) -> Result<Response, Problem> {
    let Outcome::SagaMoved { saga } = outcome else { return Err(error::outcome(outcome)) };
    let mut response = json_answer(StatusCode::ACCEPTED, &SagaRecord::of(saga))?;
    if let Ok(location) = HeaderValue::try_from(format!("/api/v1/tokens/purchase/{}", saga.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

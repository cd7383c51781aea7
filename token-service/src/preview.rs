//! `POST /api/v1/tokens/preview`: what a consume would be answered now. Nothing is taken, booked or counted.

use crate::{
    buckets::owners_of,
    callers::Spender,
    consume::ConsumeBody,
    consume_answer::QuotaPart,
    error,
    json_answer::{Instant, json_answer},
    payer::{self, Spend},
    rate_record::{RateFields, RateRecord},
    service::{Service, allowance_cap},
};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::{
    amount::Tokens,
    bucket::{Reading, Wait},
    ledger::{self, Command, Outcome, Request},
    pool::PoolKey,
    settings::OnOutage,
};
use ports::rate_limits::{BucketLevel, applicable};
use serde::Serialize;
use service_kit::{json::StrictJson, problem::Problem};
use std::sync::Arc;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Allowed {
    allowed: bool,
    status: u16,
    #[serde(flatten)]
    rate: RateFields,
    wait_seconds: i64,
    timestamp: Instant,
    quota: QuotaPart,
    tokens_charged: Tokens,
}

/// 200 whatever would be answered: `status` says it, beside the fields of the answer or of the problem.
pub async fn preview(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    StrictJson(body): StrictJson<ConsumeBody>,
) -> Result<Response, Problem> {
    let (request, _) = body.parse(&service, &caller)?;
    let spend = payer::authorise(&service, &caller, request).await?;
    let rate = rate(&service, &spend).await;
    let pool = PoolKey { payer: spend.payer, provider: spend.provider.clone() };
    let pool = service.ledger.find_pool(&pool).await.map_err(|failure| error::store(&failure))?;
    let budgets = service.ledger.budgets(spend.payer, Some(spend.user_id)).await.map_err(|failure| error::store(&failure))?;
    let now = service.clock.now();
    let allowance_cap = allowance_cap(&service.settings.current(), spend.payer, &spend.facts);
    let cost = spend.cost(&service)?;
    let command = Command::Consume { spec: spend.charge(&service), tokens: spend.tokens };
    let refusal = match (rate, ledger::preview(pool, budgets, &Request { command, now, allowance_cap, cost })) {
        (Ok(rate), Outcome::Charged { pool, charge, .. }) => {
            let answer = Allowed {
                allowed: true,
                status: StatusCode::OK.as_u16(),
                rate: rate.fields(),
                wait_seconds: 0,
                timestamp: Instant(now),
                quota: QuotaPart::of(&pool),
                tokens_charged: charge.settled,
            };
            return json_answer(StatusCode::OK, &answer);
        }
        // The buckets are asked first.
        (Err(refusal), _) => refusal,
        (Ok(_), outcome) => error::outcome(&outcome),
    };
    json_answer(StatusCode::OK, &refusal.with("allowed", false).body())
}

/// The buckets as they would be after the take, or the refusal.
async fn rate(service: &Service, spend: &Spend) -> Result<RateRecord, Problem> {
    let settings = service.settings.current();
    let mut buckets = applicable(&settings, &owners_of(&settings, spend), &spend.provider, spend.model.as_ref());
    // A consume is no hold and takes no slot.
    buckets.retain(|bucket| !bucket.rule.is_of_slots());
    if buckets.is_empty() {
        return Ok(RateRecord::default());
    }
    let Some(readings) = service.buckets.peek(&buckets).await else {
        let closed = buckets.iter().any(|bucket| bucket.on_outage == OnOutage::Closed);
        return if closed { Err(error::limits_closed("rate limits")) } else { Ok(RateRecord::default()) };
    };
    let previews = buckets.iter().zip(&readings).map(|(bucket, before)| bucket.rule.preview(*before, spend.tokens));
    let previews: Vec<(Wait, Reading)> = previews.collect();
    let allowed = previews.iter().all(|(wait, _)| *wait == Wait::Passes);
    // All or nothing: where one refuses, the others stay as they are.
    let level = |((wait, after), before)| BucketLevel { reading: if allowed { after } else { before }, wait };
    let levels: Vec<BucketLevel> = previews.into_iter().zip(readings).map(level).collect();
    let record = RateRecord::of(&buckets, &levels, None);
    if allowed { Ok(record) } else { Err(record.refusal(service.clock.now())) }
}

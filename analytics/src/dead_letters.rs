//! `/api/v1/admin/dead-letters`: records of the log that could not be applied, and what can be done about them.
//!
//! The ledger stays the judge: what is redriven is the event that it numbered so, never anything else, so that no number can ever stand for
//! two events. Where the outbox still has the event, its bytes are sent; an edit is needed only where it has not.

use crate::{
    error::{require, store_failed},
    project::decode,
    routes::instant,
};
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use domain::{
    access::{Caller, Scope},
    event::UsageEvent,
    ids::Shard,
};
use http::StatusCode;
use ports::{
    Clock,
    event_log::{EventLog, KeptLetter, LetterAct, LetterActKind},
    outbox::{Outbox, OutboxRow},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    identity::Authenticated,
    json::{StrictJson, StrictQuery},
    problem::Problem,
};
use std::sync::Arc;

const REASON_LIMIT: usize = 500;
/// Of one page.
const LISTED: usize = 100;

#[derive(Clone)]
pub struct DeadLetters {
    pub log: Arc<dyn EventLog>,
    pub outbox: Arc<dyn Outbox>,
    pub clock: Clock,
}

pub fn routes(letters: DeadLetters) -> Router {
    Router::new()
        .route("/api/v1/admin/dead-letters", get(list))
        .route("/api/v1/admin/dead-letters/{id}", get(show).put(edit).delete(discard))
        .route("/api/v1/admin/dead-letters/{id}/redrive", post(redrive))
        .with_state(letters)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListQuery {
    /// Also those that were redriven or dropped.
    all: Option<bool>,
    /// The id after which the page begins.
    cursor: Option<String>,
}

async fn list(
    State(letters): State<DeadLetters>,
    Authenticated(caller): Authenticated,
    StrictQuery(query): StrictQuery<ListQuery>,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    let after = query.cursor.as_deref().map(|cursor| place_of("cursor", cursor)).transpose()?;
    let kept = letters.log.letters().await.map_err(store_failed)?;
    let begin = after.map_or(0, |after| kept.iter().position(|kept| place(kept) == after).map_or(kept.len(), |index| index + 1));
    let wanted = |kept: &&KeptLetter| query.all == Some(true) || kept.end().is_none();
    let mut page: Vec<&KeptLetter> = kept.iter().skip(begin).filter(wanted).take(LISTED + 1).collect();
    let more = page.len() > LISTED;
    page.truncate(LISTED);
    let mut answer = json!({"items": page.iter().map(|kept| brief(kept)).collect::<Vec<_>>()});
    if let Some(last) = page.last().filter(|_| more) {
        answer["nextCursor"] = json!(id(last));
    }
    Ok(Json(answer))
}

async fn show(
    State(letters): State<DeadLetters>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    Ok(Json(whole(&find(&letters, &id).await?)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EditBody {
    value: String,
}

/// Keeps other bytes beside the original ones, for the next redrive.
async fn edit(
    State(letters): State<DeadLetters>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<EditBody>,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    let kept = find(&letters, &id).await?;
    let value = STANDARD.decode(body.value.trim()).map_err(|_| Problem::field("value", "value must be the record's bytes in base64"))?;
    let event = event_in(&kept, &value).map_err(|why| Problem::field("value", format!("value is not an event of this place: {why}")))?;
    let row = ledgers_row(&letters, event.event.payer.shard(), event.seq).await?;
    same_event(&row, &event)?;
    act(&letters, &caller, &id, LetterActKind::Edited, (None, Some(value))).await
}

async fn redrive(
    State(letters): State<DeadLetters>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    let kept = find(&letters, &id).await?;
    let row = event_to_redrive(&letters, &kept).await?;
    let (shard, seq) = (row.shard, row.seq);
    if !letters.log.redrive(row).await.map_err(store_failed)? {
        let detail =
            format!("event {seq} of shard {shard} is archived and in the log no more, so nothing lacks it; drop the letter with a reason");
        return Err(unprocessable(detail));
    }
    act(&letters, &caller, &id, LetterActKind::Redriven, (None, None)).await
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DropBody {
    reason: Option<String>,
}

/// The letter stays in the history with who gave it up, when and why.
async fn discard(
    State(letters): State<DeadLetters>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
    StrictJson(body): StrictJson<DropBody>,
) -> Result<StatusCode, Problem> {
    require(&caller, Scope::Admin)?;
    let reason = body.reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    let reason = reason.ok_or_else(|| Problem::field("reason", "reason is required: it is kept with the letter"))?;
    if reason.chars().count() > REASON_LIMIT {
        return Err(Problem::field("reason", format!("reason must have at most {REASON_LIMIT} characters")));
    }
    act(&letters, &caller, &id, LetterActKind::Dropped, (Some(reason), None)).await.map(|_| StatusCode::NO_CONTENT)
}

/// Adds to the letter's history; the letter as it is then.
async fn act(
    letters: &DeadLetters,
    caller: &Caller,
    id: &str,
    kind: LetterActKind,
    (reason, value): (Option<String>, Option<Vec<u8>>),
) -> Result<Json<Value>, Problem> {
    let place = place_of("id", id)?;
    find(letters, id).await?;
    let act = LetterAct { kind, by: caller.principal(), at: letters.clock.now(), reason, value };
    letters.log.act_on_letter(place, &act).await.map_err(store_failed)?;
    tracing::info!(shard = %place.0, offset = place.1, ?kind, by = act.by, "a dead letter was acted on");
    Ok(Json(whole(&find(letters, id).await?)))
}

/// The ledger's event under the letter's number: as the outbox has it, or as the letter has it where the outbox row is damaged.
async fn event_to_redrive(letters: &DeadLetters, kept: &KeptLetter) -> Result<OutboxRow, Problem> {
    let value = kept.edited().unwrap_or(&kept.letter.value);
    let event = event_in(kept, value);
    let seq = kept.letter.seq.or_else(|| event.as_ref().ok().map(|event| event.seq));
    let seq =
        seq.ok_or_else(|| unprocessable("the letter names no number, so it stands for no event of the ledger; drop it with a reason"))?;
    let row = ledgers_row(letters, kept.letter.shard, seq).await?;
    if decode::event_of_outbox(&row.payload, row.shard, row.seq).is_ok() {
        return Ok(row);
    }
    let damaged = |why: String| unprocessable(format!("the outbox row is damaged, and the letter is no event: {why}; edit it first"));
    let event = event.map_err(damaged)?;
    same_event(&row, &event)?;
    let payload = event_codec::unframe(value).map_err(|error| damaged(error.to_string()))?.to_vec();
    Ok(OutboxRow { payload, ..row })
}

/// What the bytes say, if they are an event at the letter's place.
fn event_in(kept: &KeptLetter, value: &[u8]) -> Result<UsageEvent, String> {
    let event = event_codec::decode(event_codec::unframe(value).map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    if event.shard() != kept.letter.shard {
        return Err(format!("an event of shard {}, not {}", event.shard(), kept.letter.shard));
    }
    match kept.letter.seq {
        Some(seq) if seq != event.seq => Err(format!("number {}, not {seq}", event.seq)),
        _ => Ok(event),
    }
}

async fn ledgers_row(letters: &DeadLetters, shard: Shard, seq: i64) -> Result<OutboxRow, Problem> {
    let rows = letters.outbox.read(shard, seq - 1, 1).await.map_err(store_failed)?;
    let row = rows.into_iter().next().filter(|row| row.seq == seq);
    row.ok_or_else(|| unprocessable(format!("the ledger gave number {seq} of shard {shard} to no event; drop the letter with a reason")))
}

/// A number stands for one event for ever; of one whose bytes are sound nothing may differ.
fn same_event(row: &OutboxRow, event: &UsageEvent) -> Result<(), Problem> {
    let sound = decode::event_of_outbox(&row.payload, row.shard, row.seq).ok();
    if row.event_id == event.event.id.0 && sound.is_none_or(|sound| sound == *event) {
        return Ok(());
    }
    Err(unprocessable(format!("the ledger has another event under number {} of shard {}", row.seq, row.shard)))
}

fn unprocessable(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_transition", detail)
}

async fn find(letters: &DeadLetters, id: &str) -> Result<KeptLetter, Problem> {
    let wanted = place_of("id", id)?;
    let kept = letters.log.letters().await.map_err(store_failed)?;
    kept.into_iter().find(|kept| place(kept) == wanted).ok_or_else(|| Problem::not_found("dead letter not found"))
}

fn place(kept: &KeptLetter) -> (Shard, i64) {
    (kept.letter.shard, kept.letter.offset)
}

/// `shard-offset`.
fn id(kept: &KeptLetter) -> String {
    format!("{}-{}", kept.letter.shard, kept.letter.offset)
}

fn place_of(field: &str, id: &str) -> Result<(Shard, i64), Problem> {
    let parsed = || {
        let (shard, offset) = id.split_once('-')?;
        Some((Shard::new(shard.parse().ok()?).ok()?, offset.parse().ok()?))
    };
    let place = parsed().filter(|(_, offset): &(Shard, i64)| *offset >= 0);
    place.ok_or_else(|| Problem::field(field, format!("{field} must be SHARD-OFFSET, for example 12-4711")))
}

fn brief(kept: &KeptLetter) -> Value {
    let letter = &kept.letter;
    json!({
        "id": id(kept),
        "shard": letter.shard,
        "offset": letter.offset,
        "seq": letter.seq,
        "reason": letter.reason,
        "firstSeen": instant(kept.first_seen),
        "lastSeen": instant(kept.last_seen),
        "status": match kept.end() {
            None => "WAITING",
            Some(LetterActKind::Dropped) => "DROPPED",
            Some(_) => "REDRIVEN",
        },
    })
}

fn whole(kept: &KeptLetter) -> Value {
    let mut letter = brief(kept);
    let decoded = |value: &[u8]| match event_in(kept, value) {
        Ok(event) => json!({"event": event}),
        Err(why) => json!({"error": why}),
    };
    letter["value"] = json!(STANDARD.encode(&kept.letter.value));
    letter["decoded"] = decoded(&kept.letter.value);
    if let Some(edited) = kept.edited() {
        letter["edited"] = json!({"value": STANDARD.encode(edited), "decoded": decoded(edited)});
    }
    letter["history"] = json!(kept.acts);
    letter
}

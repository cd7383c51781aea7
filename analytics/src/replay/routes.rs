//! `/api/v1/admin/replay`: asking for replays, watching them, and deciding about what they built.

use super::{
    Stores,
    source::{self, Unreadable},
};
use crate::{
    error::{require, store_failed},
    query,
    routes::instant,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use domain::{
    access::{Caller, Scope},
    ids::{OrgId, Provider},
    replay::{Coverage, Progress, Refusal, Replay, Source, Status},
};
use http::StatusCode;
use ports::{
    Clock,
    replays::{Replaced, StoredReplay},
};
use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::{
    identity::Authenticated,
    json::{StrictJson, parse_strict},
    problem::Problem,
};
use uuid::Uuid;

const LISTED: u32 = 100;
/// Others may change the row between a look and a step, its worker does so each second.
const ATTEMPTS: usize = 20;
const REASON_LIMIT: usize = 500;

#[derive(Clone)]
struct Service {
    stores: Stores,
    clock: Clock,
}

pub fn routes(stores: Stores, clock: Clock) -> Router {
    Router::new()
        .route("/api/v1/admin/replay", get(list).post(start))
        .route("/api/v1/admin/replay/{id}", get(show))
        .route("/api/v1/admin/replay/{id}/{step}", post(step))
        .route("/api/v1/admin/replay/generations/{generation}", delete(drop_generation))
        .with_state(Service { stores, clock })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StartBody {
    from: Option<String>,
    to: Option<String>,
    org_id: Option<String>,
    provider: Option<String>,
    source: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

impl StartBody {
    fn source(&self) -> Result<Source, Problem> {
        match self.source.as_deref() {
            None | Some("log") => Ok(Source::Log),
            Some("outbox") => Ok(Source::Outbox),
            Some(_) => Err(Problem::field_allowed("source", "source must be log or outbox", vec!["log".into(), "outbox".into()])),
        }
    }

    fn coverage(&self, clock: &Clock) -> Result<Coverage, Problem> {
        let range = query::range(self.from.as_deref(), self.to.as_deref())?;
        let org = query::id::<OrgId>("orgId", self.org_id.as_deref())?;
        let provider = self.provider.as_deref().map(Provider::parse).transpose();
        let provider = provider.map_err(|error| Problem::field("provider", format!("provider {error}")))?;
        Coverage::new(range, org, provider, clock.now()).map_err(|error| Problem::field(error.field(), error.to_string()))
    }
}

async fn start(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    StrictJson(body): StrictJson<StartBody>,
) -> Result<Response, Problem> {
    require(&caller, Scope::Admin)?;
    let (source, coverage) = (body.source()?, body.coverage(&service.clock)?);
    let unreadable = source::unreadable(&service.stores, source, |shard| coverage.holds_shard(shard)).await.map_err(store_failed)?;
    if let Some(unreadable) = unreadable {
        return Err(not_to_be_had(unreadable));
    }
    let replay = Replay::new(coverage, source, body.dry_run, caller.principal(), service.clock.now());
    let created = service.stores.replays.create(Uuid::now_v7(), &replay).await.map_err(store_failed)?;
    match created {
        Some(stored) => Ok((StatusCode::ACCEPTED, Json(record(&stored))).into_response()),
        None => Err(busy(&service).await),
    }
}

async fn list(State(service): State<Service>, Authenticated(caller): Authenticated) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    let replays = service.stores.replays.list(LISTED).await.map_err(store_failed)?;
    let live = service.stores.usage.live_generation().await.map_err(store_failed)?;
    let items: Vec<Value> = replays.iter().map(record).collect();
    Ok(Json(json!({"items": items, "liveGeneration": live.id})))
}

async fn show(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    find(&service, &id).await.map(|stored| Json(record(&stored)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SwapBody {
    #[serde(default)]
    force: bool,
    reason: Option<String>,
}

impl SwapBody {
    /// The reason of who insists.
    fn insisting(self) -> Result<Option<String>, Problem> {
        let reason = self.reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
        match (self.force, reason) {
            (false, None) => Ok(None),
            (true, Some(reason)) if reason.chars().count() <= REASON_LIMIT => Ok(Some(reason)),
            (true, Some(_)) => Err(Problem::field("reason", format!("reason must have at most {REASON_LIMIT} characters"))),
            (true, None) => Err(Problem::field("reason", "reason is required with force")),
            (false, Some(_)) => Err(Problem::field("force", "a reason goes with force: true")),
        }
    }
}

async fn step(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path((id, step)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    require(&caller, Scope::Admin)?;
    let swap = match step.as_str() {
        "swap" if body.is_empty() => Some(None),
        "swap" => Some(parse_strict::<SwapBody>(&body)?.insisting()?),
        "pause" | "resume" | "cancel" => None,
        _ => return Err(Problem::not_found("a replay can be paused, resumed, cancelled and swapped")),
    };
    for _ in 0..ATTEMPTS {
        let mut stored = find(&service, &id).await?;
        let before = stored.replay.clone();
        take(&service, &caller, &mut stored, &step, swap.clone()).await?;
        if stored.replay == before {
            return Ok(Json(record(&stored)));
        }
        match service.stores.replays.replace(&mut stored).await.map_err(store_failed)? {
            Replaced::Done => {
                tracing::info!(replay = %stored.id, step, by = caller.principal(), "a replay was told what to do");
                return Ok(Json(record(&stored)));
            }
            Replaced::Busy => return Err(busy(&service).await),
            Replaced::Moved => {}
        }
    }
    Err(Problem::new(StatusCode::CONFLICT, "conflict", "the replay changes too often just now; try again"))
}

async fn take(
    service: &Service,
    caller: &Caller,
    stored: &mut StoredReplay,
    step: &str,
    swap: Option<Option<String>>,
) -> Result<(), Problem> {
    let replay = &mut stored.replay;
    let taken = match (step, swap) {
        ("pause", _) => replay.pause(),
        ("resume", _) => replay.resume(),
        ("cancel", _) => replay.cancel(),
        (_, swap) => {
            if replay.status != Status::Swapped {
                still_compared(service, replay).await?;
            }
            replay.swap(caller.principal(), swap.flatten(), service.clock.now())
        }
    };
    taken.map_err(|refusal| refused(&refusal, replay.status))
}

/// A verdict is about the generation that was live then; another swap since makes it worth nothing.
async fn still_compared(service: &Service, replay: &Replay) -> Result<(), Problem> {
    let Some(verdict) = &replay.verdict else { return Ok(()) };
    let live = service.stores.usage.live_generation().await.map_err(store_failed)?;
    if verdict.compared_with == live.id {
        return Ok(());
    }
    let was = verdict.compared_with;
    let detail = format!("generation {} is live now, and the replay was compared with {was}; make the replay again", live.id);
    Err(Problem::new(StatusCode::CONFLICT, "conflict", detail))
}

async fn drop_generation(
    State(service): State<Service>,
    Authenticated(caller): Authenticated,
    Path(generation): Path<String>,
) -> Result<StatusCode, Problem> {
    require(&caller, Scope::Admin)?;
    let generation: i32 = generation.parse().map_err(|_| Problem::field("generation", "generation must be a whole number"))?;
    let conflict = |detail: &str| Problem::new(StatusCode::CONFLICT, "conflict", detail);
    if service.stores.usage.live_generation().await.map_err(store_failed)?.id == generation {
        return Err(conflict("this generation is the live one; swap another one in first"));
    }
    let replays = service.stores.replays.list(u32::MAX).await.map_err(store_failed)?;
    match replays.into_iter().find(|stored| stored.generation.id == generation) {
        Some(stored) if stored.replay.status == Status::Running => return Err(conflict("a replay is building it; cancel that first")),
        Some(mut stored) => {
            // First of all nobody may swap it in any more.
            stored.replay.dropped = true;
            if stored.replay.status == Status::Paused {
                stored.replay.stop(Status::Cancelled);
            }
            if service.stores.replays.replace(&mut stored).await.map_err(store_failed)? != Replaced::Done {
                return Err(conflict("its replay has just changed; look at it and try again"));
            }
        }
        None if generation == 1 => {}
        None => return Err(Problem::not_found("generation not found")),
    }
    let generations = service.stores.generations;
    // To its end, also when nobody waits for it any more.
    let dropped = tokio::spawn(async move { generations.drop_generation(generation).await });
    dropped.await.map_err(|panicked| Problem::internal(&panicked))?.map_err(store_failed)?;
    tracing::info!(generation, by = caller.principal(), "a generation was dropped");
    Ok(StatusCode::NO_CONTENT)
}

async fn find(service: &Service, id: &str) -> Result<StoredReplay, Problem> {
    let id = Uuid::parse_str(id).map_err(|_| Problem::field("id", "id must be a UUID"))?;
    let found = service.stores.replays.find(id).await.map_err(store_failed)?;
    found.ok_or_else(|| Problem::not_found("replay not found"))
}

async fn busy(service: &Service) -> Problem {
    let running = service.stores.replays.running().await.ok().flatten();
    let name = running.map_or_else(String::new, |running| format!(" ({})", running.id));
    let detail = format!("another replay{name} runs; wait for it, pause it or cancel it");
    Problem::new(StatusCode::CONFLICT, "conflict", detail)
}

fn not_to_be_had(unreadable: Unreadable) -> Problem {
    let (code, detail) = match unreadable {
        Unreadable::Pruned(detail) => ("events_pruned", detail),
        Unreadable::Damaged(detail) => ("archive_damaged", detail),
    };
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
}

fn refused(refusal: &Refusal, status: Status) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_transition", refusal.to_string()).with("replayStatus", status.as_str())
}

fn record(stored: &StoredReplay) -> Value {
    let replay = &stored.replay;
    let Progress { read, applied, total, rate_per_second } = replay.progress;
    let eta = (replay.status == Status::Running && rate_per_second > 0).then(|| (total - read).max(0) / rate_per_second);
    let mut record = json!({
        "replayId": stored.id,
        "generation": stored.generation.id,
        "status": replay.status.as_str(),
        "source": replay.source,
        "dryRun": replay.dry_run,
        "dropped": replay.dropped,
        "askedBy": replay.asked_by,
        "askedAt": instant(replay.asked_at),
        "read": read,
        "applied": applied,
        "total": total,
        "ratePerSecond": rate_per_second,
        "etaSeconds": eta,
        "verdict": replay.verdict,
    });
    let coverage = &replay.coverage;
    let optional = [
        ("from", coverage.from().map(|from| json!(instant(from)))),
        ("to", coverage.to().map(|to| json!(instant(to)))),
        ("orgId", coverage.org_id().map(|org| json!(org))),
        ("provider", coverage.provider().map(|provider| json!(provider))),
        ("failure", replay.failure.as_ref().map(|failure| json!(failure))),
        ("swap", replay.swap.as_ref().map(|swap| json!({"by": swap.by, "at": instant(swap.at), "reason": swap.reason}))),
    ];
    for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        record[name] = value;
    }
    record
}

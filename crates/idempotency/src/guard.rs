//! The layer around a service's routes.

use crate::{
    key::{in_progress, mark_replayed, mismatch, of},
    seal,
    seed::Seed,
    stored,
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Request},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, ready},
};
use http_body_util::BodyExt;
use ports::{
    Clock, StoreError,
    answers::{Answers, Attempt, Begun, GiveUp, Origin},
};
use serde_json::Value;
use service_kit::{identity::Authenticated, json::read_body, problem::Problem, request_context};
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};
use uuid::Uuid;

/// How long a second request waits for the first one before it is told that it still runs.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Tries of a step whose outcome is unknown; each may be repeated.
const TRIES: u32 = 3;
/// How long an answer is replayed.
const KEEP: TimeDelta = TimeDelta::hours(48);
const HOUR: Duration = Duration::from_secs(3_600);

/// In the extensions of a successful answer that is not to be kept: the request changed nothing, or has parts that may be tried again
/// (whose done parts have keys of their own).
#[derive(Clone, Copy, Debug)]
pub struct NotKept;

/// Where answers are kept. Cheap to clone.
#[derive(Clone)]
struct Once {
    answers: Arc<dyn Answers>,
    clock: Clock,
    service: &'static str,
}

/// Guards every request of the router that may change something. `service` names itself in a 503.
pub fn guard(router: Router, answers: Arc<dyn Answers>, clock: Clock, service: &'static str) -> Router {
    router.layer(Guard(Once { answers, clock, service }))
}

#[derive(Clone)]
struct Guard(Once);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { once: self.0.clone(), inner }
    }
}

/// Not a function as a layer, which would copy all that it guards for each request, with a key or without.
#[derive(Clone)]
struct Guarded<S> {
    once: Once,
    inner: S,
}

type Answered = Result<Response, Infallible>;

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Answered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let key = match of(request.headers()) {
            _ if request.method().is_safe() => None,
            Ok(key) => key.map(str::to_owned),
            Err(problem) => return Either::Right(ready(Ok(problem.into_response())).boxed()),
        };
        let Some(key) = key else {
            request.extensions_mut().insert(Seed::fresh(self.once.clock.now()));
            return Either::Left(self.inner.call(request));
        };
        // The one that is ready is the one to call.
        let inner = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, inner);
        Either::Right(self.once.clone().run(key, request, ready).boxed())
    }
}

/// Drops answers past their keeping, each hour until shutdown; several processes may do it at once.
pub async fn forget_old(answers: Arc<dyn Answers>, clock: Clock, shutdown: CancellationToken) {
    loop {
        if let Err(error) = answers.forget(clock.now() - KEEP).await {
            tracing::debug!(%error, "old answers were not forgotten in this hour");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(HOUR) => {}
        }
    }
}

struct Keyed {
    scope: String,
    key: String,
}

impl Keyed {
    fn name(&self) -> Uuid {
        let hash = Sha256::new().chain_update(&self.scope).chain_update([0]).chain_update(&self.key).finalize();
        let mut name = [0; 16];
        name.copy_from_slice(&hash[..16]);
        Uuid::from_bytes(name)
    }

    fn seed(&self, origin: &Origin) -> Seed {
        Seed::of(origin, &self.scope, &self.key)
    }
}

/// What is sealed under the seed of its request.
fn sealing_key(seed: &Seed) -> [u8; 32] {
    seed.bytes("stored answer")
}

impl Once {
    async fn run<S>(self, key: String, request: Request, mut inner: S) -> Answered
    where
        S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Send + 'static,
    {
        let (mut parts, body) = request.into_parts();
        // The handler says what is wrong with a request without a caller.
        let Ok(Authenticated(caller)) = Authenticated::from_request_parts(&mut parts, &()).await else {
            return inner.call(Request::from_parts(parts, body)).await;
        };
        let scope = format!("{}|{} {}", caller.principal(), parts.method, parts.uri.path());
        Ok(self.keyed(Keyed { scope, key }, parts, body, inner).await.unwrap_or_else(IntoResponse::into_response))
    }

    async fn keyed<S>(self, keyed: Keyed, mut parts: Parts, body: Body, mut inner: S) -> Result<Response, Problem>
    where
        S: Service<Request, Response = Response, Error = Infallible, Future: Send> + Send + 'static,
    {
        let bytes = read_body(&parts.headers, body).await?;
        let fingerprint = fingerprint(&parts, &bytes);
        let attempt = Attempt { name: keyed.name(), fingerprint, holder: Uuid::new_v4(), now: self.clock.now() };
        let origin = match self.begin_or_wait(attempt).await? {
            Begun::Run(origin) => origin,
            Begun::Done(origin, sealed) => return replay(&keyed.seed(&origin), &sealed),
            Begun::Mismatch => return Err(mismatch()),
            Begun::Running => return Err(in_progress()),
        };
        let seed = keyed.seed(&origin);
        parts.extensions.insert(seed.clone());
        let request = Request::from_parts(parts, Body::from(bytes));
        let story = async move {
            let response = inner.call(request).await.unwrap_or_else(|never| match never {});
            self.keep(&attempt, &seed, response).await
        };
        // As a task of its own: a client that disconnects does not stop it halfway.
        tokio::spawn(request_context::carried(story)).await.unwrap_or_else(|panicked| Err(Problem::internal(&panicked)))
    }

    async fn begin_or_wait(&self, attempt: Attempt) -> Result<Begun, Problem> {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = self.begin(&Attempt { now: self.clock.now(), ..attempt }).await?;
            if begun != Begun::Running || tokio::time::Instant::now() + pause >= give_up {
                return Ok(begun);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks again when the answer was lost: the same holder's claim is not taken twice.
    async fn begin(&self, attempt: &Attempt) -> Result<Begun, Problem> {
        let mut tries = 1;
        loop {
            match self.answers.begin(attempt).await {
                Ok(begun) => return Ok(begun),
                Err(StoreError::OutcomeUnknown { .. }) if tries < TRIES => tries += 1,
                Err(error @ StoreError::Corrupt { .. }) => return Err(Problem::internal(&error)),
                Err(error) => {
                    tracing::debug!(%error, "an idempotency key could not be claimed");
                    return Err(Problem::unavailable(self.service, format!("{} is unavailable; nothing was changed", error.store())));
                }
            }
        }
    }

    /// Stores a success, frees the key of a refusal, and leaves that of a failure to the next attempt.
    async fn keep(&self, attempt: &Attempt, seed: &Seed, response: Response) -> Result<Response, Problem> {
        let status = response.status();
        if !status.is_success() || response.extensions().get::<NotKept>().is_some() {
            let how = if status.is_server_error() { GiveUp::Repeat } else { GiveUp::Forget };
            self.note(self.answers.give_up(&Attempt { now: self.clock.now(), ..*attempt }, how).await.err());
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.map_err(|error| Problem::internal(&error))?.to_bytes();
        let answer = stored::to_bytes(parts.status, &parts.headers, &bytes).and_then(|answer| seal::seal(&sealing_key(seed), &answer));
        if let Some(answer) = answer {
            self.note(self.complete(attempt, &answer).await.err());
        }
        Ok(Response::from_parts(parts, Body::from(bytes)))
    }

    async fn complete(&self, attempt: &Attempt, answer: &[u8]) -> ports::Result<bool> {
        let mut tries = 1;
        loop {
            match self.answers.complete(attempt, answer).await {
                Err(StoreError::OutcomeUnknown { .. }) if tries < TRIES => tries += 1,
                completed => return completed,
            }
        }
    }

    /// What was done stays done; without a stored answer the next request under the key does it again, with the same result.
    fn note(&self, failure: Option<StoreError>) {
        if let Some(error) = failure {
            tracing::debug!(%error, service = self.service, "an answer was not kept under its idempotency key");
            metrics::counter!("idempotent_answers_unkept_total", "service" => self.service).increment(1);
        }
    }
}

fn replay(seed: &Seed, sealed: &[u8]) -> Result<Response, Problem> {
    let opened = seal::open(&sealing_key(seed), sealed).and_then(|answer| stored::from_bytes(&answer));
    let mut response = opened.ok_or_else(|| Problem::internal(&StoreError::corrupt("answers", "a stored answer that cannot be read")))?;
    mark_replayed(&mut response);
    metrics::counter!("idempotent_replays_total").increment(1);
    Ok(response)
}

/// Of the query and of the body: how JSON is spaced and ordered does not matter.
fn fingerprint(parts: &Parts, body: &Bytes) -> [u8; 32] {
    let query = parts.uri.query().unwrap_or_default();
    let canonical = serde_json::from_slice::<Value>(body).ok().and_then(|value| serde_json::to_vec(&value).ok());
    let body = canonical.as_deref().unwrap_or(body);
    Sha256::new().chain_update(query).chain_update([0]).chain_update(body).finalize().into()
}

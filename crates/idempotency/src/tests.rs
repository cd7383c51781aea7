//! The guard around a handler that makes things, with processes that die and stores that lose answers.

use super::*;
use crate::memory::{Fault, MemoryAnswers};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Method, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::TimeDelta;
use domain::access::Caller;
use futures::future::join_all;
use http_body_util::BodyExt;
use ports::{Clock, answers::ATTEMPT_LEASE_SECS};
use service_kit::{identity::service_caller, problem::Problem};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::RwLock;
use tower::ServiceExt;
use uuid::Uuid;

/// A store of things, as idempotent by id as the real ones.
#[derive(Clone, Default)]
struct Things {
    made: Arc<Mutex<BTreeMap<Uuid, String>>>,
    runs: Arc<AtomicUsize>,
    gate: Arc<RwLock<()>>,
}

async fn make(State(things): State<Things>, seed: Seed, body: String) -> Result<Response, Problem> {
    let _open = things.gate.read().await;
    things.runs.fetch_add(1, Ordering::SeqCst);
    if body.contains("refuse") {
        return Err(Problem::field("name", "refused on request"));
    }
    if body.contains("fail") && things.runs.load(Ordering::SeqCst) == 1 {
        things.made.lock().unwrap().insert(seed.uuid("thing"), body);
        return Err(Problem::unavailable("things", "done, but the answer was lost"));
    }
    let id = seed.uuid("thing");
    let is_kept = !body.contains("unkept");
    things.made.lock().unwrap().insert(id, body);
    let mut response = (StatusCode::CREATED, [("location", format!("/things/{id}"))], id.to_string()).into_response();
    if !is_kept {
        response.extensions_mut().insert(NotKept);
    }
    Ok(response)
}

struct World {
    things: Things,
    answers: Arc<MemoryAnswers>,
    clock: Clock,
    router: Router,
}

struct Answer {
    status: u16,
    replayed: bool,
    location: Option<String>,
    body: String,
}

impl World {
    fn new() -> Self {
        let (things, answers) = (Things::default(), Arc::new(MemoryAnswers::default()));
        let clock = Clock::manual("2026-11-21T12:00:00Z".parse().unwrap());
        let routes = Router::new().route("/things", post(make).put(make)).with_state(things.clone());
        let router = guard(routes, Arc::clone(&answers) as _, clock.clone(), "things");
        Self { things, answers, clock, router }
    }

    fn call(&self, method: Method, caller: Caller, key: Option<&str>, body: &str) -> impl Future<Output = Answer> + use<> {
        let mut request = Request::builder().method(method).uri("/things").extension(Arc::new(caller));
        if let Some(key) = key {
            request = request.header(HEADER, key);
        }
        let answer = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap());
        async move {
            let (parts, body) = answer.await.unwrap().into_parts();
            let text = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let bytes = body.collect().await.unwrap().to_bytes();
            Answer {
                status: parts.status.as_u16(),
                replayed: text(IDEMPOTENT_REPLAYED.as_str()).as_deref() == Some("true"),
                location: text("location"),
                body: String::from_utf8(bytes.to_vec()).unwrap(),
            }
        }
    }

    fn post(&self, key: &str, body: &str) -> impl Future<Output = Answer> + use<> {
        self.call(Method::POST, service_caller(), Some(key), body)
    }

    fn runs(&self) -> usize {
        self.things.runs.load(Ordering::SeqCst)
    }

    fn made(&self) -> usize {
        self.things.made.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_replay_has_the_status_headers_and_body_of_the_first_answer() {
    let world = World::new();
    let first = world.post("k", r#"{"name": "a", "size": 1}"#).await;
    let again = world.post("k", r#"{ "size":1, "name":"a" }"#).await;
    assert_eq!((first.status, first.replayed, again.replayed), (201, false, true));
    assert_eq!((again.status, &again.location, &again.body), (201, &first.location, &first.body));
    assert_eq!((world.runs(), first.location.is_some()), (1, true));
}

#[tokio::test]
async fn another_body_is_a_mismatch_and_runs_nothing() {
    let world = World::new();
    world.post("k", "{\"name\":\"a\"}").await;
    let other = world.post("k", "{\"name\":\"b\"}").await;
    assert_eq!((other.status, other.body.contains("idempotency_mismatch"), world.runs()), (422, true, 1));
}

#[tokio::test]
async fn a_key_belongs_to_its_principal_and_endpoint() {
    let world = World::new();
    let user = Caller { user_id: Some(domain::ids::UserId(Uuid::from_u128(1))), ..service_caller() };
    let answers = [
        world.post("k", "{}").await,
        world.call(Method::POST, user, Some("k"), "{}").await,
        world.call(Method::PUT, service_caller(), Some("k"), "{}").await,
        world.post("other", "{}").await,
    ];
    assert!(answers.iter().all(|answer| answer.status == 201 && !answer.replayed));
    assert_eq!(world.made(), 4);
}

#[tokio::test]
async fn without_a_key_each_request_is_another_one() {
    let world = World::new();
    world.call(Method::POST, service_caller(), None, "{}").await;
    world.call(Method::POST, service_caller(), None, "{}").await;
    assert_eq!((world.made(), world.answers.count()), (2, 0));
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_anything_runs() {
    let world = World::new();
    let long = world.post(&"k".repeat(256), "{}").await;
    assert!(long.status == 400 && long.body.contains("idempotency key too long"), "{}", long.body);
    assert_eq!(world.post("a b", "{}").await.status, 400);
    assert_eq!(world.post(&"k".repeat(255), "{}").await.status, 201);
    assert_eq!(world.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_calls_at_once_under_one_key_one_runs() {
    let world = World::new();
    let answers = join_all((0..64).map(|_| world.post("k", "{}"))).await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    assert_eq!((world.runs(), answers.iter().filter(|answer| answer.replayed).count()), (1, 63));
}

#[tokio::test]
async fn a_request_that_still_runs_is_answered_409_and_its_client_may_leave() {
    let world = World::new();
    let gate = world.things.gate.write().await;
    let first = tokio::spawn(world.post("k", "{}"));
    tokio::task::yield_now().await;
    let second = world.post("k", "{}").await;
    assert!(second.status == 409 && second.body.contains("idempotency_in_progress"));
    first.abort();
    drop(gate);
    let third = world.post("k", "{}").await;
    assert_eq!((third.status, world.runs()), (201, 1), "the first one was told to its end");
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_under_its_key() {
    let world = World::new();
    assert_eq!(world.post("k", "{\"a\":\"refuse\"}").await.status, 400);
    assert_eq!(world.answers.count(), 0);
    assert_eq!(world.post("k", "{}").await.status, 201);
}

#[tokio::test]
async fn an_answer_that_is_not_to_be_kept_frees_its_key() {
    let world = World::new();
    assert_eq!(world.post("k", "{\"a\":\"unkept\"}").await.status, 201);
    assert!(!world.post("k", "{\"a\":\"unkept\"}").await.replayed);
    assert_eq!((world.runs(), world.answers.count()), (2, 0));
}

#[tokio::test]
async fn a_failure_of_unknown_outcome_is_done_again_with_the_same_result() {
    let world = World::new();
    assert_eq!(world.post("k", "{\"a\":\"fail\"}").await.status, 503);
    let again = world.post("k", "{\"a\":\"fail\"}").await;
    assert_eq!((again.status, again.replayed, world.made()), (201, false, 1), "made once, though it ran twice");
    assert!(world.post("k", "{\"a\":\"fail\"}").await.replayed);
}

#[tokio::test]
async fn a_crashed_holder_blocks_for_its_lease_and_is_then_completed() {
    let world = World::new();
    // Done, but nothing gets as far as to store the answer: the claim stays behind.
    world.answers.fail_after(1, Fault::Away);
    assert_eq!(world.post("k", "{}").await.status, 201);
    assert_eq!(world.post("k", "{}").await.status, 409);
    world.clock.advance(TimeDelta::seconds(ATTEMPT_LEASE_SECS));
    let completed = world.post("k", "{}").await;
    assert_eq!((completed.status, completed.replayed), (201, false));
    assert_eq!((world.runs(), world.made()), (2, 1), "run again, and the same thing came out");
    assert!(world.post("k", "{}").await.replayed);
}

#[tokio::test]
async fn a_lost_answer_of_the_store_is_asked_for_again() {
    let world = World::new();
    world.answers.fail_next(Fault::LostAfter);
    let first = world.post("k", "{}").await;
    assert_eq!((first.status, world.runs()), (201, 1));
    assert!(world.post("k", "{}").await.replayed);
}

#[tokio::test]
async fn a_store_that_is_away_is_answered_503_and_nothing_runs() {
    let world = World::new();
    world.answers.fail_next(Fault::Away);
    assert_eq!((world.post("k", "{}").await.status, world.runs()), (503, 0));
    assert_eq!(world.post("k", "{}").await.status, 201);
}

#[tokio::test]
async fn stored_answers_cannot_be_read_without_their_key() {
    let world = World::new();
    let first = world.post("k", "{}").await;
    let stored = world.answers.stored_bytes();
    assert!(!stored.is_empty() && !stored.windows(first.body.len()).any(|window| window == first.body.as_bytes()));
    let sealed = seal::seal(&[1; 32], b"plain").unwrap();
    assert_eq!(seal::open(&[1; 32], &sealed).as_deref(), Some(b"plain".as_slice()));
    assert_eq!(seal::open(&[2; 32], &sealed), None);
    let mut damaged = sealed;
    damaged[20] ^= 1;
    assert_eq!(seal::open(&[1; 32], &damaged), None);
}

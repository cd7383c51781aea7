//! Requests that come while enough calls are on their way wait and go together: under load one script call decides for many, and an idle
//! server is asked at once. Nothing waits on a timer.

use crate::{connection::STORE, store::Store};
use async_trait::async_trait;
use futures::future::join_all;
use ports::{
    Result, StoreError,
    rate_limits::{Take, TakeAnswer},
};
use redis::RedisError;
use std::{slice, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

/// Most requests that go together; the store divides them into script calls.
const MOST_TOGETHER: usize = 256;
/// Calls on their way at a time. With one, callers, this process and the server would take turns, each idle while another works.
const IN_FLIGHT: usize = 3;
/// Requests that may wait; whoever comes then waits for a place first.
const QUEUE: usize = 4_096;

/// Who decides several requests with one answer each, in order.
#[async_trait]
pub(crate) trait Decider: Send + Sync + 'static {
    async fn decide(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>>;
}

#[async_trait]
impl Decider for Store {
    async fn decide(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        self.take(requests).await
    }
}

/// The way to one server for single requests. A call that fails for the server's part fails everybody in it.
pub(crate) struct Together {
    queue: mpsc::Sender<Waiting>,
    budget: Duration,
}

struct Waiting {
    take: Take,
    answer: oneshot::Sender<Result<TakeAnswer>>,
}

impl Together {
    /// `budget` is what one caller waits at most, for its turn and the answer together.
    pub(crate) fn over(decider: Arc<impl Decider>, budget: Duration) -> Self {
        Self::with(decider, budget, IN_FLIGHT)
    }

    fn with(decider: Arc<impl Decider>, budget: Duration, in_flight: usize) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..in_flight {
            tokio::spawn(decide_together(Arc::clone(&decider), Arc::clone(&waiting)));
        }
        Self { queue, budget }
    }

    pub(crate) async fn take(&self, take: Take) -> Result<TakeAnswer> {
        let answered = async {
            let (answer, decided) = oneshot::channel();
            self.queue.send(Waiting { take, answer }).await.map_err(|_| ended())?;
            decided.await.map_err(|_| ended())?
        };
        timeout(self.budget, answered).await.map_err(|elapsed| StoreError::unavailable(STORE, elapsed))?
    }
}

fn ended() -> StoreError {
    StoreError::unavailable(STORE, "the runtime is ending")
}

/// Until nobody can ask any more.
async fn decide_together(decider: Arc<impl Decider>, queue: Arc<Mutex<mpsc::Receiver<Waiting>>>) {
    let mut together = Vec::with_capacity(MOST_TOGETHER);
    while queue.lock().await.recv_many(&mut together, MOST_TOGETHER).await > 0 {
        // Who gave up meanwhile wants nothing taken any more.
        together.retain(|waiting| !waiting.answer.is_closed());
        let (takes, callers): (Vec<Take>, Vec<_>) = together.drain(..).map(|waiting| (waiting.take, waiting.answer)).unzip();
        if takes.is_empty() {
            continue;
        }
        metrics::histogram!("bucket_requests_together").record(f64::from(u32::try_from(takes.len()).unwrap_or(u32::MAX)));
        for (caller, answer) in callers.into_iter().zip(decide(&*decider, &takes).await) {
            // The caller may have given up.
            let _unheard = caller.send(answer);
        }
    }
}

/// An answer for each. What the server refuses to run for one of them is asked again for each by itself; a script that was refused has
/// changed no amount, and a slot is taken once however often.
async fn decide(decider: &impl Decider, takes: &[Take]) -> Vec<Result<TakeAnswer>> {
    match decider.decide(takes).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) if takes.len() > 1 && is_about_a_request(&error) => {
            join_all(takes.iter().map(|take| async move { one(decider.decide(slice::from_ref(take)).await?) })).await
        }
        Err(error) => takes.iter().map(|_| Err(again(&error))).collect(),
    }
}

fn one(answers: Vec<TakeAnswer>) -> Result<TakeAnswer> {
    answers.into_iter().next().ok_or_else(|| StoreError::corrupt(STORE, "no answer to one request"))
}

/// Whether the server answered and did not like what it was asked.
fn is_about_a_request(error: &StoreError) -> bool {
    let StoreError::Unavailable { source, .. } = error else { return false };
    source.downcast_ref::<RedisError>().is_some_and(|error| !error.is_unrecoverable_error() && !error.is_timeout() && !error.is_io_error())
}

/// The same failure for another caller.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { store, what } => StoreError::corrupt(store, what.clone()),
        StoreError::Unavailable { store, source } => StoreError::unavailable(store, source.to_string()),
        StoreError::OutcomeUnknown { store, source } => StoreError::outcome_unknown(store, source.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{amount::Tokens, bucket::Ask};
    use ports::rate_limits::Verdict;
    use redis::ErrorKind;
    use tokio::{sync::Semaphore, task::JoinHandle};

    const PATIENT: Duration = Duration::from_secs(60);

    /// Decides when it may; an amount of 13 makes the server refuse the whole call.
    #[derive(Clone)]
    struct Gated {
        open: Arc<Semaphore>,
        calls: Arc<std::sync::Mutex<Vec<Vec<i64>>>>,
    }

    #[async_trait]
    impl Decider for Gated {
        async fn decide(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
            let amounts: Vec<i64> = requests.iter().map(|take| take.ask.amount.get()).collect();
            self.calls.lock().unwrap().push(amounts.clone());
            self.open.acquire().await.unwrap().forget();
            if amounts.contains(&13) {
                return Err(StoreError::unavailable(STORE, RedisError::from((ErrorKind::Extension, "refused"))));
            }
            let verdict = |amount| if amount % 2 == 0 { Verdict::Allowed } else { Verdict::Refused };
            Ok(amounts.into_iter().map(|amount| TakeAnswer { verdict: verdict(amount), levels: Vec::new() }).collect())
        }
    }

    fn gated(budget: Duration) -> (Gated, Arc<Together>) {
        let gated = Gated { open: Arc::new(Semaphore::new(0)), calls: Arc::default() };
        (gated.clone(), Arc::new(Together::with(Arc::new(gated), budget, 1)))
    }

    fn ask(together: &Arc<Together>, amount: i64) -> JoinHandle<Result<TakeAnswer>> {
        let together = Arc::clone(together);
        let take = Take { buckets: Vec::new(), ask: Ask { amount: Tokens::new(amount).unwrap(), hold: None } };
        tokio::spawn(async move { together.take(take).await })
    }

    async fn settled() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn verdict(answer: Result<TakeAnswer>) -> Verdict {
        answer.unwrap().verdict
    }

    #[tokio::test]
    async fn the_first_goes_at_once_and_those_that_come_meanwhile_go_together_each_with_its_own_answer() {
        let (gate, together) = gated(PATIENT);
        let first = ask(&together, 2);
        settled().await;
        let others: Vec<_> = (3..7).map(|amount| ask(&together, amount)).collect();
        settled().await;
        assert_eq!(*gate.calls.lock().unwrap(), [vec![2]]);
        gate.open.add_permits(2);
        assert_eq!(verdict(first.await.unwrap()), Verdict::Allowed);
        for (amount, other) in (3..7).zip(others) {
            let expected = if amount % 2 == 0 { Verdict::Allowed } else { Verdict::Refused };
            assert_eq!(verdict(other.await.unwrap()), expected, "{amount}");
        }
        assert_eq!(*gate.calls.lock().unwrap(), [vec![2], vec![3, 4, 5, 6]]);
    }

    #[tokio::test]
    async fn nothing_is_taken_for_a_caller_who_went_away_while_it_waited() {
        let (gate, together) = gated(PATIENT);
        let first = ask(&together, 2);
        settled().await;
        let (gone, stays) = (ask(&together, 4), ask(&together, 6));
        settled().await;
        gone.abort();
        settled().await;
        gate.open.add_permits(2);
        assert_eq!(verdict(first.await.unwrap()), Verdict::Allowed);
        assert_eq!(verdict(stays.await.unwrap()), Verdict::Allowed);
        assert_eq!(*gate.calls.lock().unwrap(), [vec![2], vec![6]]);
    }

    #[tokio::test]
    async fn each_caller_waits_for_its_own_budget_and_no_longer() {
        let (gate, together) = gated(Duration::from_millis(200));
        let first = ask(&together, 2);
        settled().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let second = ask(&together, 4);
        // The gate stays shut: the call under way never ends by itself.
        assert!(matches!(first.await.unwrap(), Err(StoreError::Unavailable { .. })));
        gate.open.add_permits(2);
        assert_eq!(verdict(second.await.unwrap()), Verdict::Allowed);
    }

    #[tokio::test]
    async fn one_request_that_the_server_refuses_to_run_does_not_fail_its_neighbours() {
        let (gate, together) = gated(PATIENT);
        let first = ask(&together, 2);
        settled().await;
        let (bad, good) = (ask(&together, 13), ask(&together, 8));
        settled().await;
        gate.open.add_permits(4);
        assert_eq!(verdict(first.await.unwrap()), Verdict::Allowed);
        assert!(bad.await.unwrap().is_err());
        assert_eq!(verdict(good.await.unwrap()), Verdict::Allowed);
        assert_eq!(*gate.calls.lock().unwrap(), [vec![2], vec![13, 8], vec![13], vec![8]]);
    }
}

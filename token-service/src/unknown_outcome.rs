//! A commit whose answer was lost is neither success nor failure: the ledger is asked until it says which.
//!
//! Applying the same requests again is the question. Each can be recognised by its charge, its saga or its idempotency key, so what was
//! done is answered as done and what was not done is done now: exactly once either way.

use crate::group_commit::{Committer, Job, WriteError, Written};
use domain::{
    defect::{Defect, is_back},
    ids::Shard,
    ledger::{Command, Outcome},
};
use ports::{
    StoreError,
    ledger::{LedgerAnswer, LedgerRequest, StoredAnswer},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// How long the ledger is asked before the client is told to come back.
const ASK_FOR: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Requests of one transaction and who waits for each of them.
pub struct Batch {
    pub requests: Vec<LedgerRequest>,
    waiting: Vec<oneshot::Sender<Written>>,
}

impl Batch {
    pub fn of(jobs: Vec<Job>) -> Self {
        let (requests, waiting) = jobs.into_iter().map(|job| (job.request, job.answer)).unzip();
        Self { requests, waiting }
    }

    pub const fn len(&self) -> usize {
        self.requests.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// The first half last: a stack gives it back first, so that arrival order is kept.
    pub fn halves(mut self) -> Vec<Self> {
        let middle = self.requests.len() / 2;
        let later = Self { requests: self.requests.split_off(middle), waiting: self.waiting.split_off(middle) };
        vec![later, self]
    }

    /// Whether the requests are for more than one store.
    pub fn is_mixed(&self, store_of: impl Fn(Shard) -> usize) -> bool {
        let mut stores = self.requests.iter().map(|request| store_of(request.shard));
        stores.next().is_some_and(|first| stores.any(|other| other != first))
    }

    /// A batch for each store.
    pub fn divided(self, store_of: impl Fn(Shard) -> usize) -> Vec<Self> {
        let mut of_store: BTreeMap<usize, Self> = BTreeMap::new();
        for (request, waiting) in self.requests.into_iter().zip(self.waiting) {
            let store = store_of(request.shard);
            let batch = of_store.entry(store).or_insert_with(|| Self { requests: Vec::new(), waiting: Vec::new() });
            batch.requests.push(request);
            batch.waiting.push(waiting);
        }
        of_store.into_values().collect()
    }

    pub fn deliver(self, mut answers: Vec<LedgerAnswer>) {
        if is_back(Defect::AnswersMixedUp) {
            answers.reverse();
        }
        self.waiting.into_iter().zip(answers).for_each(|(waiting, answer)| drop(waiting.send(Ok(answer))));
    }

    pub fn fail(self, error: &WriteError) {
        self.waiting.into_iter().for_each(|waiting| drop(waiting.send(Err(error.clone()))));
    }
}

/// Answers everyone who waits for the batch: with the truth, or after [`ASK_FOR`] with [`WriteError::Unknown`].
pub async fn resolve(committer: Arc<Committer>, batch: Batch, store: &'static str) {
    let give_up = Instant::now() + ASK_FOR;
    let mut work = vec![batch];
    let mut pause = FIRST_PAUSE;
    while let Some(batch) = work.pop() {
        if Instant::now() >= give_up {
            batch.fail(&WriteError::Unknown { store });
            continue;
        }
        match ask_again(&committer, &batch.requests).await {
            Ok(answers) => batch.deliver(answers),
            Err(error @ StoreError::Corrupt { .. }) if batch.len() == 1 => batch.fail(&error.into()),
            Err(StoreError::Corrupt { .. }) => work.extend(batch.halves()),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                work.push(batch);
            }
        }
    }
}

async fn ask_again(committer: &Committer, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>, StoreError> {
    let answers = committer.apply(requests).await?;
    Ok(requests.iter().zip(answers).map(|(request, answer)| recognise(request, answer)).collect())
}

/// What the first attempt stored under a key is no replay: it is the answer to this very request.
fn recognise(request: &LedgerRequest, answer: LedgerAnswer) -> LedgerAnswer {
    match answer {
        LedgerAnswer::Replayed(stored) if is_own(request, &stored) => LedgerAnswer::Decided(stored.outcome),
        other => other,
    }
}

fn is_own(request: &LedgerRequest, stored: &StoredAnswer) -> bool {
    match (&request.request.command, &stored.outcome) {
        (Command::Consume { spec, .. } | Command::Hold { spec, .. }, Outcome::Charged { charge, .. }) => charge.spec.id == spec.id,
        (Command::StartPurchase(purchase), Outcome::SagaMoved { saga }) => saga.id == purchase.saga_id,
        (Command::Refund { saga_id, .. }, Outcome::SagaMoved { saga }) => saga.id == *saga_id,
        _ => request.idempotency.as_ref().is_some_and(|own| own.context == stored.context),
    }
}

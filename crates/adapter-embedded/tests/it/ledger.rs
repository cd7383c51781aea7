//! The ledger's own ways on SQLite.

use crate::story::{assert_state_is_the_fold_of_events, consume, grant, keyed, payer, pool, start, tokens};
use adapter_embedded::Embedded;
use chrono::TimeDelta;
use domain::ledger::Outcome;
use ports::ledger::{Ledger, LedgerAnswer};
use std::sync::Arc;

#[tokio::test]
async fn of_many_writers_at_once_exactly_the_affordable_ones_pass() {
    let embedded = Embedded::in_temp().await.unwrap();
    let payer = payer(1);
    embedded.apply(&[grant(payer, 100)]).await.unwrap();
    let shared: Arc<dyn Ledger> = Arc::new(embedded.clone());
    let writer = |index: u32| {
        let ledger = Arc::clone(&shared);
        tokio::spawn(async move {
            let batch: Vec<_> = (0..5).map(|item| keyed(consume(payer, 7), &format!("{index}/{item}"))).collect();
            let answers = ledger.apply(&batch).await.unwrap();
            answers.iter().filter(|answer| matches!(answer, LedgerAnswer::Decided(Outcome::Charged { .. }))).count()
        })
    };
    let mut passed = 0;
    for writer in (0..10).map(writer).collect::<Vec<_>>() {
        passed += writer.await.unwrap();
    }
    assert_eq!(passed, 14);
    assert_eq!(embedded.find_pool(&pool(payer)).await.unwrap().unwrap().remaining(), tokens(2));
    assert_state_is_the_fold_of_events(&embedded, payer).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_in_the_middle_leaves_no_open_transaction() {
    let embedded = Embedded::in_temp().await.unwrap();
    let payer = payer(1);
    embedded.apply(&[grant(payer, 1_000)]).await.unwrap();
    for yields in 0..60 {
        let requests = [keyed(consume(payer, 1), &format!("gone {yields}"))];
        let mut gone = Box::pin(embedded.apply(&requests));
        for _ in 0..yields {
            if futures::poll!(&mut gone).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(gone);
    }
    let before = embedded.snapshot(payer.shard()).await.unwrap().last_seq;
    let answers = embedded.apply(&[consume(payer, 1)]).await.unwrap();
    assert!(matches!(answers[..], [LedgerAnswer::Decided(Outcome::Charged { .. })]));
    let snapshot = assert_state_is_the_fold_of_events(&embedded, payer).await;
    assert!(snapshot.last_seq > before);
}

#[tokio::test]
async fn more_old_answers_than_one_step_drops_are_all_forgotten() {
    let embedded = Embedded::in_temp().await.unwrap();
    let payer = payer(1);
    let batch: Vec<_> = (0..2_500).map(|item| keyed(grant(payer, 1), &format!("old {item}"))).collect();
    embedded.apply(&batch).await.unwrap();
    let keys: Vec<_> = batch.iter().filter_map(|request| request.idempotency.as_ref()).map(|idempotency| idempotency.key.clone()).collect();
    let kept = async || embedded.find_answers(&keys).await.unwrap().into_iter().flatten().count();
    embedded.maintain(start()).await.unwrap();
    assert_eq!(kept().await, 2_500, "the day has not ended");
    embedded.maintain(start() + TimeDelta::days(1)).await.unwrap();
    assert_eq!(kept().await, 0);
}

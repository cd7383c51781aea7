//! Purchases: what each step changes, in which order, and under whose claim.

use super::*;
use crate::{
    ledger::Purchase,
    money::Cost,
    saga::{PurchaseTask, Saga, SagaStatus},
};

impl Story {
    /// Under claim 1.
    pub(super) fn purchase(&mut self, amount: i64) -> SagaId {
        let Payer::User(user_id) = self.pool.payer else { panic!("the story is about a user") };
        let saga_id = SagaId::new(self.pool.payer.shard(), self.now);
        let price = Cost { minor_units: tokens(5), currency: "EUR".parse().unwrap() };
        let purchase = Purchase { saga_id, pool: self.pool.clone(), user_id, plan_id: Some("pack".into()), tokens: tokens(amount), price };
        self.run(Command::StartPurchase(purchase));
        self.state.claims.insert(saga_id, 1);
        saga_id
    }

    fn move_to(&mut self, saga_id: SagaId, to: SagaStatus) -> Outcome {
        let claim = self.state.claims[&saga_id];
        self.run(Command::MovePurchase { saga_id, claim, to, reason: None })
    }

    /// Does what is to be done next; where it does not end well, it is compensated as far as that is still possible.
    pub(super) fn move_on(&mut self, index: usize, well: bool) {
        let Some(saga) = self.state.sagas.values().nth(index).cloned() else { return };
        let to = match saga.task() {
            None => return,
            Some(PurchaseTask::Authorise) => SagaStatus::PaymentReserved,
            Some(PurchaseTask::Allocate) => SagaStatus::TokensAllocated,
            Some(PurchaseTask::Capture) => SagaStatus::PaymentCaptured,
            Some(PurchaseTask::Complete) => SagaStatus::Completed,
            Some(PurchaseTask::TakeBack) => SagaStatus::TokensTakenBack,
            Some(PurchaseTask::Void) => SagaStatus::PaymentVoided,
            Some(PurchaseTask::Fail) => SagaStatus::Failed,
        };
        let to = if well || !saga.status().may_become(SagaStatus::Compensating) { to } else { SagaStatus::Compensating };
        let outcome = self.move_to(saga.id, to);
        assert!(matches!(outcome, Outcome::SagaMoved { .. } | Outcome::BalanceOverflow), "{outcome:?}");
    }

    fn saga(&self, id: SagaId) -> &Saga {
        &self.state.sagas[&id]
    }

    fn statuses(&self, id: SagaId) -> Vec<SagaStatus> {
        self.saga(id).steps.iter().map(|step| step.status).collect()
    }
}

#[test]
fn a_purchase_adds_its_tokens_when_they_are_allocated_and_ends() {
    use SagaStatus::{Completed, PaymentCaptured, PaymentReserved, Started, TokensAllocated};
    let mut story = Story::new();
    let id = story.purchase(100);
    assert!(story.state.changed.due_sagas.contains(&id), "somebody has to move it on");
    story.move_on(0, true);
    assert!(!story.state.pools.contains_key(&story.pool));
    story.move_on(0, true);
    assert_eq!(story.remaining(), 100);
    story.move_on(0, true);
    story.move_on(0, true);
    assert_eq!(story.statuses(id), [Started, PaymentReserved, TokensAllocated, PaymentCaptured, Completed]);
    assert_eq!((story.saga(id).task(), story.remaining()), (None, 100));
    assert_eq!(story.events.len(), 5, "each step is an event");
}

#[test]
fn what_does_not_come_about_is_undone_in_the_reverse_order() {
    use SagaStatus::{Compensating, Failed, PaymentReserved, PaymentVoided, Started, TokensAllocated, TokensTakenBack};
    for (good_steps, expected) in [
        (0, vec![Started, Compensating, PaymentVoided, Failed]),
        (1, vec![Started, PaymentReserved, Compensating, PaymentVoided, Failed]),
        (2, vec![Started, PaymentReserved, TokensAllocated, Compensating, TokensTakenBack, PaymentVoided, Failed]),
    ] {
        let mut story = Story::new();
        story.grant(7);
        let id = story.purchase(100);
        (0..good_steps).for_each(|_| story.move_on(0, true));
        story.move_on(0, false);
        while !story.saga(id).status().is_end() {
            story.move_on(0, true);
        }
        assert_eq!(story.statuses(id), expected);
        assert_eq!(story.remaining(), 7);
    }
}

#[test]
fn tokens_that_were_spent_before_they_were_taken_back_are_owed() {
    let mut story = Story::new();
    story.purchase(100);
    story.move_on(0, true);
    story.move_on(0, true);
    story.consume(30);
    story.move_on(0, false);
    story.move_on(0, true);
    assert_eq!((story.remaining(), story.pool().debt), (0, tokens(30)));
    story.grant(50);
    assert_eq!((story.remaining(), story.pool().debt), (20, Tokens::ZERO));
}

#[test]
fn only_the_latest_claim_moves_it_and_no_step_is_taken_twice_or_skipped() {
    let mut story = Story::new();
    let id = story.purchase(100);
    story.state.claims.insert(id, 2);
    let stale = Command::MovePurchase { saga_id: id, claim: 1, to: SagaStatus::PaymentReserved, reason: None };
    assert_eq!(story.run(stale), Outcome::SagaTaken);
    for skipped in
        [SagaStatus::TokensAllocated, SagaStatus::PaymentCaptured, SagaStatus::Completed, SagaStatus::TokensTakenBack, SagaStatus::Failed]
    {
        assert_eq!(story.move_to(id, skipped), Outcome::SagaElsewhere { status: SagaStatus::Started });
    }
    story.move_on(0, true);
    story.move_on(0, true);
    let before = story.events.len();
    assert!(matches!(story.move_to(id, SagaStatus::TokensAllocated), Outcome::SagaMoved { .. }));
    assert_eq!((story.events.len(), story.remaining()), (before, 100));
    story.move_on(0, false);
    // The tokens go before the payment.
    assert_eq!(story.move_to(id, SagaStatus::PaymentVoided), Outcome::SagaElsewhere { status: SagaStatus::Compensating });
}

#[test]
fn an_operator_compensates_until_the_payment_is_captured_and_resumes_until_the_end() {
    let mut story = Story::new();
    let id = story.purchase(100);
    let direct = |story: &mut Story, direction| story.run(Command::DirectPurchase { saga_id: id, direction, reason: "looks stuck".into() });
    assert!(matches!(direct(&mut story, Direction::Resume), Outcome::SagaMoved { .. }));
    assert_eq!((story.statuses(id).len(), story.saga(id).reason.as_deref()), (2, Some("looks stuck")));
    (0..3).for_each(|_| story.move_on(0, true));
    let captured = Outcome::SagaElsewhere { status: SagaStatus::PaymentCaptured };
    assert_eq!(direct(&mut story, Direction::Compensate), captured);
    story.move_on(0, true);
    assert_eq!(direct(&mut story, Direction::Resume), Outcome::SagaElsewhere { status: SagaStatus::Completed });
    let mut story = Story::new();
    let id = story.purchase(100);
    story.move_on(0, true);
    assert!(matches!(
        story.run(Command::DirectPurchase { saga_id: id, direction: Direction::Compensate, reason: "fraud".into() }),
        Outcome::SagaMoved { .. }
    ));
    assert_eq!(story.saga(id).task(), Some(PurchaseTask::Void));
}

#[test]
fn an_operator_who_resumes_a_purchase_gives_and_takes_no_tokens() {
    let mut story = Story::new();
    let id = story.purchase(100);
    let resume = |story: &mut Story| {
        let command = Command::DirectPurchase { saga_id: id, direction: Direction::Resume, reason: "looks stuck".into() };
        assert!(matches!(story.run(command), Outcome::SagaMoved { .. }));
    };
    story.move_on(0, true);
    story.move_on(0, true);
    resume(&mut story);
    assert_eq!((story.saga(id).task(), story.remaining()), (Some(PurchaseTask::Capture), 100));
    story.move_on(0, false);
    story.move_on(0, true);
    resume(&mut story);
    assert_eq!((story.saga(id).task(), story.remaining(), story.pool().debt), (Some(PurchaseTask::Void), 0, Tokens::ZERO));
}

#[test]
fn a_purchase_that_no_balance_could_count_is_refused_at_once() {
    let mut story = Story::new();
    story.grant(Tokens::MAX.get() - 50);
    let before = story.events.len();
    story.purchase(100);
    assert_eq!((story.events.len(), story.state.sagas.len()), (before, 0));
}

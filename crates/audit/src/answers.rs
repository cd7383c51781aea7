//! I10: every answer that is kept under an idempotency key is still true of its charge, and no key has two.

use crate::{
    AuditError, Reading, Scope, Stores,
    report::{Difference, Findings},
};
use domain::{charge::Charge, ids::Shard, ledger::Outcome};
use ports::ledger::KeptAnswer;

pub(crate) async fn check(stores: &Stores, scope: &Scope, findings: &mut Findings) -> Result<(), AuditError> {
    let mut before = String::new();
    let mut visit = |answer: KeptAnswer| {
        let doubled = answer.name == before;
        compare(&answer, doubled, scope, findings);
        before = answer.name;
    };
    stores.ledger.scan_answers(&mut visit).await.reading("the answers under idempotency keys")
}

fn compare(answer: &KeptAnswer, doubled: bool, scope: &Scope, findings: &mut Findings) {
    let covered = |charge: &Charge| scope.covers_charge(charge);
    // Of an answer without a charge nobody knows whose it is: only an audit of everything names it.
    if !answer.charge.as_ref().map_or(scope.is_everything(), covered) {
        return;
    }
    findings.checked(1);
    let mut report = |subject: &str, expected: String, found: String| {
        let shard = answer.charge_id.shard().map_or(0, Shard::index);
        let difference = Difference { shard, subject: subject.into(), ..Difference::default() }.charge(answer.charge_id);
        let difference = match &answer.charge {
            Some(charge) => difference.seq(charge.seq).tenant(charge.spec.payer.tenant()),
            None => difference,
        };
        findings.report(difference.values(expected, found));
    };
    let Some(charge) = &answer.charge else {
        return report("answer under an idempotency key", "a charge that it is about".into(), "none".into());
    };
    if doubled {
        report("idempotency key", "one answer".into(), "a second one".into());
    }
    match &answer.outcome {
        Err(reason) => report("answer under an idempotency key", "an outcome".into(), reason.clone()),
        Ok(Outcome::Charged { charge: told, .. }) if !charge.follows(told) => {
            report("answer under an idempotency key", brief(charge), brief(told));
        }
        Ok(_) => {}
    }
}

fn brief(charge: &Charge) -> String {
    let Charge { spec, status, held, settled, refunded, debt, .. } = charge;
    format!("{} {}: held {held}, settled {settled}, refunded {refunded}, debt {debt}", spec.id, status.as_str())
}

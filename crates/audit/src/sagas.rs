//! I3 for sagas: each is where its events have brought it.

use crate::{
    Scope,
    fold::{Folded, differing_fields},
    picture::Picture,
    report::Findings,
};

pub(crate) fn check_state(picture: &Picture, folded: &mut Folded, scope: &Scope, findings: &mut Findings) {
    for saga in picture.snapshot.sagas.iter().filter(|saga| scope.covers_spender(saga.payer, saga.user_id)) {
        findings.checked(1);
        let about = |seq| picture.at(Some(seq), &format!("saga {}", saga.id)).tenant(saga.payer.tenant());
        match folded.state.sagas.remove(&saga.id) {
            None => findings.report_consequence(about(saga.seq).values("an event that begins it", "none")),
            Some(expected) if expected != *saga => {
                let (wanted, found) = differing_fields(&expected, saga);
                findings.report_consequence(about(expected.seq).values(wanted, found));
            }
            Some(_) => {}
        }
    }
    for saga in folded.state.sagas.values().filter(|saga| scope.covers_spender(saga.payer, saga.user_id)) {
        let difference = picture.at(Some(saga.seq), &format!("saga {}", saga.id));
        findings.report_consequence(difference.values("a stored saga", "none"));
    }
}

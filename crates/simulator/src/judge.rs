//! Whether everything that was said is true, and every figure agrees with every other.

mod purchases;
mod replays;

use crate::{
    people::{End, Errand, Wish},
    processes::Stores,
};
use audit::{Difference, Report};
use domain::{
    charge::{Charge, ChargeStatus},
    ids::Shard,
};
use std::collections::{BTreeMap, BTreeSet};

/// The first thing that is wrong.
pub fn judge(stores: &Stores, errands: &[Errand], report: &Report, lost: &BTreeSet<(Shard, i64)>) -> Result<(), String> {
    if let Some(what) = errands.iter().find_map(|errand| errand.astonished.clone()) {
        return Err(what);
    }
    let charges = stores.journal.every_charge();
    let mut of_amount: BTreeMap<(uuid::Uuid, i64), Vec<&Charge>> = BTreeMap::new();
    for charge in &charges {
        of_amount.entry((charge.spec.user_id.0, charge.held.get())).or_default().push(charge);
    }
    for errand in errands {
        let own = of_amount.remove(&(errand.user.0, errand.tokens)).unwrap_or_default();
        errand_is_true(errand, &own)?;
    }
    if let Some(stray) = of_amount.into_values().flatten().next() {
        return Err(format!("a charge that nobody asked for: {stray:?}"));
    }
    purchases::purchases_are_true(stores, errands)?;
    replays::replays_are_true(stores, lost)?;
    for invariant in &report.invariants {
        // A record that the log lost is missing there, and nowhere else.
        let is_lost = |difference: &Difference| {
            let place = Shard::new(difference.shard).ok().zip(difference.seq);
            invariant.id == "I4" && place.is_some_and(|place| lost.contains(&place))
        };
        if let Some(first) = invariant.differences.iter().find(|difference| !is_lost(difference)) {
            return Err(format!("{} ({}): {first:?}", invariant.id, invariant.name));
        }
    }
    if report.totals.pending != 0 {
        return Err(format!("{} events never reached the rollups", report.totals.pending));
    }
    Ok(())
}

fn errand_is_true(errand: &Errand, own: &[&Charge]) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{what}: {errand:?}, charges {own:?}"));
    if own.len() > 1 {
        return wrong("done twice");
    }
    let Some(charge) = own.first() else {
        return if errand.charge_id.is_some() { wrong("acknowledged and lost") } else { Ok(()) };
    };
    if errand.charge_id.is_some_and(|id| id != charge.spec.id.0) {
        return wrong("acknowledged under another id");
    }
    if errand.refused && errand.charge_id.is_none() {
        return wrong("refused and done");
    }
    let refunded = charge.refunded.get();
    if refunded < errand.refunded || refunded > errand.refunded + errand.maybe_refunded {
        return wrong("another refund than its owner was told");
    }
    let settled = |tokens: i64| charge.settled.get() == tokens && matches!(charge.status, ChargeStatus::Settled | ChargeStatus::Refunded);
    let fits = match errand.wish {
        // What is known beforehand is never spent on credit.
        Wish::Consume | Wish::Refund(_) => settled(errand.tokens) && charge.debt.is_zero(),
        Wish::Hold(End::Settle(tokens)) if errand.ended => settled(tokens),
        // Released by its owner, or expired before.
        Wish::Hold(End::Release) if errand.ended => matches!(charge.status, ChargeStatus::Released | ChargeStatus::Expired),
        Wish::Hold(End::Settle(tokens)) => settled(tokens) || charge.status == ChargeStatus::Expired,
        // Its tokens are in the pool, and no charge is of them.
        Wish::Purchase(_) | Wish::Replay(_) => false,
        Wish::Hold(End::Release | End::Abandon) => matches!(charge.status, ChargeStatus::Released | ChargeStatus::Expired),
    };
    if fits { Ok(()) } else { wrong("another end than its owner was told") }
}

//! A charge: one use of tokens with one id, from hold to its one end.

use crate::{
    amount::Tokens,
    ids::{ChargeId, KeyId, Model, Payer, Provider, UserId},
    money::Cost,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Free text that travels with a charge: at most 16 entries of at most 512 bytes, checked at the edge.
pub type Metadata = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChargeStatus {
    Held,
    Settled,
    Released,
    Expired,
    Refunded,
}

impl ChargeStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "HELD",
            Self::Settled => "SETTLED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
            Self::Refunded => "REFUNDED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Held, Self::Settled, Self::Released, Self::Expired, Self::Refunded].into_iter().find(|status| status.as_str() == text)
    }
}

/// Who spends what for whom: the part of a charge that is known before any decision and never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeSpec {
    pub id: ChargeId,
    pub payer: Payer,
    pub user_id: UserId,
    pub key_id: Option<KeyId>,
    pub provider: Provider,
    pub model: Option<Model>,
    pub metadata: Metadata,
}

/// Where the tokens of a charge came from, or go back to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of the period that starts at the charge's `period_start`.
    pub allowance: Tokens,
    pub purchased: Tokens,
    /// What no balance covered.
    pub debt: Tokens,
}

impl Sources {
    /// What has come to these since `before`.
    pub(crate) fn beyond(self, before: Self) -> Self {
        Self {
            allowance: self.allowance.saturating_sub(before.allowance),
            purchased: self.purchased.saturating_sub(before.purchased),
            debt: self.debt.saturating_sub(before.debt),
        }
    }
}

/// The stored state of a charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Charge {
    #[serde(flatten)]
    pub spec: ChargeSpec,
    pub status: ChargeStatus,
    /// What was reserved; stays after the end of the hold.
    pub held: Tokens,
    /// What was used in the end, `debt` included.
    pub settled: Tokens,
    pub refunded: Tokens,
    /// The part of `settled` that no balance covered when it was booked.
    pub debt: Tokens,
    /// The part of the hold, later of the settled amount, taken from the allowance of the period that starts at `period_start`.
    pub from_allowance: Tokens,
    pub from_purchased: Tokens,
    /// Of the hold, later of the settled amount, at the prices in force when the charge was made; none where there was no price.
    pub cost: Option<Cost>,
    pub period_start: Option<DateTime<Utc>>,
    /// The settle came after the hold had expired.
    pub late: bool,
    pub created_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Number of the charge's first event in its shard; 0 until the ledger has assigned it.
    pub seq: i64,
}

impl Charge {
    /// What a refund may still give back.
    pub fn net(&self) -> Tokens {
        self.settled.saturating_sub(self.refunded)
    }

    /// Where the refunded tokens went back to. What was taken last goes back first: what nothing covered, then what was purchased, then
    /// the allowance.
    pub fn returned(&self) -> Sources {
        let debt = self.refunded.min(self.debt);
        let rest = self.refunded.saturating_sub(debt);
        let purchased = rest.min(self.from_purchased);
        Sources { allowance: rest.saturating_sub(purchased), purchased, debt }
    }

    /// Of the cost the part that belongs to the refunded tokens, in whole minor units and never more; all of it once all is refunded.
    pub fn refunded_cost(&self) -> Option<Cost> {
        let cost = self.cost?;
        if self.refunded >= self.settled {
            return Some(cost);
        }
        let share = i128::from(cost.minor_units.get()) * i128::from(self.refunded.get()) / i128::from(self.settled.get());
        let minor_units = i64::try_from(share).ok().and_then(|units| Tokens::new(units).ok()).unwrap_or(cost.minor_units);
        Some(Cost { minor_units, ..cost })
    }

    /// What the charge costs after its refunds.
    pub fn net_cost(&self) -> Option<Cost> {
        let (cost, refunded) = (self.cost?, self.refunded_cost()?);
        Some(Cost { minor_units: cost.minor_units.saturating_sub(refunded.minor_units), ..cost })
    }

    /// Whether this can be what became of the charge as it was once told: what was said stays true, whatever happened since.
    pub fn follows(&self, told: &Self) -> bool {
        use ChargeStatus::{Expired, Held, Refunded, Settled};
        let same = self.spec == told.spec && self.held == told.held && self.created_at == told.created_at;
        let reached = match told.status {
            Held => true,
            Expired => matches!(self.status, Expired | Settled | Refunded),
            Settled => matches!(self.status, Settled | Refunded),
            end => self.status == end,
        };
        let booked = match told.status {
            Settled | Refunded => {
                (self.settled, self.debt, self.late, self.settled_at) == (told.settled, told.debt, told.late, told.settled_at)
                    && self.refunded >= told.refunded
            }
            _ => true,
        };
        same && reached && booked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn charge(status: ChargeStatus, settled: i64) -> Charge {
        let user_id = UserId(Uuid::from_u128(1));
        let created_at = "2026-11-21T12:00:00Z".parse().unwrap();
        let payer = Payer::User(user_id);
        let id = ChargeId::new(payer.shard(), created_at);
        let spec = ChargeSpec {
            id,
            payer,
            user_id,
            key_id: None,
            provider: Provider::parse("openai").unwrap(),
            model: None,
            metadata: Metadata::new(),
        };
        Charge {
            spec,
            status,
            held: Tokens::new(10).unwrap(),
            settled: Tokens::new(settled).unwrap(),
            refunded: Tokens::ZERO,
            debt: Tokens::ZERO,
            from_allowance: Tokens::ZERO,
            from_purchased: Tokens::ZERO,
            cost: None,
            period_start: None,
            late: false,
            created_at,
            settled_at: None,
            expires_at: None,
            seq: 1,
        }
    }

    #[test]
    fn a_charge_follows_what_was_told_of_it_before_its_end_and_nothing_else() {
        use ChargeStatus::{Expired, Held, Refunded, Released, Settled};
        let follow = [
            (Held, &[Held, Settled, Released, Expired, Refunded][..]),
            (Settled, &[Settled, Refunded]),
            (Released, &[Released]),
            (Expired, &[Expired, Settled, Refunded]),
            (Refunded, &[Refunded]),
        ];
        for (told, reached) in follow {
            for now in [Held, Settled, Released, Expired, Refunded] {
                let told = charge(told, 7);
                let now = Charge { status: now, ..told.clone() };
                assert_eq!(now.follows(&told), reached.contains(&now.status), "{:?} after {:?}", now.status, told.status);
            }
        }
    }

    #[test]
    fn what_was_booked_and_who_it_was_stays() {
        let told = charge(ChargeStatus::Settled, 7);
        let one = Tokens::new(1).unwrap();
        let changes: [fn(&mut Charge, Tokens); 7] = [
            |charge, one| charge.settled = one,
            |charge, one| charge.held = one,
            |charge, one| charge.debt = one,
            |charge, _| charge.late = true,
            |charge, _| charge.settled_at = Some(charge.created_at),
            |charge, _| charge.created_at = DateTime::UNIX_EPOCH,
            |charge, _| charge.spec.model = Model::parse("o3").ok(),
        ];
        for change in changes {
            let mut now = told.clone();
            change(&mut now, one);
            assert!(!now.follows(&told), "{now:?}");
        }
        let refunded = Charge { refunded: one, ..told.clone() };
        assert!(refunded.follows(&told) && !told.follows(&refunded));
        // While it was held nothing was booked.
        let held = charge(ChargeStatus::Held, 0);
        assert!(Charge { status: ChargeStatus::Settled, settled: one, debt: one, ..held.clone() }.follows(&held));
    }
}

//! I2: each charge reaches exactly one end, its row says which, and refunds never exceed what was settled.

use crate::{
    Scope,
    picture::Picture,
    report::{Difference, Findings},
};
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeStatus},
    event::{EventType, UsageEvent},
    ids::ChargeId,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What the events of one charge say, told in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Story {
    /// Numbers of the first and of the newest event.
    pub first: i64,
    pub last: i64,
    status: Option<ChargeStatus>,
    settled: Tokens,
    refunded: i128,
    /// The first event that cannot follow the ones before it; nothing after it is told.
    #[serde(skip)]
    broken: Option<Box<Difference>>,
}

impl Story {
    fn tell(&mut self, event: &UsageEvent) {
        self.first = if self.first == 0 { event.seq } else { self.first };
        self.last = event.seq;
        if self.broken.is_none() {
            self.broken = self.follow(event).err();
        }
    }

    fn follow(&mut self, event: &UsageEvent) -> Result<(), Box<Difference>> {
        use ChargeStatus::{Expired, Held, Refunded, Released, Settled};
        let next = match (self.status, event.event.kind) {
            (None, EventType::ChargeHeld) => Held,
            (None | Some(Held | Expired), EventType::ChargeSettled) => Settled,
            (Some(Held), EventType::ChargeReleased) => Released,
            (Some(Held), EventType::ChargeExpired) => Expired,
            (Some(Settled), EventType::ChargeRefunded) => {
                self.refunded += i128::from(event.event.tokens.get());
                if self.refunded == i128::from(self.settled.get()) { Refunded } else { Settled }
            }
            _ => return Err(Box::new(self.contradicted_by(event))),
        };
        if event.event.kind == EventType::ChargeSettled {
            self.settled = event.event.tokens;
        }
        if self.refunded > i128::from(self.settled.get()) {
            let difference = Difference::of_event(event, "refunds of a charge");
            return Err(Box::new(difference.values(format!("at most {}", self.settled), self.refunded)));
        }
        self.status = Some(next);
        Ok(())
    }

    /// A charge in this state cannot have this event.
    fn contradicted_by(&self, event: &UsageEvent) -> Difference {
        let expected = self.status.map_or("an event that opens the charge", |_| "one end");
        let found = match self.status {
            Some(status) => format!("{} after {}", event.event.kind.as_str(), status.as_str()),
            None => event.event.kind.as_str().to_owned(),
        };
        Difference::of_event(event, "end of a charge").values(expected, found)
    }
}

/// The stories of all charges of a shard.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stories(HashMap<ChargeId, Story>);

impl Stories {
    pub fn tell(&mut self, event: &UsageEvent) {
        // A refusal belongs to no charge, and a pool's event has none.
        if let Some(charge) = event.event.charge_id.filter(|_| event.event.kind != EventType::RequestsRefused) {
            self.0.entry(charge).or_default().tell(event);
        }
    }

    pub fn of(&self, charge: ChargeId) -> Option<&Story> {
        self.0.get(&charge)
    }
}

pub(crate) fn check(picture: &Picture, stories: &Stories, scope: &Scope, findings: &mut Findings) {
    for charge in picture.snapshot.charges.iter().filter(|charge| scope.covers_charge(charge)) {
        findings.checked(1);
        let untold = Story::default();
        let story = stories.of(charge.spec.id).unwrap_or(&untold);
        match &story.broken {
            Some(difference) => findings.report((**difference).clone()),
            None => compare(picture, charge, story, findings),
        }
    }
}

fn compare(picture: &Picture, charge: &Charge, story: &Story, findings: &mut Findings) {
    let mut report = |subject: &str, expected: String, found: String| {
        let difference = Difference::at(picture.shard, subject).seq(charge.seq).tenant(charge.spec.payer.tenant());
        let difference = picture.event(story.last).map_or(difference.clone(), |event| difference.event(event));
        findings.report(difference.charge(charge.spec.id).values(expected, found));
    };
    let Some(status) = story.status else {
        return report("events of a charge", "at least one".into(), format!("none; its row says {}", charge.status.as_str()));
    };
    if status != charge.status {
        report("end of a charge", status.as_str().into(), charge.status.as_str().into());
    }
    if story.settled != charge.settled {
        report("settled tokens of a charge", story.settled.to_string(), charge.settled.to_string());
    }
    if story.refunded != i128::from(charge.refunded.get()) {
        report("refunded tokens of a charge", story.refunded.to_string(), charge.refunded.to_string());
    }
}

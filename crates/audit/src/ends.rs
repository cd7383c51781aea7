//! I2: each charge reaches exactly one end, its row says which, and refunds never exceed what was settled.

use crate::{
    Scope,
    fold::Stories,
    picture::Picture,
    report::{Difference, Findings},
};
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeStatus},
    event::{EventType, UsageEvent},
};

/// What the events of one charge say, read in order.
#[derive(Default)]
struct Story {
    status: Option<ChargeStatus>,
    settled: Tokens,
    refunded: i128,
}

impl Story {
    /// `false` when a charge in this state cannot have this event.
    fn tell(&mut self, event: &UsageEvent) -> bool {
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
            _ => return false,
        };
        if event.event.kind == EventType::ChargeSettled {
            self.settled = event.event.tokens;
        }
        self.status = Some(next);
        true
    }
}

pub(crate) fn check(picture: &Picture, stories: &Stories, scope: &Scope, findings: &mut Findings) {
    let in_scope = |charge: &&Charge| scope.covers_payer(charge.spec.payer) && scope.covers_time(charge.created_at);
    for charge in picture.snapshot.charges.iter().filter(in_scope) {
        findings.checked(1);
        match read(picture, stories.of(charge.spec.id)) {
            Ok(story) => compare(picture, stories, charge, &story, findings),
            Err(difference) => findings.report(*difference),
        }
    }
}

/// Follows the events to the charge's end, or names the first event that cannot follow the ones before it.
fn read(picture: &Picture, seqs: &[i64]) -> Result<Story, Box<Difference>> {
    let mut story = Story::default();
    for event in seqs.iter().filter_map(|seq| picture.event(*seq)) {
        let before = story.status;
        if !story.tell(event) {
            let expected = before.map_or("an event that opens the charge", |_| "one end");
            let found = match before {
                Some(status) => format!("{} after {}", event.event.kind.as_str(), status.as_str()),
                None => event.event.kind.as_str().to_owned(),
            };
            return Err(Box::new(Difference::of_event(event, "end of a charge").values(expected, found)));
        }
        if story.refunded > i128::from(story.settled.get()) {
            let difference = Difference::of_event(event, "refunds of a charge");
            return Err(Box::new(difference.values(format!("at most {}", story.settled), story.refunded)));
        }
    }
    Ok(story)
}

fn compare(picture: &Picture, stories: &Stories, charge: &Charge, story: &Story, findings: &mut Findings) {
    let last = stories.of(charge.spec.id).last().and_then(|seq| picture.event(*seq));
    let mut report = |subject: &str, expected: String, found: String| {
        let difference = Difference::at(picture.shard, subject).seq(charge.seq).tenant(charge.spec.payer.tenant());
        let difference = last.map_or(difference.clone(), |event| difference.event(event));
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

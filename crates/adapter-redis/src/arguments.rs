//! Requests as the scripts take them.

use crate::{
    keys::{Content, bucket_name, mark_name},
    scripts::Arguments,
};
use domain::{
    amount::Tokens,
    bucket::{MAX_CAPACITY, Pace, Return, State},
    ids::Payer,
};
use ports::{
    Clock,
    rate_limits::{Bucket, Group, Take, Use, restored},
};
use std::collections::HashMap;

/// For how long a payer stays known; after it, its next request looks at the ledger once more.
const KNOWN_MS: i64 = 7 * 86_400_000;

/// As in `lua/take.lua`.
const SLACK_MS: i64 = 60_000;
const LENT: i64 = 10;

/// A request, and what the process wants to be lent beside it: of each of its buckets, or of none.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) take: &'a Take,
    pub(crate) wanted: &'a [i64],
}

/// How requests become keys and arguments.
pub(crate) struct Coder {
    pub(crate) prefix: String,
    /// Whether keys of different tags may lie on different servers.
    pub(crate) divided: bool,
    /// Instead of the server's time, in tests.
    pub(crate) clock: Option<Clock>,
}

impl Coder {
    pub(crate) fn empty(&self) -> Arguments {
        Arguments { now_ms: self.now_ms(), ..Arguments::default() }
    }

    pub(crate) fn now_ms(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().timestamp_millis())
    }

    pub(crate) fn name(&self, bucket: &Bucket) -> String {
        bucket_name(&self.prefix, content(bucket), &bucket.key)
    }

    pub(crate) fn mark(&self, payer: Payer, epoch: &str) -> String {
        mark_name(&self.prefix, payer, epoch)
    }

    /// Whether the bucket is asked by itself, together with others of its tag at most, so that a slice of it may save asking.
    pub(crate) const fn stands_alone(&self, bucket: &Bucket) -> bool {
        match bucket.key.group {
            Group::Payer(_) => false,
            // Where one server keeps everything, these are asked with the payer's.
            Group::Shared => self.divided,
            Group::Principal(_) => true,
        }
    }

    pub(crate) fn lends(&self, bucket: &Bucket) -> bool {
        self.stands_alone(bucket) && bucket.rule.lends()
    }

    pub(crate) fn take(&self, requests: &[Asked<'_>], epoch: &str) -> Arguments {
        let mut arguments = self.empty();
        let mut places: HashMap<String, i64> = HashMap::new();
        for Asked { take: request, wanted } in requests {
            arguments.push(request.ask.amount.get());
            let mark = request.payer().map(|payer| self.mark(payer, epoch));
            let mark = mark.map_or(0, |mark| place(&mut places, &mut arguments.keys, mark));
            arguments.push(mark);
            arguments.push(count(request.buckets.len()));
            for (number, bucket) in request.buckets.iter().enumerate() {
                let place = place(&mut places, &mut arguments.keys, self.name(bucket));
                arguments.push(place);
                arguments.push(bucket.rule.capacity());
                let (kind, pace) = coded(bucket.rule.pace());
                let lends = self.lends(bucket);
                arguments.push(if lends { kind + LENT } else { kind });
                match (bucket.rule.pace(), request.ask.hold) {
                    (Pace::Slots, hold) => {
                        arguments.push(hold.map_or(0, |hold| hold.ttl_ms));
                        arguments.push_text(hold.map_or_else(String::new, |hold| hold.id.to_string()));
                    }
                    _ => arguments.push(pace),
                }
                if lends {
                    arguments.push(wanted.get(number).copied().unwrap_or_default());
                }
            }
        }
        arguments
    }

    pub(crate) fn fill(&self, entries: &[(&Bucket, Tokens)], epoch: &str) -> Arguments {
        let mut arguments = self.empty();
        let mut places: HashMap<String, i64> = HashMap::new();
        for (bucket, amount) in entries {
            let own = place(&mut places, &mut arguments.keys, self.name(bucket));
            let mark = match bucket.key.group {
                Group::Payer(payer) => place(&mut places, &mut arguments.keys, self.mark(payer, epoch)),
                Group::Shared | Group::Principal(_) => 0,
            };
            let (kind, pace) = coded(bucket.rule.pace());
            for number in [own, mark, bucket.rule.capacity(), kind, pace, amount.get().min(MAX_CAPACITY)] {
                arguments.push(number);
            }
        }
        arguments
    }

    pub(crate) fn give_back(&self, entries: &[(&Bucket, &Return)]) -> Arguments {
        let mut arguments = self.empty();
        for (bucket, back) in entries {
            arguments.keys.push(self.name(bucket));
            let (kind, pace) = coded(bucket.rule.pace());
            for number in [kind, pace, back.amount.get().min(MAX_CAPACITY), back.age_ms(bucket.rule.pace())] {
                arguments.push(number);
            }
            arguments.push_text(back.hold.map_or_else(String::new, |id| id.to_string()));
        }
        arguments
    }

    /// The payer's buckets as they are now, by the server's time.
    pub(crate) fn restore(&self, payer: Payer, uses: &[Use], epoch: &str, now_ms: i64) -> Arguments {
        let mut arguments = self.empty();
        arguments.keys.push(self.mark(payer, epoch));
        arguments.push(KNOWN_MS);
        for (key, (rule, state)) in restored(uses, now_ms).into_iter().filter(|(key, _)| key.group == Group::Payer(payer)) {
            arguments.push(rule.reading(&state, now_ms).empty_after_ms + SLACK_MS);
            match state {
                State::Amounts(level) => {
                    arguments.keys.push(bucket_name(&self.prefix, Content::Amounts, &key));
                    arguments.push(-1);
                    let portions = level.portions().map(|portion| format!("{}:{}", portion.micro_tokens, portion.at_ms));
                    arguments.push_text(portions.collect::<Vec<_>>().join(","));
                }
                State::Slots(slots) => {
                    arguments.keys.push(bucket_name(&self.prefix, Content::Slots, &key));
                    arguments.push(count(slots.running().len()));
                    for (id, deadline) in slots.running() {
                        arguments.push(deadline);
                        arguments.push_text(id.to_string());
                    }
                }
            }
        }
        arguments
    }
}

/// Kind and pace as the scripts take them; the pace of slots is the hold's own.
const fn coded(pace: Pace) -> (i64, i64) {
    match pace {
        Pace::Drain { micro_per_ms } => (1, micro_per_ms),
        Pace::FixedWindow { ms } => (2, ms),
        Pace::SlidingWindow { ms } => (3, ms),
        Pace::Slots => (4, 0),
    }
}

pub(crate) fn content(bucket: &Bucket) -> Content {
    if bucket.rule.is_of_slots() { Content::Slots } else { Content::Amounts }
}

/// Place of a name among the keys, from 1; each name stands there once.
fn place(places: &mut HashMap<String, i64>, keys: &mut Vec<String>, name: String) -> i64 {
    *places.entry(name).or_insert_with_key(|name| {
        keys.push(name.clone());
        count(keys.len())
    })
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

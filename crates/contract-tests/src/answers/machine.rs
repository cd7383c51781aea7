//! Attempts under few names as a state machine: they begin, complete, give up, come twice, crash by never coming back, or come back
//! after another one has taken over. A model in plain values says what each is told.

use crate::{customers::start, stories::play_each};
use chrono::{DateTime, TimeDelta, Utc};
use ports::answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin};
use proptest::prelude::*;
use std::collections::BTreeMap;
use uuid::Uuid;

const CASES: u32 = 32;
const NAMES: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// A new attempt at a name, for one of two requests.
    Begin(usize, u8),
    /// The attempt with this number begins again: its answer was lost.
    BeginAgain(usize),
    Complete(usize),
    Forget(usize),
    Repeat(usize),
    Wait(i64),
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..NAMES, prop_oneof![4 => Just(1u8), 1 => Just(2u8)]).prop_map(|(name, body)| Act::Begin(name, body)),
        2 => (0usize..12).prop_map(Act::BeginAgain),
        3 => (0usize..12).prop_map(Act::Complete),
        1 => (0usize..12).prop_map(Act::Forget),
        1 => (0usize..12).prop_map(Act::Repeat),
        2 => prop_oneof![1i64..30, 50i64..70].prop_map(Act::Wait),
    ]
}

#[derive(Clone, Debug)]
struct Row {
    fingerprint: [u8; 32],
    origin: Origin,
    holder: Uuid,
    lease_until: DateTime<Utc>,
    answer: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Model(BTreeMap<Uuid, Row>);

impl Model {
    fn begin(&mut self, attempt: &Attempt) -> Begun {
        let lease_until = attempt.now + TimeDelta::seconds(ATTEMPT_LEASE_SECS);
        let Some(row) = self.0.get_mut(&attempt.name) else {
            let origin = Origin { seed: attempt.holder, at: attempt.now };
            let row = Row { fingerprint: attempt.fingerprint, origin, holder: attempt.holder, lease_until, answer: None };
            self.0.insert(attempt.name, row);
            return Begun::Run(origin);
        };
        match &row.answer {
            _ if row.fingerprint != attempt.fingerprint => Begun::Mismatch,
            Some(answer) => Begun::Done(row.origin, answer.clone()),
            None if row.holder == attempt.holder || row.lease_until <= attempt.now => {
                (row.holder, row.lease_until) = (attempt.holder, lease_until);
                Begun::Run(row.origin)
            }
            None => Begun::Running,
        }
    }

    /// The row that this attempt may still change.
    fn own(&mut self, attempt: &Attempt) -> Option<&mut Row> {
        self.0.get_mut(&attempt.name).filter(|row| row.holder == attempt.holder && row.answer.is_none())
    }
}

pub async fn attempts_that_crash_overlap_and_come_late_are_what_a_simple_model_says(one: &dyn Answers, other: &dyn Answers) {
    let stories = prop::collection::vec((any_act(), any::<bool>()), 1..60);
    play_each(CASES, &stories, async |acts| {
        let (names, mut now): ([Uuid; NAMES], _) = (std::array::from_fn(|_| Uuid::new_v4()), start());
        let (mut model, mut attempts) = (Model::default(), Vec::<Attempt>::new());
        for (number, (act, elsewhere)) in acts.into_iter().enumerate() {
            let store = if elsewhere { other } else { one };
            match act {
                Act::Begin(name, body) => {
                    let attempt = Attempt { name: names[name], fingerprint: [body; 32], holder: Uuid::new_v4(), now };
                    assert_eq!(store.begin(&attempt).await.unwrap(), model.begin(&attempt), "{model:#?}");
                    attempts.push(attempt);
                }
                Act::BeginAgain(which) => {
                    let Some(attempt) = attempts.get_mut(which) else { continue };
                    attempt.now = now;
                    assert_eq!(store.begin(attempt).await.unwrap(), model.begin(attempt), "{model:#?}");
                }
                Act::Complete(which) => {
                    let Some(attempt) = attempts.get(which) else { continue };
                    let answer = format!("answer {number}").into_bytes();
                    let own = model.own(attempt);
                    assert_eq!(store.complete(attempt, &answer).await.unwrap(), own.is_some());
                    if let Some(row) = own {
                        row.answer = Some(answer);
                    }
                }
                Act::Forget(which) => {
                    let Some(attempt) = attempts.get(which) else { continue };
                    store.give_up(attempt, GiveUp::Forget).await.unwrap();
                    if model.own(attempt).is_some() {
                        model.0.remove(&attempt.name);
                    }
                }
                Act::Repeat(which) => {
                    let Some(attempt) = attempts.get(which) else { continue };
                    store.give_up(attempt, GiveUp::Repeat).await.unwrap();
                    if let Some(row) = model.own(attempt) {
                        row.lease_until = attempt.now;
                    }
                }
                Act::Wait(seconds) => now += TimeDelta::seconds(seconds),
            }
        }
    });
}

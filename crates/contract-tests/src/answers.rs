//! What every adapter of `ports::answers` must do.

mod machine;

pub use machine::attempts_that_crash_overlap_and_come_late_are_what_a_simple_model_says;

use crate::customers::start;
use chrono::{DurationRound, TimeDelta, Utc};
use futures::future::join_all;
use ports::answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin};
use uuid::Uuid;

fn attempt() -> Attempt {
    Attempt { name: Uuid::new_v4(), fingerprint: [1; 32], holder: Uuid::new_v4(), now: start() }
}

/// Another try of the same request.
fn again(first: &Attempt, after: TimeDelta) -> Attempt {
    Attempt { holder: Uuid::new_v4(), now: first.now + after, ..*first }
}

fn origin(first: &Attempt) -> Origin {
    Origin { seed: first.holder, at: first.now }
}

pub async fn the_first_attempt_runs_and_its_answer_is_given_to_all_others(answers: &dyn Answers) {
    let first = attempt();
    assert_eq!(answers.begin(&first).await.unwrap(), Begun::Run(origin(&first)));
    assert_eq!(answers.begin(&again(&first, TimeDelta::seconds(1))).await.unwrap(), Begun::Running);
    let answer: Vec<u8> = (0..=255).collect();
    assert!(answers.complete(&first, &answer).await.unwrap());
    for days in [0, 1] {
        let later = again(&first, TimeDelta::days(days));
        assert_eq!(answers.begin(&later).await.unwrap(), Begun::Done(origin(&first), answer.clone()));
    }
    assert!(!answers.complete(&first, b"other").await.unwrap(), "an answer stays as it was given");
    assert_eq!(answers.begin(&first).await.unwrap(), Begun::Done(origin(&first), answer));
}

pub async fn beginning_again_is_no_second_attempt(answers: &dyn Answers) {
    let first = attempt();
    for _ in 0..3 {
        assert_eq!(answers.begin(&first).await.unwrap(), Begun::Run(origin(&first)));
    }
}

pub async fn another_request_under_the_name_is_a_mismatch(answers: &dyn Answers) {
    let first = attempt();
    answers.begin(&first).await.unwrap();
    let other = Attempt { fingerprint: [2; 32], ..again(&first, TimeDelta::days(1)) };
    assert_eq!(answers.begin(&other).await.unwrap(), Begun::Mismatch, "also when the lease is over");
    answers.complete(&first, b"answer").await.unwrap();
    assert_eq!(answers.begin(&other).await.unwrap(), Begun::Mismatch);
}

pub async fn a_freed_name_begins_anew_and_a_repeated_one_from_its_origin(answers: &dyn Answers) {
    let first = attempt();
    answers.begin(&first).await.unwrap();
    answers.give_up(&first, GiveUp::Forget).await.unwrap();
    let second = Attempt { fingerprint: [2; 32], ..again(&first, TimeDelta::seconds(1)) };
    assert_eq!(answers.begin(&second).await.unwrap(), Begun::Run(origin(&second)));
    answers.give_up(&second, GiveUp::Repeat).await.unwrap();
    let third = again(&second, TimeDelta::milliseconds(1));
    assert_eq!(answers.begin(&third).await.unwrap(), Begun::Run(origin(&second)));
    answers.give_up(&second, GiveUp::Forget).await.unwrap();
    assert_eq!(answers.begin(&again(&third, TimeDelta::zero())).await.unwrap(), Begun::Running, "whoever was taken over frees nothing");
}

pub async fn an_abandoned_attempt_is_taken_over_by_exactly_one(one: &dyn Answers, other: &dyn Answers) {
    let first = attempt();
    one.begin(&first).await.unwrap();
    let almost = again(&first, TimeDelta::seconds(ATTEMPT_LEASE_SECS) - TimeDelta::milliseconds(1));
    assert_eq!(other.begin(&almost).await.unwrap(), Begun::Running);
    let takers: Vec<Attempt> = (0..16).map(|_| again(&first, TimeDelta::seconds(ATTEMPT_LEASE_SECS))).collect();
    let begun =
        join_all(takers.iter().enumerate().map(|(index, taker)| if index % 2 == 0 { one.begin(taker) } else { other.begin(taker) })).await;
    let begun: Vec<Begun> = begun.into_iter().map(Result::unwrap).collect();
    let ran: Vec<usize> = (0..begun.len()).filter(|index| begun[*index] == Begun::Run(origin(&first))).collect();
    assert_eq!(ran.len(), 1, "{begun:?}");
    assert_eq!(begun.iter().filter(|begun| **begun == Begun::Running).count(), 15);
    assert!(!one.complete(&first, b"late").await.unwrap(), "the one that was taken for dead");
    assert!(other.complete(&takers[ran[0]], b"answer").await.unwrap());
    assert_eq!(one.begin(&first).await.unwrap(), Begun::Done(origin(&first), b"answer".to_vec()));
}

pub async fn of_many_at_once_one_runs(one: &dyn Answers, other: &dyn Answers) {
    for _ in 0..5 {
        let first = attempt();
        let attempts: Vec<Attempt> = (0..16).map(|_| again(&first, TimeDelta::zero())).collect();
        let begun = join_all(
            attempts.iter().enumerate().map(|(index, attempt)| if index % 2 == 0 { one.begin(attempt) } else { other.begin(attempt) }),
        )
        .await;
        let running = begun.iter().filter(|begun| matches!(begun, Ok(Begun::Running))).count();
        assert_eq!(running, 15, "{begun:?}");
    }
}

pub async fn answers_are_forgotten_by_whole_days_and_their_names_are_free_again(answers: &dyn Answers) {
    let now = Utc::now().duration_trunc(TimeDelta::milliseconds(1)).unwrap();
    let first = Attempt { now, ..attempt() };
    answers.begin(&first).await.unwrap();
    answers.complete(&first, b"answer").await.unwrap();
    let later = again(&first, TimeDelta::seconds(1));
    for _ in 0..2 {
        answers.forget(now).await.unwrap();
        assert_eq!(answers.begin(&later).await.unwrap(), Begun::Done(origin(&first), b"answer".to_vec()), "its day has not ended before");
    }
    for _ in 0..2 {
        answers.forget(now + TimeDelta::days(2)).await.unwrap();
    }
    assert_eq!(answers.begin(&later).await.unwrap(), Begun::Run(origin(&later)));
    assert!(answers.complete(&later, b"other").await.unwrap());
}

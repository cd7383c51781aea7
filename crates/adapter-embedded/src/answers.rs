//! Answers under idempotency keys on SQLite: each call is one short write.

use crate::{
    Embedded,
    columns::{corrupt, instant},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use ports::{
    Result,
    answers::{ATTEMPT_LEASE_SECS, Answers, Attempt, Begun, GiveUp, Origin},
};
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};
use uuid::Uuid;

struct AnswerRow {
    fingerprint: Vec<u8>,
    seed: Uuid,
    created_at: i64,
    body: Option<Vec<u8>>,
}

from_row!(AnswerRow { fingerprint, seed, created_at, body });

#[async_trait]
impl Answers for Embedded {
    async fn begin(&self, attempt: &Attempt) -> Result<Begun> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let begin = sqlx::query_as::<_, (Uuid, i64)>(include_str!("../sql/begin_answer.sql"))
            .bind(attempt.name)
            .bind(attempt.fingerprint.as_slice())
            .bind(attempt.holder)
            .bind((attempt.now + TimeDelta::seconds(ATTEMPT_LEASE_SECS)).timestamp_millis())
            .bind(attempt.now.timestamp_millis());
        if let Some((seed, at)) = begin.fetch_optional(&mut *transaction).await.map_err(failed)? {
            commit(transaction).await?;
            return Ok(Begun::Run(Origin { seed, at: instant(at)? }));
        }
        let find = sqlx::query_as::<_, AnswerRow>(include_str!("../sql/find_answer.sql")).bind(attempt.name);
        find.fetch_one(&mut *transaction).await.map_err(failed)?.begun(attempt)
    }

    async fn complete(&self, attempt: &Attempt, answer: &[u8]) -> Result<bool> {
        let complete = sqlx::query(include_str!("../sql/complete_answer.sql")).bind(attempt.name).bind(attempt.holder).bind(answer);
        Ok(self.change_answers(complete).await? == 1)
    }

    async fn give_up(&self, attempt: &Attempt, how: GiveUp) -> Result<()> {
        let statement = match how {
            GiveUp::Forget => sqlx::query(include_str!("../sql/free_answer.sql")).bind(attempt.name).bind(attempt.holder),
            GiveUp::Repeat => sqlx::query(include_str!("../sql/end_answer_lease.sql"))
                .bind(attempt.name)
                .bind(attempt.holder)
                .bind(attempt.now.timestamp_millis()),
        };
        self.change_answers(statement).await.map(drop)
    }

    async fn forget(&self, before: DateTime<Utc>) -> Result<()> {
        let day = before.date_naive().and_time(NaiveTime::MIN).and_utc();
        self.change_answers(sqlx::query(include_str!("../sql/forget_answers.sql")).bind(day.timestamp_millis())).await.map(drop)
    }
}

impl Embedded {
    async fn change_answers(&self, statement: Query<'_, Sqlite, SqliteArguments>) -> Result<u64> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let changed = statement.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        commit(transaction).await?;
        Ok(changed)
    }
}

impl AnswerRow {
    fn begun(self, attempt: &Attempt) -> Result<Begun> {
        let fingerprint: [u8; 32] = self.fingerprint.try_into().map_err(|_| corrupt("answer.fingerprint is not 32 bytes"))?;
        if fingerprint != attempt.fingerprint {
            return Ok(Begun::Mismatch);
        }
        let at = instant(self.created_at)?;
        Ok(self.body.map_or(Begun::Running, |answer| Begun::Done(Origin { seed: self.seed, at }, answer)))
    }
}

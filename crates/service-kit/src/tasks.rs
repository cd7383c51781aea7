//! Background tasks: started by name, missed when they end early, cancelled and awaited at shutdown.

use futures::{FutureExt, future::BoxFuture};
use std::{future::Future, panic::AssertUnwindSafe, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Cheap to clone; all clones share one shutdown.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when shutdown begins. A task selects on it and then finishes what it must not lose.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// A task that ends or panics before shutdown is a defect: logged, and counted in `background_tasks_ended_total`.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_boxed(name, task.boxed());
    }

    /// Compiled once, not once per task.
    fn spawn_boxed(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let token = self.token.clone();
        self.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(task).catch_unwind().await;
            let how = if outcome.is_err() { "panicked" } else { "returned" };
            if outcome.is_err() || !token.is_cancelled() {
                tracing::error!(task = name, how, "a background task ended before shutdown");
                metrics::counter!("background_tasks_ended_total", "task" => name, "how" => how).increment(1);
            }
        });
    }

    /// Cancels every task and waits. `false` when some were still running at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[tokio::test]
    async fn shutdown_waits_for_what_a_task_does_after_the_cancellation() {
        let tasks = Tasks::new();
        let flushed = Arc::new(AtomicBool::new(false));
        let (token, seen) = (tasks.token(), Arc::clone(&flushed));
        tasks.spawn("flusher", async move {
            token.cancelled().await;
            tokio::task::yield_now().await;
            seen.store(true, Ordering::SeqCst);
        });
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
        assert!(flushed.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn shutdown_says_when_a_task_did_not_end() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        assert!(!tasks.shutdown(Duration::from_millis(10)).await);
    }

    #[tokio::test]
    async fn a_panic_stays_inside_its_task() {
        let tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("a defect") });
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
    }
}

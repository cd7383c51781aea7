//! Long work that nobody waits for, beside those who serve.

use futures::FutureExt;
use std::{any::Any, future::Future, panic::AssertUnwindSafe};
use thiserror::Error;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Of 0, what everybody has, to 19: with this one a thread gets about a ninth of what another one gets that also wants a processor.
const NICENESS: i32 = 10;

/// The work has panicked, or the process is about to end.
#[derive(Debug, Error)]
#[error("background work ended early: {0}")]
pub struct EndedEarly(String);

/// Does the work on a thread of its own, which leaves the processor to all others, and so do the threads that it starts. Dropped, it ends
/// the work where this waits next. In a runtime of one thread the work is a task like every other.
///
/// # Errors
/// When the work panics.
pub async fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, EndedEarly> {
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        let mut task = JoinSet::new();
        task.spawn(work);
        return match task.join_next().await {
            Some(Ok(outcome)) => Ok(outcome),
            Some(Err(panicked)) => Err(EndedEarly(panicked.to_string())),
            None => Err(EndedEarly("no task".into())),
        };
    }
    let (ended, outcome) = oneshot::channel();
    let dropped = CancellationToken::new();
    let guard = dropped.clone().drop_guard();
    let thread = move || {
        // Where the system refuses it, the work is only not as polite.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "background work has the priority of everything else");
        }
        let work = AssertUnwindSafe(work).catch_unwind();
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = dropped.cancelled() => {}
                outcome = work => drop(ended.send(outcome)),
            }
        });
    };
    std::thread::Builder::new().name("background".into()).spawn(thread).map_err(|error| EndedEarly(error.to_string()))?;
    let outcome = outcome.await;
    drop(guard);
    match outcome {
        Ok(outcome) => outcome.map_err(|panic| EndedEarly(text_of(&*panic))),
        Err(_gone) => Err(EndedEarly("its thread is gone".into())),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::{sleep, timeout};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_thread_is_nice_and_its_work_may_wait_for_the_runtime() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let outcome = run(async move {
            sleep(Duration::from_millis(5)).await;
            let child = std::thread::spawn(niceness).join().unwrap();
            (niceness(), child, tokio::spawn(async { 7 }).await.unwrap())
        });
        assert_eq!(outcome.await.unwrap(), (NICENESS, NICENESS, 7));
        assert_eq!(niceness(), before);
    }

    async fn a_panic_is_told_and_dropping_ends_the_work() {
        let panicked = run(async { panic!("of {}", 7) }).await.unwrap_err();
        assert!(panicked.to_string().contains("of 7"), "{panicked}");
        let (alive, gone) = oneshot::channel::<()>();
        let work = run(async move {
            sleep(Duration::from_secs(3_600)).await;
            drop(alive);
        });
        assert!(timeout(Duration::from_millis(20), work).await.is_err());
        timeout(Duration::from_secs(10), gone).await.unwrap().unwrap_err();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_is_told_and_dropping_ends_the_work_of_a_thread() {
        a_panic_is_told_and_dropping_ends_the_work().await;
    }

    #[tokio::test]
    async fn a_panic_is_told_and_dropping_ends_the_work_of_a_task() {
        a_panic_is_told_and_dropping_ends_the_work().await;
    }
}

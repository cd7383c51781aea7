//! What belongs to the request that a task is serving: its id, path and trace. Set once per request by [`scope`], read anywhere below.

use domain::trace_parent::TraceParent;
use futures::{FutureExt, future::BoxFuture};
use std::{future::Future, sync::Arc};
use tracing::Instrument;

#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Equal to `X-Correlation-Id`, which every answer carries.
    pub request_id: Arc<str>,
    pub path: Arc<str>,
    pub trace_parent: TraceParent,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// The context of the request this task serves; `None` outside of one.
pub fn current() -> Option<RequestContext> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Runs the future inside the context.
pub async fn scope<F: Future>(context: RequestContext, future: F) -> F::Output {
    CURRENT.scope(context, future).await
}

/// The future as a task of its own is to run it: inside the context and the span of whoever asks for it here.
pub fn carried<T>(story: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let story = story.in_current_span();
    match current() {
        Some(context) => scope(context, story).boxed(),
        None => story.boxed(),
    }
}

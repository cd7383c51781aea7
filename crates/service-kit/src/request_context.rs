//! What belongs to the request that a task is serving: its id, path and trace. Set once per request by [`scope`], read anywhere below.

use domain::trace_parent::TraceParent;
use std::{future::Future, sync::Arc};

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

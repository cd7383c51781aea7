//! Which route answered, told to whoever is around the router: its metrics name it.

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::Response,
};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tower::{Layer, Service};

/// Each answer of the router carries its route, the innermost one that matched.
pub fn report_route(router: Router) -> Router {
    router.layer(ReportRoute)
}

#[derive(Clone, Copy)]
struct ReportRoute;

impl<S> Layer<S> for ReportRoute {
    type Service = Reporting<S>;

    fn layer(&self, inner: S) -> Reporting<S> {
        Reporting(inner)
    }
}

/// Not a function as a layer: that would cost each request two more allocations and a copy of all that is below.
#[derive(Clone)]
struct Reporting<S>(S);

impl<S: Service<Request, Response = Response>> Service<Request> for Reporting<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Reported<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Reported { answer: self.0.call(request), route }
    }
}

pin_project! {
    struct Reported<F> {
        #[pin]
        answer: F,
        route: Option<MatchedPath>,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Reported<F> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(cx));
        if let (Ok(response), Some(route)) = (&mut answer, this.route.take())
            && response.extensions().get::<MatchedPath>().is_none()
        {
            response.extensions_mut().insert(route);
        }
        Poll::Ready(answer)
    }
}

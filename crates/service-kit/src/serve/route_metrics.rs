//! `http_server_requests_seconds` by route, method and status, with the handles kept: looking one up costs no allocation.

use http::{Method, StatusCode};
use metrics::Histogram;
use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
    time::Duration,
};

/// By method and status.
type Series = HashMap<(&'static str, u16), Histogram>;

#[derive(Debug)]
pub(super) struct RouteMetrics {
    service: &'static str,
    routes: RwLock<HashMap<String, Series>>,
}

impl RouteMetrics {
    pub(super) fn new(service: &'static str) -> Self {
        Self { service, routes: RwLock::default() }
    }

    /// `route` is a template of ours, never a client's path: the number of series stays bounded.
    pub(super) fn record(&self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let key = (label(method), status.as_u16());
        {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(histogram) = routes.get(route).and_then(|series| series.get(&key)) {
                return histogram.record(took);
            }
        }
        let histogram = metrics::histogram!(
            "http_server_requests_seconds",
            "service" => self.service, "route" => route.to_owned(), "method" => key.0, "status" => status.as_str().to_owned()
        );
        histogram.record(took);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(route.to_owned()).or_default().insert(key, histogram);
    }
}

const fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

//! Passes a request on, in process or over HTTP. The upstream request is built anew: of the client's headers only the listed ones survive.

mod http;

use crate::{Gateway, routes::Service};
use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use domain::access::Caller;
use service_kit::{identity::Identity, problem::Problem, serve::report_route};
use std::{convert::Infallible, sync::Arc};
use thiserror::Error;
use tower::ServiceExt;

/// What services get to see of a client's headers. Identity, correlation and trace are ours, not the client's.
pub(crate) static FORWARDED: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::ACCEPT,
    HeaderName::from_static("idempotency-key"),
    header::IF_NONE_MATCH,
    // Where a stream is taken up again.
    HeaderName::from_static("last-event-id"),
    header::USER_AGENT,
];
/// A CloudEvent in binary mode has its attributes in the headers.
pub(crate) static FORWARDED_WITH_EVENT: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::ACCEPT,
    HeaderName::from_static("idempotency-key"),
    header::USER_AGENT,
    HeaderName::from_static("ce-specversion"),
    HeaderName::from_static("ce-id"),
    HeaderName::from_static("ce-source"),
    HeaderName::from_static("ce-type"),
    HeaderName::from_static("ce-time"),
    HeaderName::from_static("ce-subject"),
];
pub(crate) static FORWARDED_WITH_KEY: [HeaderName; 2] = [header::ACCEPT, HeaderName::from_static("x-api-key")];

/// Where one service is.
#[derive(Debug)]
pub enum Upstream {
    /// In this process.
    InProcess(Router),
    /// Instances in other processes, asked in turn.
    Http(http::Instances),
}

#[derive(Debug)]
pub struct Upstreams {
    pub auth: Upstream,
    pub token: Upstream,
    pub analytics: Upstream,
    pub config: Upstream,
}

#[derive(Debug, Error)]
pub enum UpstreamError {
    #[error("a service needs at least one URL")]
    NoUrl,
    #[error("{url} is not a URL of the form http://host:port")]
    Url { url: String },
}

impl Upstream {
    pub fn in_process(router: Router) -> Self {
        Self::InProcess(report_route(router))
    }

    /// `urls` of the form `http://host:port`; `client` from [`service_kit::client::builder_for_own_services`].
    pub fn http(urls: &[String], client: reqwest::Client) -> Result<Self, UpstreamError> {
        http::Instances::new(urls, client).map(Self::Http)
    }

    /// Sends a request of our own making as `caller`; the error is the 503 (or the body's 408, 413) to answer with.
    pub(crate) async fn call(
        &self,
        service: Service,
        identity: &Identity,
        caller: Option<Arc<Caller>>,
        mut request: Request,
    ) -> Result<Response, Problem> {
        match self {
            Self::InProcess(router) => {
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Ok(router.clone().oneshot(request).await.unwrap_or_else(|never: Infallible| match never {}))
            }
            Self::Http(instances) => instances.send(service, identity, caller.as_deref(), request).await,
        }
    }
}

impl Upstreams {
    pub(crate) const fn of(&self, service: Service) -> &Upstream {
        match service {
            Service::Auth => &self.auth,
            Service::Token => &self.token,
            Service::Analytics => &self.analytics,
            Service::Config => &self.config,
        }
    }
}

/// The service's answer, whatever it is, unchanged.
pub(crate) async fn forward(
    gateway: &Gateway,
    service: Service,
    caller: Option<Arc<Caller>>,
    request: Request,
    forwarded: &[HeaderName],
) -> Response {
    let request = match rebuild(request, forwarded) {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    let answer = gateway.upstreams.of(service).call(service, &gateway.identity, caller, request).await;
    answer.unwrap_or_else(IntoResponse::into_response)
}

fn rebuild(request: Request, forwarded: &[HeaderName]) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    if leaves_its_path(&parts.uri) {
        return Err(Problem::field("path", "the path must not contain . or .. segments, backslashes or empty segments"));
    }
    let mut rebuilt = Request::new(body);
    *rebuilt.method_mut() = parts.method;
    *rebuilt.uri_mut() = parts.uri;
    *rebuilt.headers_mut() = allowed_headers(&parts.headers, forwarded)?;
    Ok(rebuilt)
}

fn allowed_headers(client: &HeaderMap, forwarded: &[HeaderName]) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::with_capacity(forwarded.len() + 3);
    for name in forwarded {
        let mut values = client.get_all(name).iter();
        let Some(value) = values.next() else { continue };
        // Two readers could each take another one for the truth.
        if values.next().is_some() {
            return Err(Problem::field(name.as_str(), format!("the header {name} is given twice")));
        }
        headers.insert(name.clone(), HeaderValue::clone(value));
    }
    Ok(headers)
}

/// Whether a URL parser on the way could read the path as another one than the router did.
fn leaves_its_path(uri: &Uri) -> bool {
    let path = uri.path();
    if path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_')) && !path.contains("//") {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%5c", "\\");
    plain.contains('\\') || plain.split('/').skip(1).any(|segment| matches!(segment, "." | "..")) || plain.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_be_read_as_another_one_is_seen() {
        for path in ["/a/../b", "/a/..", "/a/./b", "/a/%2e%2e/b", "/a/.%2E/b", "/a/%2E", "/a%5c..%5cb", "//a", "/a//b", "/a/%5C"] {
            assert!(leaves_its_path(&path.parse().unwrap()), "{path}");
        }
        for path in ["/", "/a/b", "/a/v1.2", "/a/..b", "/a/b..", "/a/weir.usage-value", "/a/%2fb", "/a/gpt-4o%3Amini", "/a/b/"] {
            assert!(!leaves_its_path(&path.parse().unwrap()), "{path}");
        }
    }

    #[test]
    fn of_two_values_of_one_header_none_is_believed() {
        let mut headers = HeaderMap::new();
        headers.append("idempotency-key", HeaderValue::from_static("a"));
        assert_eq!(allowed_headers(&headers, &FORWARDED).unwrap().len(), 1);
        headers.append("idempotency-key", HeaderValue::from_static("b"));
        assert_eq!(allowed_headers(&headers, &FORWARDED).unwrap_err().status(), 400);
    }

    #[tokio::test]
    async fn an_unusable_url_is_refused_at_the_start() {
        let client = || service_kit::client::builder().build().unwrap();
        let refused = |url: &str| Upstream::http(&[url.to_owned()], client()).is_err();
        for url in ["", "localhost:8081", "ftp://host", "http://host/path", "http://host?x=1", "http://u:p@host"] {
            assert!(refused(url), "{url}");
        }
        assert!(!refused("http://127.0.0.1:8081/"));
        assert!(matches!(Upstream::http(&[], client()), Err(UpstreamError::NoUrl)));
    }
}

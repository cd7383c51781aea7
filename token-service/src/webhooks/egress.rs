//! Where deliveries may go: nowhere inside the operator's own network, whatever a name resolves to.
//!
//! The addresses are checked where they are used: the connection goes to one of the addresses that were looked at, so a name that
//! resolves to another one a moment later gains nothing. There are no redirects and no proxies.

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use service_kit::problem::Problem;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

const LONGEST_URL: usize = 2_000;
/// Of a whole attempt.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether private networks, and `http`, are allowed: an operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Networks {
    Public,
    Any,
}

/// The client of all deliveries.
pub fn client(networks: Networks) -> reqwest::Result<reqwest::Client> {
    service_kit::client::builder()
        .timeout(TIMEOUT)
        // Another payer's address may be another server by now.
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(Guarded(networks)))
        .build()
}

/// An address that may be given, and may be called.
pub fn check(text: &str, networks: Networks) -> Result<Url, Problem> {
    let refused = |message: &str| Err(Problem::field("url", format!("url {message}")));
    if text.len() > LONGEST_URL {
        return refused("is longer than 2000 bytes");
    }
    let Ok(url) = Url::parse(text) else { return refused("is not a URL such as https://example.com/hook") };
    match (url.scheme(), networks) {
        ("https", _) | ("http", Networks::Any) => {}
        _ => return refused("must begin with https://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused("must not hold credentials");
    }
    let Some(host) = url.host_str() else { return refused("names no host") };
    // A name is looked up with each delivery; a literal address never is. Every spelling of one is written the same way by now.
    let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    // Those that can resolve to nothing else (RFC 6761) are refused before anybody waits for a delivery.
    let name = host.trim_end_matches('.');
    let loopback = name == "localhost" || name.ends_with(".localhost");
    if networks == Networks::Public && (loopback || literal.is_some_and(|address| !is_public(address))) {
        return refused("names a private, loopback, link-local or reserved address");
    }
    Ok(url)
}

struct Guarded(Networks);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let networks = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One private address among public ones is one too many.
            if networks == Networks::Public && !found.iter().all(|address| is_public(address.ip())) {
                return Err("the name resolves to a private, loopback, link-local or reserved address".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Not one of the IANA special-purpose ranges.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// Global unicast, without the ranges that carry an IPv4 address or are for documentation.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    a & 0xe000 == 0x2000 && a != 0x2002 && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8)) && !(a == 0x3fff && b < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_an_inner_address_is_accepted() {
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://0/",
            "https://10.0.0.1:8443/x",
            "https://100.64.0.1/",
            "https://169.254.169.254/latest/meta-data",
            "https://0xA9FEA9FE/",
            "https://172.31.255.255/",
            "https://192.168.1.1/",
            "https://198.18.0.1/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[fe80::1]/",
            "https://[fc00::1]/",
            "https://[2002:7f00:1::]/",
            "https://[2001:db8::1]/",
            "https://[2001:0:7f00:1::]/",
            "https://localhost/",
            "https://LOCALHOST.:8443/",
            "https://weir.localhost/",
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://user:secret@example.com/",
            "https://",
            "nonsense",
            "//example.com/",
        ] {
            assert!(check(url, Networks::Public).is_err(), "{url}");
        }
        for url in
            ["https://example.com/hook", "https://localhost.example.com/", "https://93.184.216.34:8443/", "https://[2606:2800:220:1::1]/"]
        {
            assert!(check(url, Networks::Public).is_ok(), "{url}");
        }
        assert!(check("http://127.0.0.1:1/", Networks::Any).is_ok());
    }

    #[tokio::test]
    async fn a_name_of_an_inner_address_is_refused_where_it_is_resolved() {
        let refused = client(Networks::Public).unwrap().get("https://localhost:9/").send().await.unwrap_err();
        let mut causes = std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source());
        assert!(causes.any(|cause| cause.to_string().contains("resolves to a private")), "{refused:?}");
    }
}

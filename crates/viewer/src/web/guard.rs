//! Which requests a page on a port of this host answers, and what all its answers carry.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::debug;

/// What every answer carries besides its content security policy: in no other page, not as a picture either, and asked for
/// again each time.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Every request passes here first; `policy` is the page's content security policy.
pub async fn check(State(policy): State<&'static str>, request: Request, next: Next) -> Response {
    let mut response = match admit(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => {
            debug!("Refused a request: {refused}");
            (StatusCode::FORBIDDEN, format!("{refused}\n")).into_response()
        }
    };
    for (name, value) in HEADERS.into_iter().chain([(header::CONTENT_SECURITY_POLICY, policy)]) {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    /// Which site it is for is not said, or said twice.
    #[error("The request names no host")]
    NoHost,
    /// A name that may have been bound to this host behind the browser's back.
    #[error("The page is served for localhost and for addresses only: open http://localhost with the port")]
    Rebound,
    /// Another page wants to look.
    #[error("Another site may not use this page")]
    Foreign,
}

/// Checks the site that a request names and the page that it comes from.
///
/// A browser sends `Origin` with every WebSocket; what sends none is no browser.
fn admit(headers: &HeaderMap) -> Result<(), Refused> {
    let host = single(headers, header::HOST).ok_or(Refused::NoHost)?.to_ascii_lowercase();
    if !is_local(&host) {
        return Err(Refused::Rebound);
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = single(headers, header::ORIGIN).ok_or(Refused::Foreign)?.to_ascii_lowercase();
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if site == Some(&host) { Ok(()) } else { Err(Refused::Foreign) }
}

fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => HeaderValue::to_str(value).ok(),
        _ => None,
    }
}

/// True for localhost and addresses: DNS has no say in them.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split_once(']').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(host: &str, origin: Option<&str>) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        admit(&headers)
    }

    #[test]
    fn the_page_itself_is_admitted() {
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.0.0.1", "vm.localhost:80", "LOCALHOST:1"] {
            assert_eq!(admitted(host, None), Ok(()), "{host}");
            assert_eq!(admitted(host, Some(&format!("http://{host}"))), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_rebound_name_is_refused() {
        for host in ["evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "[x]:1"] {
            assert_eq!(admitted(host, None), Err(Refused::Rebound), "{host}");
        }
        assert_eq!(admit(&HeaderMap::new()), Err(Refused::NoHost));
        let mut twice = HeaderMap::new();
        twice.append(header::HOST, HeaderValue::from_static("localhost"));
        twice.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(admit(&twice), Err(Refused::NoHost));
    }

    #[test]
    fn another_page_is_refused() {
        for origin in ["http://evil.example", "null", "http://localhost:9999", "http://localhost:80801", "file://", ""]
        {
            assert_eq!(admitted("localhost:8080", Some(origin)), Err(Refused::Foreign), "{origin}");
        }
    }
}

//! As much of HTTP/1.1 as a control socket needs: one bounded request, one answer, then the connection ends.

use httparse::{EMPTY_HEADER, Status};

/// Longest request line and headers: ours have 200 bytes. Stops a client that never ends its headers.
const MAX_HEAD: usize = 4096;
/// Longest body: ours have 60 bytes.
const MAX_BODY: usize = 4096;
/// Most headers.
const MAX_HEADERS: usize = 32;
/// The most bytes that are read of one request.
pub const MAX_REQUEST: usize = MAX_HEAD + MAX_BODY;

/// A complete request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// GET, POST, ...
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// What follows the question mark.
    pub query: String,
    /// As many bytes as Content-Length says.
    pub body: Vec<u8>,
}

impl Request {
    /// The number that the query gives `name`; `None` when it names it not. Others than numbers are refused.
    pub fn number(&self, name: &str) -> Result<Option<u32>, Response> {
        let value = self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let refuse = |_| Response::error(400, &format!("{name} is not a number"));
        value.map(str::parse).transpose().map_err(refuse)
    }
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, 404, ...
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A good answer in JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Response { status: 200, content_type: "application/json", body: format!("{value}\n").into_bytes() }
    }

    /// A refusal: `{"error": why}`.
    pub fn error(status: u16, why: &str) -> Self {
        Response { status, ..Response::json(&serde_json::json!({ "error": why })) }
    }

    /// The bytes that go out.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}

/// Reads the request that `bytes` begins with. `Ok(None)`: more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, Response> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(&bytes[..bytes.len().min(MAX_HEAD)]) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Response::error(431, "Headers are too large"));
        }
        Err(error) => return Err(Response::error(400, &format!("This is not HTTP: {error}"))),
    };
    let length = body_length(request.headers)?;
    let Some(body) = bytes[head..].get(..length) else { return Ok(None) };
    let target = request.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: body.to_vec(),
    }))
}

fn body_length(headers: &[httparse::Header<'_>]) -> Result<usize, Response> {
    let mut length = None;
    for header in headers.iter() {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Response::error(400, "Send a body with Content-Length"));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let value = std::str::from_utf8(header.value).ok().and_then(|text| text.parse::<usize>().ok());
            if value.is_none() || length.is_some_and(|earlier| Some(earlier) != value) {
                return Err(Response::error(400, "Content-Length is not one number"));
            }
            length = value;
        }
    }
    match length.unwrap_or(0) {
        length if length <= MAX_BODY => Ok(length),
        _ => Err(Response::error(413, "The body is too large")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> u16 {
        parse(text.as_bytes()).expect_err(text).status
    }

    #[test]
    fn a_request_is_whole_only_with_its_last_byte() {
        let text = "POST /v1/resize?head=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]).unwrap(), None, "{end}");
        }
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/resize"));
        assert_eq!(request.body, b"body");
        assert_eq!(request.number("head").unwrap(), Some(1));
        assert_eq!(request.number("hea").unwrap(), None);
    }

    #[test]
    fn what_is_endless_or_no_http_is_refused() {
        assert_eq!(refused(&format!("GET /{}", "a".repeat(MAX_HEAD))), 431);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(40))), 431);
        assert_eq!(refused("\x16\x03\x01 hello"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n"), 413);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 400);
        assert_eq!(refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn numbers_of_a_query_are_checked() {
        let request = parse(b"GET /?head=-1 HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert_eq!(request.number("head").unwrap_err().status, 400);
    }

    #[test]
    fn an_answer_says_its_length_and_ends() {
        let text = String::from_utf8(Response::error(404, "No").encode()).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(text.contains("Content-Length: 15\r\n") && text.ends_with("\r\n\r\n{\"error\":\"No\"}\n"), "{text}");
    }
}

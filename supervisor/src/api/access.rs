//! Who may ask. Over the Unix socket: whoever can open it, which is this user. Over TCP: who shows the token, if there is one; else
//! whoever is on this machine and is not led here by a foreign page or a proxy.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// What a proxy adds to a request, and an operator's own tool or browser does not.
const FROM_PROXIES: [&str; 2] = ["forwarded", "x-forwarded-for"];
/// The names of this machine for itself.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// Shortest text of a token file that is a secret.
pub const TOKEN_CHARS_MIN: usize = 16;

/// Who may ask here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// A Unix socket with mode 0600.
    Owner,
    /// TCP, and no token.
    ThisMachine,
    /// TCP, for those who know this.
    Token(String),
}

/// Refuses whom [`Access`] does not let in.
pub async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match refusal(&access, request.method(), request.uri().path(), request.headers()) {
        Some((status, text)) => {
            let mut answer = (status, format!("{text}\n")).into_response();
            if status == StatusCode::UNAUTHORIZED {
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
            }
            answer
        }
        None => next.run(request).await,
    }
}

fn refusal(access: &Access, method: &Method, path: &str, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match access {
        Access::Owner => return None,
        Access::ThisMachine => {
            if FROM_PROXIES.iter().any(|name| headers.contains_key(*name)) {
                return Some((StatusCode::FORBIDDEN, "without a token this is not served through a proxy"));
            }
            // A foreign page may point a name of its own at this machine.
            let host = text("host").unwrap_or_default();
            let name = if host.starts_with('[') { host.split_inclusive(']').next() } else { host.split(':').next() };
            if !name.is_some_and(|name| OWN_NAMES.contains(&name)) {
                return Some((StatusCode::FORBIDDEN, "without a token this is served as localhost only"));
            }
        }
        Access::Token(token) => {
            // The page itself holds no secrets; it asks for the token.
            let is_page = path == "/" || path.starts_with("/web/") || path == "/healthz";
            let shown = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
            if !is_page && !shown.is_some_and(|shown| same(shown, token)) {
                return Some((StatusCode::UNAUTHORIZED, "this needs the token: Authorization: Bearer …"));
            }
        }
    }
    if method != Method::GET && method != Method::HEAD {
        // A browser says where a request comes from; other tools do not.
        let same_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin");
        let host = text("host").unwrap_or_default();
        let origin = text("origin").is_none_or(|origin| {
            origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
        });
        if !same_site || !origin || headers.contains_key("origin") && text("origin").is_none() {
            return Some((StatusCode::FORBIDDEN, "a page of another site may not ask this"));
        }
    }
    None
}

/// Compares in a time that says nothing about where they differ.
fn same(shown: &str, token: &str) -> bool {
    shown.len() == token.len() && shown.bytes().zip(token.bytes()).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(access: &Access, method: Method, path: &str, headers: &[(&'static str, &'static str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        refusal(access, &method, path, &map).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn without_a_token_only_this_machine_asks() {
        let here =
            |headers: &[(&'static str, &'static str)]| status(&Access::ThisMachine, Method::GET, "/api/board", headers);
        for host in ["localhost", "localhost:8075", "127.0.0.1:8075", "[::1]:8075"] {
            assert_eq!(here(&[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:80", "[::2]:80", ""] {
            assert_eq!(here(&[("host", host)]), 403, "{host}");
        }
        assert_eq!(here(&[]), 403);
        assert_eq!(here(&[("host", "localhost"), ("x-forwarded-for", "10.0.0.1")]), 403);
    }

    #[test]
    fn foreign_pages_change_nothing() {
        for access in [Access::ThisMachine, Access::Token("x".repeat(16))] {
            let post = |headers: &[(&'static str, &'static str)]| {
                let mut all = vec![("host", "localhost:80"), ("authorization", "Bearer xxxxxxxxxxxxxxxx")];
                all.extend(headers);
                status(&access, Method::POST, "/api/reload", &all)
            };
            assert_eq!(post(&[]), 200, "a tool");
            assert_eq!(post(&[("origin", "http://localhost:80"), ("sec-fetch-site", "same-origin")]), 200, "our page");
            assert_eq!(post(&[("origin", "http://evil.example")]), 403);
            assert_eq!(post(&[("origin", "http://localhost:81")]), 403);
            assert_eq!(post(&[("origin", "null")]), 403);
            assert_eq!(post(&[("sec-fetch-site", "cross-site")]), 403);
            assert_eq!(post(&[("sec-fetch-site", "same-site")]), 403);
        }
    }

    #[test]
    fn with_a_token_everybody_shows_it_but_for_the_page() {
        let access = Access::Token("0123456789abcdef".into());
        let get = |path: &str, shown: &'static str| status(&access, Method::GET, path, &[("authorization", shown)]);
        assert_eq!(get("/api/board", "Bearer 0123456789abcdef"), 200);
        for shown in ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "0123456789abcdef", "Bearer ", ""] {
            for path in ["/api/board", "/metrics", "/openapi.json", "/api/tree/x", "/webx"] {
                assert_eq!(get(path, shown), 401, "{path} {shown}");
            }
            assert_eq!(get("/", shown), 200);
            assert_eq!(get("/web/main.js", shown), 200);
        }
    }
}

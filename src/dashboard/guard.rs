//! Who may ask what: every request passes here before anything else looks at it.
//!
//! - **Host**: only names that are this server's. A page of another site that had its own name point to this address
//!   (DNS rebinding) sends that name, and is refused.
//! - **Token**: made at the start, or given. It is in the address that is printed, and becomes a cookie that no script can read
//!   and no other site's page sends. Programs send it as `Authorization: Bearer TOKEN`.
//! - **Origin**: what changes something comes from a page of this server, or from a program with the token.
//! - **Answers** carry a policy under which a page can load nothing but what this server has.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERRER_POLICY,
    SET_COOKIE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// What a page may load: this server's own, and no script, style or picture that is written into a page.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
/// Asks for no token: says nothing but that the server is there.
const OPEN_PATHS: [&str; 2] = ["/healthz", "/readyz"];
const SIGNED_IN: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>CaptionA.cc</title>\
     <meta http-equiv=\"refresh\" content=\"0;url=/\"></head><body><a href=\"/\">Dashboard</a></body></html>";
const REFUSED: &str = "ERR_CAPTIONACC_DASHBOARD_REFUSED";
const TOKEN_PARAMETER: &str = "token";

/// A secret text that is compared in constant time and never printed.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    /// A new one: 244 random bits.
    pub(super) fn generate() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// One that somebody chose.
    pub(super) const fn given(text: String) -> Self {
        Self(text)
    }

    /// Another one that follows from this one, and does not tell it.
    fn derived(&self) -> Self {
        Self(
            Uuid::new_v5(&Uuid::NAMESPACE_OID, self.0.as_bytes())
                .simple()
                .to_string(),
        )
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

/// The rules of one server.
pub(super) struct Guard {
    address: SocketAddr,
    hosts: Vec<String>,
    token: Token,
    /// What the cookie holds: good as long as the token is.
    session: Token,
    read_only: bool,
}

/// What is to become of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may be answered.
    Pass,
    /// This is the answer.
    Answer(Response<Body>),
}

impl Guard {
    /// Rules for a server at `address`, which is also known under the names `hosts`.
    pub(super) fn new(address: SocketAddr, hosts: Vec<String>, token: Token, read_only: bool) -> Self {
        Self {
            address,
            hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            session: token.derived(),
            token,
            read_only,
        }
    }

    /// Judges a request by its head.
    pub(super) fn judge<B>(&self, request: &Request<B>) -> Verdict {
        let headers = request.headers();
        let Some(host) = self.known_host(request) else {
            return refused(
                headers,
                StatusCode::FORBIDDEN,
                REFUSED,
                "This name is not one of the dashboard's. Open the address that it printed, or start it with --allow-host NAME.",
            );
        };
        if OPEN_PATHS.contains(&request.uri().path()) {
            return Verdict::Pass;
        }
        if let Some(given) = query_token(request.uri()) {
            return self.sign_in(request, &given);
        }
        let is_program = bearer(headers).is_some_and(|given| self.token.is(given));
        if !is_program && !self.has_session(headers) {
            return refused(
                headers,
                StatusCode::UNAUTHORIZED,
                REFUSED,
                "Open the address with the token that the dashboard printed when it started: it was started anew, or this browser has not been here.",
            );
        }
        if request.method() == Method::GET || request.method() == Method::HEAD {
            return Verdict::Pass;
        }
        if request.method() != Method::POST {
            return refused(
                headers,
                StatusCode::METHOD_NOT_ALLOWED,
                REFUSED,
                "GET and POST are all there is.",
            );
        }
        if self.read_only {
            return refused(
                headers,
                StatusCode::FORBIDDEN,
                "ERR_CAPTIONACC_DASHBOARD_READ_ONLY",
                "this dashboard was started with --read-only: nothing can be changed here",
            );
        }
        if !is_program && !is_of_own_page(headers, &host) {
            return refused(
                headers,
                StatusCode::FORBIDDEN,
                REFUSED,
                "This request does not come from a page of the dashboard.",
            );
        }
        if headers.get(CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
            return refused(
                headers,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                REFUSED,
                "The body is to be application/json.",
            );
        }
        Verdict::Pass
    }

    /// What every answer carries.
    pub(super) fn seal(response: &mut Response<Body>) {
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        set(CONTENT_SECURITY_POLICY, POLICY);
        set(X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(X_FRAME_OPTIONS, "DENY");
        set(REFERRER_POLICY, "no-referrer");
        set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
        set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }

    /// The name by which this server was asked for, if it is one of its own.
    fn known_host<B>(&self, request: &Request<B>) -> Option<Authority> {
        let headers = request.headers();
        let mut given = headers.get_all(HOST).iter();
        let (Some(host), None) = (given.next(), given.next()) else {
            return None;
        };
        let host: Authority = host.to_str().ok()?.parse().ok()?;
        // An absolute address in the first line goes before Host (RFC 9112): both are to say the same.
        if request.uri().authority().is_some_and(|authority| *authority != host) || host.as_str().contains('@') {
            return None;
        }
        let name = host.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let is_known = match name.parse::<IpAddr>() {
            // Only a name can be made to point elsewhere.
            Ok(address) => address.is_loopback() || !self.address.ip().is_loopback(),
            Err(_) => name == "localhost" || self.hosts.contains(&name),
        };
        is_known.then_some(host)
    }

    fn cookie_name(&self) -> String {
        // Cookies do not know of ports: two dashboards of one machine have one each.
        format!("captionacc-dashboard-{}", self.address.port())
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie_name();
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(found, value)| found == name && self.session.is(value))
    }

    /// Gives the cookie, and leads to the first page, without the token in its address. Not by a redirect: one that began on
    /// another site's page would not carry the cookie.
    fn sign_in<B>(&self, request: &Request<B>, given: &str) -> Verdict {
        let headers = request.headers();
        if request.method() != Method::GET || !self.token.is(given) {
            return refused(
                headers,
                StatusCode::UNAUTHORIZED,
                REFUSED,
                "This token is not the dashboard's: it was started anew since. Open the address that it printed last.",
            );
        }
        let cookie = format!(
            "{}={}; HttpOnly; SameSite=Strict; Path=/",
            self.cookie_name(),
            self.session.reveal()
        );
        let response = Response::builder()
            .header(CONTENT_TYPE, "text/html; charset=utf-8")
            .header(SET_COOKIE, cookie)
            .body(Body::from(SIGNED_IN))
            .expect("its headers are plain text");
        Verdict::Answer(response)
    }
}

/// The token in an address, if it has one.
fn query_token(uri: &Uri) -> Option<String> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| *name == TOKEN_PARAMETER)
        .map(|(_, value)| {
            percent_encoding::percent_decode_str(value)
                .decode_utf8_lossy()
                .into_owned()
        })
        .next()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Whether a page of this server asks. Every browser says where a POST comes from.
fn is_of_own_page(headers: &HeaderMap, host: &Authority) -> bool {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let has_origin = text(&ORIGIN)
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(scheme, authority)| matches!(scheme, "http" | "https") && authority == host.as_str());
    let site = text(&HeaderName::from_static("sec-fetch-site"));
    has_origin && site.is_none_or(|site| site == "same-origin")
}

/// The answer to what may not be asked: JSON for a page or a program, a sentence for whoever opened an address.
fn refused(headers: &HeaderMap, status: StatusCode, code: &str, message: &str) -> Verdict {
    let is_opened = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    let (kind, body) = if is_opened {
        ("text/plain; charset=utf-8", format!("{message}\n"))
    } else {
        let error = serde_json::json!({ "error": { "code": code, "message": message, "retryable": false } });
        ("application/json", error.to_string())
    };
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .body(Body::from(body))
        .expect("its headers are plain text");
    Verdict::Answer(response)
}

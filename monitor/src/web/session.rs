//! Who may change something: sessions in browsers, and the token itself in scripts.
//!
//! The rules are in one place, [`Sessions::authorize`]. Secrets are compared in constant time and kept as digests;
//! guesses are counted by where they come from. Nothing here is ever logged but who was refused.

use super::{answers::Refusal, guard};
use axum::http::{HeaderMap, StatusCode, header};
use rustls::crypto::ring;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// The session's cookie.
const COOKIE: &str = "trawl_session";

/// The header that a page of ours adds to every change; one of somebody else's does not know its value.
const CSRF_HEADER: &str = "x-trawl-csrf";

/// A session ends after this time, whatever is done in it.
const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Sessions at once; the oldest goes first.
const MAX_SESSIONS: usize = 256;

/// Wrong tokens from one address within [`GUESS_WINDOW`]; nobody mistypes more.
const MAX_GUESSES: u32 = 10;

/// After this time an address may guess anew.
const GUESS_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose guesses are counted; when there are more within the window, nobody may guess.
const MAX_GUESSERS: usize = 4096;

/// A longer token is not compared.
const MAX_TOKEN_BYTES: usize = 4096;

type Fingerprint = [u8; 32];

/// Who is allowed to change something, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A browser with a session.
    Session,
    /// A script with the token.
    Token,
}

/// A session that was just opened.
pub struct Opened {
    /// The value of the cookie.
    pub cookie: String,
    /// What the page must send with every change.
    pub csrf: String,
}

/// The sessions of one monitor.
pub struct Sessions {
    token: Option<Fingerprint>,
    open: Mutex<HashMap<Fingerprint, Session>>,
    guesses: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

struct Session {
    csrf: String,
    since: Instant,
}

impl Sessions {
    /// No sessions; without a token there never are any.
    pub fn new(token: Option<&str>) -> Self {
        Self { token: token.map(fingerprint), open: Mutex::default(), guesses: Mutex::default() }
    }

    /// Whether nothing can be changed.
    pub fn is_read_only(&self) -> bool {
        self.token.is_none()
    }

    /// Opens a session for who has the token.
    ///
    /// # Errors
    /// A wrong token, too many of them, a foreign origin, or a monitor without a token.
    pub fn login(&self, token: &str, headers: &HeaderMap, peer: IpAddr) -> Result<Opened, Refusal> {
        if origin_fits(headers) == Some(false) {
            return Err(foreign());
        }
        self.check_token(token, peer)?;
        let opened = Opened { cookie: random()?, csrf: random()? };
        let mut open = self.open();
        open.retain(|_, session| session.since.elapsed() < SESSION_LIFE);
        while open.len() >= MAX_SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.since).map(|(id, _)| *id);
            let Some(oldest) = oldest else { break };
            open.remove(&oldest);
        }
        open.insert(
            fingerprint(&opened.cookie),
            Session { csrf: opened.csrf.clone(), since: Instant::now() },
        );
        Ok(opened)
    }

    /// Ends the session of a request, if it has one.
    pub fn logout(&self, headers: &HeaderMap) {
        for cookie in cookies(headers) {
            self.open().remove(&fingerprint(cookie));
        }
    }

    /// The secret of the request's session, for its own page.
    pub fn csrf(&self, headers: &HeaderMap) -> Option<String> {
        let open = self.open();
        let live = |cookie: &str| {
            open.get(&fingerprint(cookie)).filter(|session| session.since.elapsed() < SESSION_LIFE)
        };
        cookies(headers).find_map(live).map(|session| session.csrf.clone())
    }

    /// Whether a request may change something.
    ///
    /// # Errors
    /// Why not: 401 where another login helps, 403 where it does not, 429 after too many guesses.
    pub fn authorize(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Who, Refusal> {
        if self.is_read_only() {
            return Err(read_only());
        }
        let origin = origin_fits(headers);
        if origin == Some(false) {
            return Err(foreign());
        }
        if let Some(token) = bearer(headers) {
            return self.check_token(token, peer).map(|()| Who::Token);
        }
        let Some(csrf) = self.csrf(headers) else {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "this needs a session: sign in with the token first",
            ));
        };
        // A browser says where a change comes from; what does not is no page of ours.
        if origin.is_none() {
            return Err(foreign());
        }
        let sent = headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !equal(&fingerprint(sent), &fingerprint(&csrf)) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "the page's secret does not fit its session: load the page again",
            ));
        }
        Ok(Who::Session)
    }

    /// The cookie's line for a browser.
    pub fn set_cookie(opened: &Opened, https: bool) -> String {
        let life = SESSION_LIFE.as_secs();
        let secure = if https { "; Secure" } else { "" };
        format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={life}{secure}", opened.cookie)
    }

    /// The line that takes it away.
    pub fn clear_cookie(https: bool) -> String {
        let secure = if https { "; Secure" } else { "" };
        format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0{secure}")
    }

    fn check_token(&self, token: &str, peer: IpAddr) -> Result<(), Refusal> {
        let Some(right) = &self.token else { return Err(read_only()) };
        let mut guesses = self.guesses.lock().expect("no panic while the guesses are held");
        guesses.retain(|_, (since, _)| since.elapsed() < GUESS_WINDOW);
        let spent = guesses.get(&peer).map_or(0, |(_, count)| *count);
        if spent >= MAX_GUESSES || (spent == 0 && guesses.len() >= MAX_GUESSERS) {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("too many wrong tokens: try again in {} s", GUESS_WINDOW.as_secs()),
            ));
        }
        if token.len() <= MAX_TOKEN_BYTES && equal(&fingerprint(token), right) {
            return Ok(());
        }
        guesses.entry(peer).or_insert((Instant::now(), 0)).1 += 1;
        tracing::warn!(peer = %peer, "a wrong token was refused");
        Err(Refusal::new(StatusCode::FORBIDDEN, "the token is wrong"))
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Fingerprint, Session>> {
        self.open.lock().expect("no panic while the sessions are held")
    }
}

fn read_only() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "this monitor is read only: start it with --token-file (TRAWL_MONITOR_TOKEN_FILE) to allow changes",
    )
}

fn foreign() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "the request does not come from a page of this monitor")
}

fn fingerprint(secret: &str) -> Fingerprint {
    Sha256::digest(secret.as_bytes()).into()
}

/// Compares digests, in a time that does not depend on them.
fn equal(a: &Fingerprint, b: &Fingerprint) -> bool {
    let differing = a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b));
    std::hint::black_box(differing) == 0
}

/// 256 bits as text.
fn random() -> Result<String, Refusal> {
    let mut bytes = [0_u8; 32];
    let filled = ring::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Refusal::away("this system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
        // Somebody who sends thousands gets no thousands of digests.
        .take(4)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether the request comes from a page of the host that it asks; `None` if it does not say.
fn origin_fits(headers: &HeaderMap) -> Option<bool> {
    let said = headers.get(header::ORIGIN).or_else(|| headers.get(header::REFERER))?;
    let fits = || {
        let (_, rest) = said.to_str().ok()?.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        Some(authority.eq_ignore_ascii_case(guard::host(headers)?))
    };
    Some(fits().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const TOKEN: &str = "correct-horse-battery";
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8265"));
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[tokio::test]
    async fn the_rules_of_a_change() {
        let sessions = Sessions::new(Some(TOKEN));
        let opened = sessions.login(TOKEN, &headers(&[]), PEER).unwrap();
        let cookie = format!("a=b; {COOKIE}={}; c=d", opened.cookie);
        let (csrf, here) = (opened.csrf.as_str(), "http://127.0.0.1:8265");
        let bearer = format!("Bearer {TOKEN}");
        let referer = format!("{here}/jobs/x");
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Result<Who, u16>);
        let table: &[Case<'_>] = &[
            ("all of it", &[("cookie", &cookie), ("x-trawl-csrf", csrf), ("origin", here)], Ok(Who::Session)),
            (
                "a referer will do",
                &[("cookie", &cookie), ("x-trawl-csrf", csrf), ("referer", &referer)],
                Ok(Who::Session),
            ),
            ("nothing", &[], Err(403)),
            ("no cookie", &[("x-trawl-csrf", csrf), ("origin", here)], Err(403)),
            (
                "another cookie",
                &[("cookie", "trawl_session=x"), ("x-trawl-csrf", csrf), ("origin", here)],
                Err(403),
            ),
            ("no secret", &[("cookie", &cookie), ("origin", here)], Err(403)),
            ("another secret", &[("cookie", &cookie), ("x-trawl-csrf", "x"), ("origin", here)], Err(403)),
            ("no origin", &[("cookie", &cookie), ("x-trawl-csrf", csrf)], Err(403)),
            (
                "a foreign origin",
                &[("cookie", &cookie), ("x-trawl-csrf", csrf), ("origin", "http://evil")],
                Err(403),
            ),
            (
                "another port",
                &[("cookie", &cookie), ("x-trawl-csrf", csrf), ("origin", "http://127.0.0.1:1")],
                Err(403),
            ),
            (
                "no origin at all",
                &[("cookie", &cookie), ("x-trawl-csrf", csrf), ("origin", "null")],
                Err(403),
            ),
            (
                "an origin goes before a referer",
                &[
                    ("cookie", &cookie),
                    ("x-trawl-csrf", csrf),
                    ("origin", "http://evil"),
                    ("referer", &referer),
                ],
                Err(403),
            ),
            ("a script", &[("authorization", &bearer)], Ok(Who::Token)),
            ("a script's origin fits", &[("authorization", &bearer), ("origin", here)], Ok(Who::Token)),
            (
                "a script in a foreign page",
                &[("authorization", &bearer), ("origin", "http://evil")],
                Err(403),
            ),
            (
                "a wrong token",
                &[("authorization", "Bearer x"), ("cookie", &cookie), ("x-trawl-csrf", csrf)],
                Err(403),
            ),
        ];
        for (what, pairs, expected) in table {
            let answer = sessions.authorize(&headers(pairs), PEER).map_err(|refusal| refusal.status.as_u16());
            assert_eq!(answer, *expected, "{what}");
        }
        let read_only = Sessions::new(None);
        for pairs in [&[][..], &[("authorization", bearer.as_str())]] {
            let refusal = read_only.authorize(&headers(pairs), PEER).unwrap_err();
            assert!(refusal.message.contains("read only"), "{}", refusal.message);
        }
        assert!(read_only.login(TOKEN, &headers(&[]), PEER).err().unwrap().message.contains("read only"));
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_end_and_are_bounded() {
        let sessions = Sessions::new(Some(TOKEN));
        let opened = sessions.login(TOKEN, &headers(&[]), PEER).unwrap();
        let cookie = format!("{COOKIE}={}", opened.cookie);
        let with = headers(&[("cookie", &cookie)]);
        assert_eq!(sessions.csrf(&with).as_deref(), Some(opened.csrf.as_str()));
        sessions.logout(&with);
        assert_eq!(sessions.csrf(&with), None);
        let opened = sessions.login(TOKEN, &headers(&[]), PEER).unwrap();
        let with = headers(&[("cookie", &format!("{COOKIE}={}", opened.cookie))]);
        tokio::time::advance(SESSION_LIFE).await;
        assert_eq!(sessions.csrf(&with), None);
        for _ in 0..MAX_SESSIONS + 5 {
            sessions.login(TOKEN, &headers(&[]), PEER).unwrap();
        }
        assert_eq!(sessions.open().len(), MAX_SESSIONS);
        assert!(sessions.login(TOKEN, &headers(&[("origin", "http://evil")]), PEER).is_err());
        let line = Sessions::set_cookie(&opened, true);
        for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Secure"] {
            assert!(line.contains(word), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn guesses_are_limited_by_address() {
        let sessions = Sessions::new(Some(TOKEN));
        let guess = |peer| sessions.login("wrong", &headers(&[]), peer).err().unwrap().status.as_u16();
        for _ in 0..MAX_GUESSES {
            assert_eq!(guess(PEER), 403);
        }
        assert_eq!(guess(PEER), 429);
        assert!(sessions.login(TOKEN, &headers(&[]), PEER).is_err(), "the right one could be a guess too");
        let other: IpAddr = "10.0.0.1".parse().unwrap();
        assert!(sessions.login(TOKEN, &headers(&[]), other).is_ok());
        tokio::time::advance(GUESS_WINDOW).await;
        assert!(sessions.login(TOKEN, &headers(&[]), PEER).is_ok());
        for n in 0..MAX_GUESSERS as u32 + 10 {
            guess(std::net::Ipv4Addr::from(n).into());
        }
        assert!(sessions.guesses.lock().unwrap().len() <= MAX_GUESSERS);
    }
}

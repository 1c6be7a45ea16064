//! What a failed call to GCS or Azure means, in the words of the seam.
//!
//! The store's own code decides, else the HTTP status, else where the request failed; object_store's kinds of error
//! are too few to go by. Its texts are used only for what it refused before anything was sent, and without what looks
//! like a value.

use super::{
    ObjectBucket,
    witness::{Answer, Seen},
};
use crate::storage::{Passing, StorageError, s3, wire::Trouble};

/// Codes for "there is no such bucket".
const NO_BUCKET: [&str; 4] = ["NoSuchBucket", "ContainerNotFound", "FilesystemNotFound", "AccountNotFound"];

/// Codes for "you ask too much", whatever the status.
const THROTTLED: [&str; 6] = [
    "SlowDown",
    "ServerBusy",
    "TooManyRequests",
    "RateLimitExceeded",
    "rateLimitExceeded",
    "UserRateLimitExceeded",
];

/// Codes for a key that no object can have.
const NO_KEY: [&str; 6] = [
    "KeyTooLongError",
    "InvalidObjectName",
    "InvalidResourceName",
    "InvalidUri",
    "InvalidURI",
    "RequestUriTooLong",
];

impl ObjectBucket {
    /// The error for a call that failed with `error` after `seen`.
    pub(super) fn failed(&self, key: &str, seen: &Seen, error: &object_store::Error) -> StorageError {
        if let Some(answer) = seen.answer.as_ref().filter(|answer| !(200..300).contains(&answer.status)) {
            return self.refused(key, answer);
        }
        if let Some(trouble) = &seen.trouble {
            return self.troubled(key, trouble);
        }
        match &seen.no_token {
            Some(Err(Trouble::Passing(cause, reason))) if !self.asks_the_machine() => {
                self.transient(key, *cause, format!("whoever gives out tokens is away: {reason}"))
            }
            Some(Err(Trouble::Passing(_, reason) | Trouble::NoHost(reason) | Trouble::Lasting(reason))) => {
                self.no_credentials(key, reason)
            }
            Some(Ok(answer)) if is_transient_status(answer.status) => self.transient(
                key,
                passing(answer),
                format!("whoever gives out tokens says {}", words(answer)),
            ),
            Some(Ok(answer)) => self.no_credentials(key, &words(answer)),
            None => self.other(key, without_values(&s3::chain(error))),
        }
    }

    /// The store answered, and not with what was asked for.
    pub(super) fn refused(&self, key: &str, answer: &Answer) -> StorageError {
        let Answer { status, code, .. } = answer;
        let reason = words(answer);
        if NO_BUCKET.contains(&code.as_str()) || (*status == 404 && key.is_empty()) {
            return StorageError::NoSuchStore { store: self.name.clone() };
        }
        if THROTTLED.contains(&code.as_str()) {
            return self.transient(key, Passing::Throttled, reason);
        }
        if NO_KEY.contains(&code.as_str()) || matches!(status, 414) {
            return StorageError::Invalid { key: self.url(key), reason };
        }
        match status {
            404 => StorageError::NotFound { key: self.url(key) },
            401 | 403 => StorageError::Forbidden { key: self.url(key), reason },
            status if is_transient_status(*status) => self.transient(key, passing(answer), reason),
            _ => self.other(key, reason),
        }
    }

    pub(super) fn troubled(&self, key: &str, trouble: &Trouble) -> StorageError {
        match trouble {
            Trouble::Passing(cause, reason) => self.transient(key, *cause, reason),
            // A cloud's name that cannot be resolved is a network that is down.
            Trouble::NoHost(reason) => self.transient(key, Passing::Unavailable, reason),
            Trouble::Lasting(reason) => self.other(key, reason),
        }
    }

    fn no_credentials(&self, key: &str, reason: &str) -> StorageError {
        let reason = format!("no usable credentials were found ({reason})");
        StorageError::Forbidden { key: self.url(key), reason }
    }

    pub(super) fn transient(&self, key: &str, cause: Passing, reason: impl Into<String>) -> StorageError {
        StorageError::Transient { store: self.name.clone(), key: self.url(key), cause, reason: reason.into() }
    }

    pub(super) fn other(&self, key: &str, reason: impl Into<String>) -> StorageError {
        StorageError::Other { store: self.name.clone(), key: self.url(key), reason: reason.into() }
    }
}

fn words(answer: &Answer) -> String {
    match (answer.code.as_str(), answer.message.as_str(), answer.status) {
        ("", "", status) => format!("HTTP {status}"),
        ("", message, status) => format!("HTTP {status}: {message}"),
        (code, "", status) => format!("{code} (HTTP {status})"),
        (code, message, status) => format!("{code} (HTTP {status}): {message}"),
    }
}

/// Overload and outage. 501 and 505 are answers about what the store cannot do at all.
fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 506..=599)
}

fn passing(answer: &Answer) -> Passing {
    match (answer.code.as_str(), answer.status) {
        ("OperationTimedOut", _) | (_, 408 | 504) => Passing::TimedOut,
        (_, 429) => Passing::Throttled,
        _ => Passing::Unavailable,
    }
}

/// The text without anything in quotes: a parser quotes what it cannot read, which may be a key.
pub(super) fn without_values(text: &str) -> String {
    let mut plain = String::new();
    let mut open = None;
    for character in text.chars() {
        match open {
            Some(quote) if character == quote => {
                plain.push('…');
                plain.push(quote);
                open = None;
            }
            Some(_) => {}
            None => {
                plain.push(character);
                open = matches!(character, '"' | '`').then_some(character);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::object::{GcsConfig, ObjectStorage};

    async fn bucket() -> ObjectBucket {
        let config = GcsConfig { base_url: "http://127.0.0.1:1".into(), token: None };
        ObjectStorage::gcs_bucket("b", Some(config)).await
    }

    fn answer(status: u16, code: &str) -> Answer {
        Answer { status, code: code.into(), message: "words".into() }
    }

    #[tokio::test]
    async fn codes_and_states_get_their_meaning() {
        let bucket = bucket().await;
        for (code, status, expected) in [
            ("SlowDown", 503, Passing::Throttled),
            ("ServerBusy", 503, Passing::Throttled),
            ("", 429, Passing::Throttled),
            ("", 503, Passing::Unavailable),
            ("InternalError", 500, Passing::Unavailable),
            ("OperationTimedOut", 500, Passing::TimedOut),
            ("", 504, Passing::TimedOut),
        ] {
            let error = bucket.refused("k", &answer(status, code));
            assert!(matches!(error, StorageError::Transient { cause, .. } if cause == expected), "{error:?}");
        }
        for (code, status) in [("AuthenticationFailed", 403), ("AccessDenied", 403), ("", 401)] {
            assert!(bucket.refused("k", &answer(status, code)).is_forbidden(), "{code} {status}");
        }
        for code in NO_BUCKET {
            assert!(matches!(bucket.refused("k", &answer(404, code)), StorageError::NoSuchStore { .. }));
        }
        assert!(matches!(bucket.refused("", &answer(404, "")), StorageError::NoSuchStore { .. }));
        assert!(bucket.refused("k", &answer(404, "NoSuchKey")).is_not_found());
        assert!(bucket.refused("k", &answer(404, "")).is_not_found());
        assert!(matches!(bucket.refused("k", &answer(400, "InvalidUri")), StorageError::Invalid { .. }));
        assert!(matches!(bucket.refused("k", &answer(501, "")), StorageError::Other { .. }));
        assert!(matches!(bucket.refused("k", &answer(409, "LeaseIdMissing")), StorageError::Other { .. }));
    }

    #[tokio::test]
    async fn no_token_is_no_credentials_unless_it_passes() {
        let bucket = bucket().await;
        let failed = |no_token| {
            let seen = Seen { no_token: Some(no_token), ..Seen::default() };
            let error =
                object_store::Error::NotImplemented { operation: String::new(), implementer: String::new() };
            bucket.failed("k", &seen, &error)
        };
        assert!(failed(Ok(answer(400, "invalid_grant"))).is_forbidden());
        assert!(failed(Ok(answer(503, ""))).is_transient());
        assert!(failed(Err(Trouble::NoHost("metadata".into()))).is_forbidden());
        let text = failed(Ok(answer(400, "invalid_grant"))).to_string();
        assert!(text.contains("invalid_grant") && text.contains("GOOGLE_APPLICATION_CREDENTIALS"), "{text}");
    }

    #[test]
    fn what_a_parser_quotes_is_not_passed_on() {
        let text = without_values("invalid type: string \"canary\", expected `u8` at line 1");
        assert_eq!(text, "invalid type: string \"…\", expected `…` at line 1");
        assert_eq!(without_values("open \"canary"), "open \"");
    }
}

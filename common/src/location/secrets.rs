//! Finds credentials in URLs, so that such a URL is refused before it gets into a row or a log.
//!
//! Used while a location is parsed. A key may hold any character, so only what is surely a signature counts: the
//! parameters of the clouds' own signed URLs. It must never put a part of the URL into an error but the host.

use super::LocationError;

/// Parameters that grant access wherever they stand in the query of a web address.
const ON_THE_WEB: [&str; 9] = [
    "sig",
    "signature",
    "x-amz-signature",
    "x-amz-security-token",
    "x-goog-signature",
    "awsaccesskeyid",
    "googleaccessid",
    "access_token",
    "api_key",
];

/// Parameters that no name of an object has by chance.
const IN_BUCKETS: [&str; 3] = ["x-amz-signature", "x-amz-security-token", "x-goog-signature"];

/// The error for `user:password@host`.
pub(super) fn in_authority(scheme: &'static str, host: &str) -> LocationError {
    LocationError::Credentials {
        // What stands before the last `@` only; a bucket's name has no colon.
        place: host.split(['?', '#', ':']).next().unwrap_or_default().to_owned(),
        what: "before the `@`",
        remedy: remedy(scheme),
    }
}

/// Refuses a key with the signature of a signed URL in it.
pub(super) fn none_in_query(scheme: &'static str, place: &str, key: &str) -> Result<(), LocationError> {
    let Some((_, query)) = key.split_once('?') else { return Ok(()) };
    let has = |name: &str| {
        query
            .split(['&', ';', '?'])
            .any(|part| part.split_once('=').is_some_and(|(given, _)| given.eq_ignore_ascii_case(name)))
    };
    let found = match scheme {
        "http" | "https" => ON_THE_WEB.iter().any(|name| has(name)),
        // `sig` alone may be a part of a blob's name.
        "az" | "abfs" | "abfss" => has("sig") && (has("sv") || has("se")),
        _ => IN_BUCKETS.iter().any(|name| has(name)),
    };
    if !found {
        return Ok(());
    }
    let place = place.split(['?', '#']).next().unwrap_or_default().to_owned();
    Err(LocationError::Credentials { place, what: "a signature in its query", remedy: remedy(scheme) })
}

fn remedy(scheme: &str) -> &'static str {
    match scheme {
        "s3" => "give them by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
        "gs" => "give them by GOOGLE_APPLICATION_CREDENTIALS instead",
        "az" | "abfs" | "abfss" => {
            "give them by AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN instead"
        }
        _ => {
            "they would be written into every row; read the bucket itself with s3://, gs:// or az://, or a URL without them"
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::location::{Location, LocationError};
    use std::path::Path;

    fn parse(text: &str) -> Result<Location, LocationError> {
        Location::parse(text, Path::new("/"))
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for text in [
            "s3://AKIA:canary@bucket/x",
            "s3://bucket/x?X-Amz-Signature=canary",
            "gs://canary@bucket/x",
            "gs://bucket/x?a=1&X-Goog-Signature=canary",
            "az://canary@container/x?y",
            "az://container/x?sv=2020&sig=canary",
            "az:///x?sv=2020&sig=canary",
            "az://container?sv=2020&sig=canary",
            "abfss://c:canary@acct.dfs.core.windows.net/x",
            "abfss://c@acct.dfs.core.windows.net/x?se=1&SIG=canary",
            "https://user:canary@host/x",
            "https://canary@host?x",
            "https://host/x?sig=canary",
            "https://host?sig=canary",
            "https://host/x?a=b&X-Amz-Signature=canary",
            "https://host/x?access_token=canary#f",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("canary"), "{text}: {error}");
            let credentials = matches!(error, LocationError::Credentials { .. });
            assert!(credentials || matches!(error, LocationError::NoAccount { .. }), "{text}: {error}");
        }
        let error = parse("s3://AKIA:canary@bucket/x").unwrap_err().to_string();
        assert!(error.contains("`bucket`") && error.contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn names_that_only_look_like_it_stay_usable() {
        for text in ["s3://b/sig=1.jpg", "s3://b/a?sig=1.jpg", "az://c/a?sig=1.jpg", "https://h/a?signal=1"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}

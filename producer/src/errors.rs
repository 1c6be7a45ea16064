//! What a command that does not succeed says, and the exit code that scripts read from it.
//!
//! The typed errors of the seams are turned into one [`Stop`] each, here and nowhere else: the first line
//! names what went wrong with its causes, the hint names the next step. The exit codes of the seams' errors
//! are [`trawl_common::exit`]'s, so that both binaries agree. Nothing here may print a URL that could carry a
//! password.

use std::{error::Error, fmt::Write as _, io};
use trawl_common::{
    audit::AuditError,
    broker::BrokerError,
    bundle::BundleError,
    config::exit,
    disposition::describe,
    exit::code_of,
    job::{InvalidName, JobSpecError},
    ledger::LedgerError,
    location::LocationError,
    model_file::ModelFileError,
    model_import::ImportError,
    planning::PlanError,
    results::{
        footer::FetchFooterError, manifest::ManifestError, manifest_pieces::PieceError,
        plan_file::PlanFileError,
    },
    services::ServiceError,
    standing::StandingError,
    storage::StorageError,
    telemetry::{TelemetryError, printable},
};

/// The end of a command that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The exit code.
    pub code: u8,
    /// One line; empty when there is nobody left to read it.
    pub message: String,
    /// The next step, if it is not in the message already.
    pub hint: Option<String>,
}

impl Stop {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The work failed, and doing the same again will not help.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(exit::FAILED, message)
    }

    /// The command line or the configuration is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// What was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(exit::NOT_FOUND, message)
    }

    /// A service is away; the same command may succeed later.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(exit::TRANSIENT, message)
    }

    /// A signal ended the command.
    pub fn signalled(code: u8, message: impl Into<String>) -> Self {
        Self::new(code, message)
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// An error with its causes, under an exit code.
    pub fn of(code: u8, error: &dyn Error) -> Self {
        Self::new(code, describe(error))
    }

    /// The lines for stderr, without the last newline; empty when there is nothing to say.
    pub fn lines(&self) -> String {
        let mut text = String::new();
        if !self.message.is_empty() {
            // One line whatever a server answered: scripts and people read `error:` as the first word.
            let _ = write!(text, "error: {}", one_line(&self.message));
            if let Some(hint) = &self.hint {
                let _ = write!(text, "\nhint: {}", one_line(hint));
            }
        }
        text
    }
}

fn one_line(text: &str) -> String {
    printable(&text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

fn coded(error: &(dyn Error + 'static)) -> Stop {
    Stop::of(code_of(error), error)
}

/// The variable that names a store's address, where it has one.
fn endpoint_of(store: &str) -> &'static str {
    match store.split_once("://").map(|(scheme, _)| scheme) {
        Some("s3") => " and AWS_ENDPOINT_URL",
        Some("gs") => " and GOOGLE_BASE_URL",
        Some("az" | "abfss") => " and AZURE_STORAGE_ENDPOINT",
        _ => "",
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        let stop = coded(&error);
        let endpoint = match &error {
            StorageError::Transient { store, .. } => endpoint_of(store),
            _ => "",
        };
        match error {
            StorageError::Transient { .. } => {
                stop.hint(format!("check the network{endpoint}, then give the same command again"))
            }
            _ => stop,
        }
    }
}

impl From<BrokerError> for Stop {
    fn from(error: BrokerError) -> Self {
        let stop = coded(&error);
        match error {
            BrokerError::Precondition { .. } => {
                stop.hint("the queue was made with other settings: choose another --queue, or delete it once it is empty")
            }
            BrokerError::Unreachable { .. } => stop.hint("`trawl doctor` checks every service"),
            _ => stop,
        }
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        let stop = coded(&error);
        match error {
            LedgerError::Unreachable { .. } => {
                stop.hint("`trawl status OUT` reads the output itself and needs no Redis; `trawl doctor` checks every service")
            }
            _ => stop,
        }
    }
}

impl From<ServiceError> for Stop {
    fn from(error: ServiceError) -> Self {
        coded(&error)
    }
}

impl From<ModelFileError> for Stop {
    fn from(error: ModelFileError) -> Self {
        let stop = coded(&error);
        match stop.code {
            exit::USAGE | exit::NOT_FOUND => {
                stop.hint("--model takes a bundle; `python worker/models/export.py` makes one")
            }
            _ => stop,
        }
    }
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::File(error) => error.into(),
            ImportError::Bundle(error) => error.into(),
            ImportError::Beside { .. } | ImportError::NoModel { .. } => coded(&error),
        }
    }
}

impl From<BundleError> for Stop {
    fn from(error: BundleError) -> Self {
        coded(&error)
    }
}

impl From<LocationError> for Stop {
    fn from(error: LocationError) -> Self {
        coded(&error)
    }
}

impl From<TelemetryError> for Stop {
    fn from(error: TelemetryError) -> Self {
        coded(&error)
    }
}

impl From<InvalidName> for Stop {
    fn from(error: InvalidName) -> Self {
        Self::of(exit::USAGE, &error)
    }
}

impl From<JobSpecError> for Stop {
    fn from(error: JobSpecError) -> Self {
        Self::of(exit::FAILED, &error)
    }
}

impl From<FetchFooterError> for Stop {
    fn from(error: FetchFooterError) -> Self {
        match error {
            FetchFooterError::Storage(error) => error.into(),
            FetchFooterError::Unusable { .. } => Self::of(exit::FAILED, &error),
        }
    }
}

impl From<ManifestError> for Stop {
    fn from(error: ManifestError) -> Self {
        Self::of(exit::FAILED, &error)
    }
}

impl From<PieceError> for Stop {
    fn from(error: PieceError) -> Self {
        match error {
            PieceError::Storage(error) => error.into(),
            PieceError::Bad { .. } => Self::of(exit::FAILED, &error),
        }
    }
}

impl From<StandingError> for Stop {
    fn from(error: StandingError) -> Self {
        match error {
            StandingError::NoOutput { .. } => {
                coded(&error).hint("`trawl jobs` lists the jobs with their outputs")
            }
            StandingError::Storage(error) => error.into(),
            StandingError::Spec(error) => error.into(),
            StandingError::Manifest(error) => error.into(),
            StandingError::Piece(error) => error.into(),
            StandingError::Plan(error) => error.into(),
            StandingError::Footer(error) => error.into(),
        }
    }
}

impl From<PlanFileError> for Stop {
    fn from(error: PlanFileError) -> Self {
        Self::of(exit::FAILED, &error)
    }
}

impl From<PlanError> for Stop {
    fn from(error: PlanError) -> Self {
        match error {
            // These have hints of their own.
            PlanError::Storage(error) => error.into(),
            PlanError::Broker(error) => error.into(),
            PlanError::Ledger(error) => error.into(),
            PlanError::Footer(error) => error.into(),
            error => coded(&error),
        }
    }
}

impl From<AuditError> for Stop {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::NoJob { .. } => {
                Self::of(exit::NOT_FOUND, &error).hint("`trawl jobs` lists the jobs with their outputs")
            }
            AuditError::Plan(error) => error.into(),
            AuditError::Storage(error) => error.into(),
        }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        // `trawl results OUT | head` is no error: the reader has what it wants.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(exit::OK, "");
        }
        Self::new(exit::FAILED, format!("the output cannot be printed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::storage::Passing;

    fn transient() -> StorageError {
        StorageError::Transient {
            store: "s3://b".into(),
            key: "k".into(),
            cause: Passing::Unavailable,
            reason: "503".into(),
        }
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        assert_eq!(Stop::from(transient()).code, 5);
        assert_eq!(Stop::from(ModelFileError::from(transient())).code, 5);
        assert_eq!(Stop::from(StorageError::NoSuchStore { store: "s3://b".into() }).code, 4);
        assert_eq!(Stop::from(StorageError::Forbidden { key: "k".into(), reason: "no".into() }).code, 2);
        let gone = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Stop::from(ModelFileError::Io { path: "m.pt".into(), source: gone }).code, 2);
        let away = || ("127.0.0.1:1".to_owned(), "refused".to_owned());
        let (broker, reason) = away();
        assert_eq!(Stop::from(BrokerError::Unreachable { broker, reason }).code, 5);
        let (ledger, reason) = away();
        assert_eq!(Stop::from(LedgerError::Unreachable { ledger, reason }).code, 5);
        let (ledger, reason) = away();
        assert_eq!(Stop::from(LedgerError::AccessRefused { ledger, reason }).code, 2);
        assert_eq!(Stop::from(BrokerError::BadUrl("no scheme".into())).code, 2);
        assert_eq!(Stop::from(LocationError::Empty).code, 2);
    }

    #[test]
    fn a_plan_that_fails_has_the_code_of_its_cause() {
        assert_eq!(Stop::from(PlanError::from(transient())).code, 5);
        let (given, reason) = ("s3://b/x".to_owned(), "no object".to_owned());
        assert_eq!(Stop::from(PlanError::SourceMissing { given, reason }).code, 4);
        assert_eq!(Stop::from(PlanError::NoImages { sources: vec!["x".into()], skipped: 3 }).code, 4);
        assert_eq!(Stop::from(PlanError::Interrupted).code, 130);
        let other = PlanError::OtherJob {
            out: "s3://b/out".into(),
            job: "job-1".parse().unwrap(),
            differences: vec!["topk".into(), "decode".into()],
        };
        let stop = Stop::from(other);
        assert_eq!(stop.code, 2);
        assert!(stop.message.contains("topk, decode") && stop.message.contains("--out"), "{}", stop.message);
    }

    #[test]
    fn causes_are_named_once() {
        let io = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = ModelFileError::Io { path: "m.pt".into(), source: io };
        assert_eq!(describe(&error), "the model file `m.pt` cannot be used: no such file");
        let error = ModelFileError::from(transient());
        assert_eq!(
            describe(&error),
            "the model cannot be fetched: s3://b did not answer as it should for `k`: 503"
        );
    }

    #[test]
    fn a_message_is_one_line_and_a_hint_another() {
        let stop = Stop::failed("a\n  b\n").hint("c\nd");
        assert_eq!(stop.lines(), "error: a; b\nhint: c; d");
        assert_eq!(Stop::failed("`\u{1b}]0;x\u{7}.jpg`").lines(), "error: `\\u{1b}]0;x\\u{7}.jpg`");
        assert_eq!(Stop::from(io::Error::from(io::ErrorKind::BrokenPipe)).lines(), "");
        assert_eq!(Stop::from(io::Error::from(io::ErrorKind::BrokenPipe)).code, 0);
        assert_eq!(Stop::from(io::Error::from(io::ErrorKind::StorageFull)).code, 1);
    }
}

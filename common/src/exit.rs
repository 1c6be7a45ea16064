//! From an error to the exit code that scripts depend on.
//!
//! Both binaries end here, so that the same failure has the same code whichever of them met it. Looks for
//! the seams' own errors in the chain; what is none of them is plain failure.

use crate::{
    broker::BrokerError, bundle::BundleError, config::exit, ledger::LedgerError, location::LocationError,
    model_file::ModelFileError, planning::PlanError, results::footer::FetchFooterError,
    services::ServiceError, standing::StandingError, storage::StorageError, telemetry::TelemetryError,
};
use std::error::Error;

/// The exit code for `error`: the innermost error of a seam decides.
pub fn code_of(error: &(dyn Error + 'static)) -> u8 {
    let mut code = exit::FAILED;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(known) = known(error) {
            code = known;
        }
        next = error.source();
    }
    code
}

fn known(error: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<StorageError>() {
        return Some(of_storage(error));
    }
    if let Some(error) = error.downcast_ref::<BrokerError>() {
        return Some(match error {
            BrokerError::Unreachable { .. } | BrokerError::Unconfirmed { .. } | BrokerError::Stale => {
                exit::TRANSIENT
            }
            BrokerError::AccessRefused { .. } | BrokerError::BadUrl(_) => exit::USAGE,
            BrokerError::Precondition { .. } | BrokerError::Unroutable { .. } | BrokerError::Closed => {
                exit::FAILED
            }
        });
    }
    if let Some(error) = error.downcast_ref::<LedgerError>() {
        return Some(match error {
            LedgerError::Unreachable { .. } | LedgerError::Forgotten { .. } => exit::TRANSIENT,
            LedgerError::AccessRefused { .. } | LedgerError::BadUrl(_) => exit::USAGE,
            LedgerError::Other { .. } => exit::FAILED,
        });
    }
    if error.is::<LocationError>()
        || error.is::<BundleError>()
        || error.is::<TelemetryError>()
        || error.is::<ServiceError>()
    {
        return Some(exit::USAGE);
    }
    if let Some(StandingError::NoOutput { .. }) = error.downcast_ref() {
        return Some(exit::NOT_FOUND);
    }
    // Transparent, as below.
    if let Some(StandingError::Storage(error)) = error.downcast_ref() {
        return Some(of_storage(error));
    }
    if let Some(StandingError::Footer(FetchFooterError::Storage(error))) = error.downcast_ref() {
        return Some(of_storage(error));
    }
    if let Some(FetchFooterError::Storage(error)) = error.downcast_ref() {
        return Some(of_storage(error));
    }
    if let Some(error) = error.downcast_ref::<ModelFileError>() {
        return Some(match error {
            ModelFileError::Io { .. } | ModelFileError::Digest { .. } => exit::USAGE,
            ModelFileError::Storage(error) => of_storage(error),
        });
    }
    error.downcast_ref::<PlanError>().map(of_plan)
}

fn of_plan(error: &PlanError) -> u8 {
    match error {
        PlanError::SourceMissing { .. } | PlanError::NoImages { .. } => exit::NOT_FOUND,
        PlanError::OtherJob { .. }
        | PlanError::Leftovers { .. }
        | PlanError::ForeignPart { .. }
        | PlanError::BadGlob { .. }
        | PlanError::BadCapture(_)
        | PlanError::Unfinished { .. }
        | PlanError::BadBatchSize(_)
        | PlanError::Location(_) => exit::USAGE,
        PlanError::Interrupted => exit::INTERRUPTED,
        // Transparent: these show the inner error as their own text, so it is not in the chain.
        PlanError::Storage(error) => code_of(error),
        PlanError::Broker(error) => code_of(error),
        PlanError::Ledger(error) => code_of(error),
        PlanError::Footer(error) => code_of(error),
        PlanError::Contents(error) => code_of(error),
        PlanError::JobSpec { .. }
        | PlanError::PlanFile { .. }
        | PlanError::BrokenPlan { .. }
        | PlanError::Cancelled(_) => exit::FAILED,
    }
}

fn of_storage(error: &StorageError) -> u8 {
    match error {
        StorageError::NotFound { .. } | StorageError::NoSuchStore { .. } => exit::NOT_FOUND,
        StorageError::Forbidden { .. } | StorageError::Invalid { .. } => exit::USAGE,
        StorageError::Transient { .. } => exit::TRANSIENT,
        StorageError::TooLarge { .. } | StorageError::Other { .. } => exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Passing;

    #[test]
    fn the_seams_own_error_decides_however_it_is_wrapped() {
        let away = || StorageError::Transient {
            store: "s3://b".into(),
            key: "k".into(),
            cause: Passing::Unavailable,
            reason: "503".into(),
        };
        assert_eq!(code_of(&away()), exit::TRANSIENT);
        assert_eq!(code_of(&PlanError::from(away())), exit::TRANSIENT);
        assert_eq!(code_of(&ModelFileError::from(away())), exit::TRANSIENT);
        let refused = LedgerError::AccessRefused { ledger: "h:1".into(), reason: "WRONGPASS".into() };
        assert_eq!(code_of(&PlanError::from(refused)), exit::USAGE);
        assert_eq!(code_of(&PlanError::Interrupted), exit::INTERRUPTED);
        assert_eq!(code_of(&std::io::Error::other("x")), exit::FAILED);
    }
}

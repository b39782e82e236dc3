//! What people read when something fails, and the process's exit code.

use std::error::Error;
use std::process::ExitCode;

use tonic::{Code, Status};

use crate::output::printable;

/// Something failed.
const EXIT_FAILURE: u8 = 1;

/// A status as a sentence: the server's message, and the code's word.
pub(crate) fn readable(status: Status) -> anyhow::Error {
    let kind = service_kit::status::kind_of(&status);
    match status.message() {
        "" if status.code() == Code::Unimplemented => {
            anyhow::anyhow!("the server at this address does not offer this service ({kind})")
        }
        message => anyhow::anyhow!("{} ({kind})", printable(message)),
    }
}

/// Prints the error and its causes, and says how the process ends: 64 for configuration mistakes, else 1.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    let is_config = error.chain().any(|cause: &(dyn Error + 'static)| {
        cause.is::<service_kit::config::ConfigError>() || cause.is::<service_kit::FileError>()
    });
    ExitCode::from(if is_config {
        service_kit::config::EXIT_CONFIG
    } else {
        EXIT_FAILURE
    })
}

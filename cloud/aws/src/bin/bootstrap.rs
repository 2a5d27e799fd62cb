//! The Lambda bootstrap: which function it is, `CONVOY_FUNCTION` says.

#![recursion_limit = "512"]

use std::process::ExitCode;

use convoy_aws::environment::Environment;

fn main() -> ExitCode {
    let environment = Environment::of_process();
    convoy_aws::logging::init(&environment);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(convoy_aws::bootstrap::run(environment)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the function cannot start");
            ExitCode::FAILURE
        }
    }
}

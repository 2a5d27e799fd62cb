//! The bridge between the vehicles' MQTT broker and the stream on AWS. It is told by its environment.

#![recursion_limit = "512"]

use std::process::ExitCode;

use convoy_aws::environment::Environment;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> ExitCode {
    let environment = Environment::of_process();
    convoy_aws::logging::init(&environment);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (shutdown, stop) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.send_replace(true);
    });
    match convoy_aws::bridge::run(environment, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the bridge ends");
            ExitCode::FAILURE
        }
    }
}

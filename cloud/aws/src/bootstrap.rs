//! The one program behind all functions: opens the state of its function at the first invocation and serves.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use futures_util::future::BoxFuture;
use lambda_runtime::{Context, LambdaEvent, service_fn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::environment::{Environment, Function, names};
use crate::failure::Failure;
use crate::functions::{
    admin, archive, authorizer, enrich, feed, fleet, ingest, loader, provision, steer, webhook,
};
use crate::http::{HttpRequest, HttpResponse};
use crate::metrics::Emitter;

/// When the invocation is killed.
fn deadline(context: &Context) -> Instant {
    let left = context.deadline().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    Instant::now() + left
}

/// What every function has.
struct Frame {
    deployment: Deployment,
    emitter: Emitter,
}

impl Frame {
    fn emit(&self) {
        self.emitter.emit(&self.deployment.counters, self.deployment.ambient.now_us() / 1_000);
    }
}

/// Serves invocations until the runtime ends.
pub async fn run(environment: Environment) -> Result<()> {
    let function: Function = environment.required(names::FUNCTION)?.parse()?;
    environment.check(function.requires())?;
    let emitter = Emitter::new(function.name());
    let frame = Frame { deployment: Deployment::new(environment)?, emitter };
    match function {
        Function::Ingest => {
            serve(frame, ingest::State::open, async |state, event, at| ingest::handle(state, event, at).await)
                .await
        }
        Function::Archive => {
            serve(frame, archive::State::open, async |state, event, at| {
                archive::handle(state, event, at).await
            })
            .await
        }
        Function::Enrich => {
            serve(frame, enrich::State::open, async |state, event, at| enrich::handle(state, event, at).await)
                .await
        }
        Function::Feed => {
            serve(frame, feed::State::open, async |state, event, at| feed::handle(state, event, at).await)
                .await
        }
        Function::Fleet => {
            serve_http(
                frame,
                |d| Box::pin(fleet::State::open(d)),
                |state, request| Box::pin(fleet::handle(state, request)),
            )
            .await
        }
        Function::Admin => {
            serve_http(
                frame,
                |d| Box::pin(admin::State::open(d)),
                |state, request| Box::pin(admin::handle(state, request)),
            )
            .await
        }
        Function::Authorizer => {
            serve(frame, authorizer::State::open, async |state, event, _| {
                authorizer::handle(state, event).await
            })
            .await
        }
        Function::Loader => {
            serve(frame, loader::State::open, async |state, event, _| loader::handle(state, event).await)
                .await
        }
        Function::Webhook => {
            serve(frame, webhook::State::open, async |state, event, _| webhook::handle(state, event).await)
                .await
        }
        Function::Provision => {
            serve(frame, provision::State::open, async |state, event, _| {
                provision::handle(state, event).await
            })
            .await
        }
        Function::Steer => {
            serve(frame, steer::State::open, async |state, event, _| steer::handle(state, event).await).await
        }
    }
}

async fn serve<S, E, R>(
    frame: Frame,
    open: impl AsyncFn(&Deployment) -> Result<S, Failure>,
    handle: impl AsyncFn(&Arc<S>, E, Instant) -> Result<R, Failure>,
) -> Result<()>
where
    E: DeserializeOwned,
    R: Serialize,
{
    let state: OnceCell<Arc<S>> = OnceCell::new();
    let (frame, state, open, handle) = (&frame, &state, &open, &handle);
    let service = service_fn(move |event: LambdaEvent<E>| async move {
        let opened = state.get_or_try_init(async || open(&frame.deployment).await.map(Arc::new)).await?;
        let outcome = handle(opened, event.payload, deadline(&event.context)).await;
        frame.emit();
        outcome
    });
    lambda_runtime::run(service).await.map_err(|error| anyhow::anyhow!(error))
}

async fn serve_http<S: Send + Sync + 'static>(
    frame: Frame,
    open: for<'a> fn(&'a Deployment) -> BoxFuture<'a, Result<S, Failure>>,
    handle: for<'a> fn(&'a S, HttpRequest) -> BoxFuture<'a, Result<HttpResponse, Failure>>,
) -> Result<()> {
    let held = Arc::new((frame, OnceCell::<S>::new()));
    let service = lambda_http::service_fn(move |request: HttpRequest| {
        let held = Arc::clone(&held);
        async move {
            let (frame, state) = held.as_ref();
            let opened = state.get_or_try_init(|| open(&frame.deployment)).await?;
            let outcome = handle(opened, request).await;
            frame.emit();
            outcome
        }
    });
    lambda_http::run(service).await.map_err(|error| anyhow::anyhow!(error))
}

//! /healthz, /readyz and /metrics.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::health::Health;
use crate::metrics::{Metrics, render};

/// What is asked for.
#[derive(Clone)]
struct Shown {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// Answers on its three paths, and 404 on all others.
pub(crate) fn router(health: Arc<Health>, metrics: &Metrics) -> Router {
    let shown = Shown { health, registry: Arc::new(metrics.registry()) };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show))
        .with_state(shown)
}

async fn healthz(State(shown): State<Shown>) -> Response {
    answer(shown.health.is_alive(Instant::now()), "the loop hangs\n")
}

async fn readyz(State(shown): State<Shown>) -> Response {
    answer(shown.health.is_ready(), "the cluster's objects have not been listed yet\n")
}

fn answer(good: bool, problem: &'static str) -> Response {
    if good { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, problem).into_response() }
}

async fn show(State(shown): State<Shown>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match render(&shown.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

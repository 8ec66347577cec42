//! The first page and the pool: what is wrong, what waits, what was done.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::activity::activity;
use super::answer::Fault;
use super::api::{About, Activity, Finding, Home, Overview, Pool, PoolRequest};
use super::app::App;
use crate::domain;
use crate::domain::error::OrchestratorError;
use crate::domain::finding::Level;
use crate::domain::flow_run::FlowRun;
use crate::domain::state::StateType;
use crate::orchestrator::queue::{FlowRunFilter, WorkPool};
use crate::settings::table::LIMIT;

/// Runs that ended last, on the first page.
const RECENT: u32 = 12;
/// Most runs that hold a slot.
const MOST_ACTIVE: u32 = 64;
/// Runs that are read at once for the pool's past, and most of them.
const ACTIVITY_PAGE: u32 = 250;
const MAX_ACTIVITY: usize = 2_000;
/// Longest past that is told.
const MAX_MINUTES: u32 = 7 * 24 * 60;

/// What does not change while the dashboard runs.
pub(super) async fn about(State(app): State<Arc<App>>) -> Json<About> {
    Json(app.about.clone())
}

/// The pool and what runs in it.
pub(super) async fn overview(State(app): State<Arc<App>>) -> Result<Json<Overview>, Fault> {
    let filter = FlowRunFilter {
        state_types: vec![StateType::Pending, StateType::Running, StateType::Cancelling],
        limit: MOST_ACTIVE,
        ..FlowRunFilter::default()
    };
    Ok(Json(Overview {
        pool: Pool::read(app.queue.as_ref()).await?,
        active: app.queue.list_flow_runs(filter).await?,
    }))
}

/// What stands on the first page.
pub(super) async fn home(State(app): State<Arc<App>>) -> Result<Json<Home>, Fault> {
    let of_states = |state_types: &[StateType], limit| {
        app.queue.list_flow_runs(FlowRunFilter {
            state_types: state_types.to_vec(),
            limit,
            ..FlowRunFilter::default()
        })
    };
    let mut recent = of_states(
        &[
            StateType::Completed,
            StateType::Failed,
            StateType::Crashed,
            StateType::Cancelled,
        ],
        RECENT,
    )
    .await?;
    recent.sort_by_key(|run| std::cmp::Reverse(run.ended_at));
    let oldest_waiting = app.queue.oldest_waiting().await?;
    let has_runs = !recent.is_empty() || !of_states(&[], 1).await?.is_empty();
    let pool = app.queue.read_work_pool().await?;
    Ok(Json(Home {
        findings: of_pool(&pool),
        recent,
        oldest_waiting,
        has_runs,
    }))
}

/// What is wrong with the pool as it stands.
fn of_pool(pool: &WorkPool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut warning = |check: &str, message: String, fix: &str| {
        findings.push(Finding {
            check: check.to_owned(),
            level: Level::Warning,
            message,
            fix: Some(fix.to_owned()),
        });
    };
    let waiting: u32 = pool.waiting.iter().map(|(_, count)| count).sum();
    if pool.is_paused {
        warning(
            "work pool",
            format!(
                "{} is paused, and nothing new starts; runs that wait: {waiting}",
                pool.name
            ),
            "Resume it under Workers and pool, or with: captionacc pool resume",
        );
    }
    if !pool.workers.iter().any(|worker| worker.is_alive) {
        warning(
            "worker",
            format!("no worker is alive; runs that wait: {waiting}"),
            "Start one: captionacc worker",
        );
    }
    findings
}

/// What [`of_pool`] tells as it changes need not be told as it was.
fn is_told_live(finding: &domain::finding::Finding) -> bool {
    match finding.check {
        "worker" => finding.message.starts_with("no worker is alive"),
        "work pool" => finding.message.ends_with("paused"),
        _ => false,
    }
}

/// What `captionacc doctor` finds: what is not as it should be.
pub(super) async fn findings(State(app): State<Arc<App>>) -> Result<Json<Vec<Finding>>, Fault> {
    let examining = spawn_blocking(move || (app.examine)());
    let found = examining.await.map_err(|_| Fault::Slow("the examination"))?;
    let wrong = found
        .iter()
        .filter(|finding| finding.level != Level::Ok && !is_told_live(finding));
    let mut findings: Vec<Finding> = wrong
        .map(|finding| Finding {
            check: finding.check.to_owned(),
            level: finding.level,
            message: finding.message.clone(),
            fix: finding.fix.clone(),
        })
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    Ok(Json(findings))
}

/// How far back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ActivityQuery {
    minutes: Option<u32>,
}

/// What the pool has done over time.
pub(super) async fn past(
    State(app): State<Arc<App>>,
    Query(query): Query<ActivityQuery>,
) -> Result<Json<Activity>, Fault> {
    let minutes = query.minutes.unwrap_or(60).clamp(1, MAX_MINUTES);
    let now = Timestamp::now();
    let from = now - SignedDuration::from_mins(i64::from(minutes));
    let mut runs = Vec::new();
    loop {
        let page = app
            .queue
            .list_flow_runs(FlowRunFilter {
                limit: ACTIVITY_PAGE,
                before: runs.last().map(|run: &FlowRun| run.flow_run_id),
                ..FlowRunFilter::default()
            })
            .await?;
        let is_last = page.len() < ACTIVITY_PAGE as usize;
        // What was queued before runs that all ended before that time has ended before it too, but for very long ones.
        let reaches_back = page.iter().all(|run| run.ended_at.is_some_and(|at| at < from));
        runs.extend(page);
        if is_last || reaches_back || runs.len() >= MAX_ACTIVITY {
            let is_partial = !is_last && !reaches_back;
            return Ok(Json(activity(&runs, minutes, now, is_partial)));
        }
    }
}

/// Stops or resumes claims, and sets how many runs there are at once.
pub(super) async fn change(State(app): State<Arc<App>>, Json(request): Json<PoolRequest>) -> Result<Json<Pool>, Fault> {
    if let Some(limit) = request.concurrency_limit {
        let range = LIMIT.range();
        if !range.contains(&u64::from(limit)) {
            return Err(OrchestratorError::InvalidArgument {
                argument: "concurrencyLimit".to_owned(),
                problem: format!("{limit} is not within {} and {}", range.start(), range.end()),
            }
            .into());
        }
        app.queue.set_concurrency_limit(limit).await?;
    }
    if let Some(is_paused) = request.is_paused {
        app.queue.set_paused(is_paused).await?;
    }
    Ok(Json(Pool::read(app.queue.as_ref()).await?))
}

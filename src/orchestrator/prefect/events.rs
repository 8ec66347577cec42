//! Events as Prefect's own client tells them: the server makes task runs and assets of them.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::journal::forwarding::RunContext;
use super::journal::mail::{AssetMessage, TaskRunMessage};
use crate::domain::id::FlowRunId;

/// That a run lives: as Prefect's own heartbeat, which Cloud looks for, and as ours. Runs of other programs are not spoken for: they
/// go on without their worker, and have heartbeats of their own.
pub(super) fn heartbeat_events(id: FlowRunId, context: &RunContext, alive: &str, occurred: Timestamp) -> Vec<Value> {
    let event = |name: &str| {
        json!({
            "id": Uuid::new_v4(),
            "occurred": occurred,
            "event": name,
            "resource": {
                "prefect.resource.id": format!("prefect.flow-run.{id}"),
                "prefect.resource.name": context.run_name,
            },
            "related": related(context),
            "payload": {},
        })
    };
    [alive, "prefect.flow-run.heartbeat"].map(event).to_vec()
}

/// What belongs to a run, as its events say it.
fn related(context: &RunContext) -> Vec<Value> {
    let mut related = vec![
        json!({
            "prefect.resource.id": format!("prefect.flow.{}", context.flow_id),
            "prefect.resource.role": "flow",
            "prefect.resource.name": context.flow_name,
        }),
        json!({
            "prefect.resource.id": format!("prefect.deployment.{}", context.deployment_id),
            "prefect.resource.role": "deployment",
            "prefect.resource.name": context.deployment_name,
        }),
    ];
    if let (Some(id), Some(name)) = (context.work_pool_id, &context.work_pool_name) {
        related.push(json!({
            "prefect.resource.id": format!("prefect.work-pool.{id}"),
            "prefect.resource.role": "work-pool",
            "prefect.resource.name": name,
        }));
    }
    related.extend(
        context
            .tags
            .iter()
            .take(20)
            .map(|tag| json!({ "prefect.resource.id": format!("prefect.tag.{tag}"), "prefect.resource.role": "tag" })),
    );
    related
}

fn related_run(id: FlowRunId, context: &RunContext) -> Value {
    json!({
        "prefect.resource.id": format!("prefect.flow-run.{id}"),
        "prefect.resource.role": "flow-run",
        "prefect.resource.name": context.run_name,
    })
}

/// A task run's state as Prefect's own client tells it: the server makes the row from the event.
pub(super) fn task_run_event(id: FlowRunId, context: &RunContext, task_run: &TaskRunMessage, token: Uuid) -> Value {
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let state_type = task_run.state.state_type();
    // Two states of one moment would be one row to the server, which then refuses every event of the batch for ever:
    // microseconds tell them apart, in the order of a task run's states.
    let order = i64::from(task_run.run_count.min(400)) * 2 + i64::from(state_type.is_final());
    let at = time(task_run.at_ms) + jiff::SignedDuration::from_micros(order);
    let inputs = match task_run.after {
        Some(before) => json!({ "after": [{ "input_type": "task_run", "id": before }] }),
        None => json!({}),
    };
    let state = json!({
        "type": state_type,
        "name": task_run.state.as_str(),
        "message": task_run.message,
        "state_details": { "flow_run_id": id, "task_run_id": task_run.id },
        "data": null,
        "timestamp": at,
    });
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of hours")]
    let seconds = task_run
        .ended_ms
        .unwrap_or(task_run.at_ms)
        .saturating_sub(task_run.started_ms) as f64
        / 1000.0;
    let mut related = related(context);
    related.insert(0, related_run(id, context));
    json!({
        "id": token,
        "occurred": at,
        "event": format!("prefect.task-run.{}", task_run.state.as_str()),
        "resource": {
            "prefect.resource.id": format!("prefect.task-run.{}", task_run.id),
            "prefect.resource.name": task_run.name,
            "prefect.run-count": task_run.run_count.to_string(),
            "prefect.state-message": task_run.message.clone().unwrap_or_default(),
            "prefect.state-type": state_type,
            "prefect.state-name": task_run.state.as_str(),
            "prefect.state-timestamp": at,
            "prefect.orchestration": "client",
        },
        "related": related,
        "payload": {
            "intended": { "from": null, "to": state_type },
            "initial_state": null,
            "validated_state": state,
            "task_run": {
                "name": task_run.name,
                "task_key": task_run.name,
                // One row an attempt.
                "dynamic_key": task_run.id,
                "tags": [],
                "task_inputs": inputs,
                "empirical_policy": {},
                "run_count": task_run.run_count,
                "flow_run_run_count": task_run.attempt,
                "start_time": time(task_run.started_ms),
                "end_time": task_run.ended_ms.map(time),
                "total_run_time": seconds.max(0.0),
            },
        },
    })
}

/// Keys of ours escape with `%`, which Prefect's keys may not hold.
fn asset_key(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '%' => '~',
            c if c.is_whitespace() || "#?&\"'<>[]{}|\\^`".contains(c) => '-',
            c => c,
        })
        .take(512)
        .collect()
}

pub(super) fn asset_events(id: FlowRunId, context: &RunContext, asset: &AssetMessage, token: Uuid) -> Vec<Value> {
    let occurred = Timestamp::from_millisecond(asset.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let event = |number: u128, name: &str, key: &str, more: Vec<Value>, payload: &Value| {
        let mut related_to = more;
        related_to.push(related_run(id, context));
        related_to.extend(related(context));
        // Each has an id that is the same when it is told again.
        json!({
            "id": Uuid::from_u128(token.as_u128() ^ number),
            "occurred": occurred,
            "event": name,
            "resource": { "prefect.resource.id": asset_key(key), "prefect.resource.name": asset_key(key) },
            "related": related_to,
            "payload": payload,
        })
    };
    let mut more: Vec<Value> = asset
        .upstream_keys
        .iter()
        .take(50)
        .map(|key| json!({ "prefect.resource.id": asset_key(key), "prefect.resource.role": "asset" }))
        .collect();
    more.push(json!({ "prefect.resource.id": "captionacc", "prefect.resource.role": "asset-materialized-by" }));
    let payload = match &asset.metadata {
        Value::Object(_) => asset.metadata.clone(),
        other => json!({ "metadata": other }),
    };
    let mut events = Vec::new();
    for (number, key) in asset.upstream_keys.iter().take(50).enumerate() {
        let number = number as u128 + 1;
        events.push(event(number, "prefect.asset.referenced", key, Vec::new(), &json!({})));
    }
    events.push(event(
        0,
        "prefect.asset.materialization.succeeded",
        &asset.key,
        more,
        &payload,
    ));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asset_key_is_one_that_prefect_takes() {
        assert_eq!(asset_key("video://a%20b"), "video://a~20b");
        assert_eq!(asset_key("models://x y?"), "models://x-y-");
    }
}

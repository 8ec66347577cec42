//! Puts what the server must hear into its outbox, in the transaction that it comes from.

use rusqlite::Transaction;
use serde_json::json;

use crate::domain::id::FlowRunId;
use crate::orchestrator::local::outbox::{News, Outbox};
use crate::orchestrator::local::rows::now_ms;
use crate::orchestrator::local::store::Fault;

/// The outbox of runs that were claimed from the server. Of others it hears nothing.
#[derive(Debug)]
pub(super) struct Posting;

impl Outbox for Posting {
    fn post(&self, transaction: &Transaction<'_>, run: FlowRunId, news: News<'_>) -> Result<(), Fault> {
        let run = run.to_string();
        let is_forwarded: bool = transaction
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM prefect_run WHERE flow_run_id = ?1)")?
            .query_row([&run], |row| row.get(0))?;
        if !is_forwarded {
            return Ok(());
        }
        let now = now_ms();
        let number = match news {
            // The server gave it the one, and knows the other.
            News::State => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, at, content)
                     SELECT id, 'state', ?2, json_object('name', state_name, 'message', state_message, 'due_ms', scheduled_at,
                       'failed_attempts', failed_attempts, 'pid', json_extract(child_process, '$.pid'))
                     FROM flow_run WHERE id = ?1 AND state_name NOT IN ('Pending', 'Cancelling')",
                )?
                .execute((&run, now)),
            News::TaskRun(id) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, at, content)
                     SELECT flow_run_id, 'task_run', ?3, json_object('id', id, 'name', name, 'attempt', attempt,
                       'run_count', run_count, 'state', state_name, 'message', message, 'at_ms', state_at,
                       'started_ms', started_at, 'ended_ms', ended_at,
                       'after', (SELECT id FROM task_run AS earlier WHERE earlier.flow_run_id = task_run.flow_run_id
                                   AND earlier.attempt = task_run.attempt AND earlier.rowid < task_run.rowid
                                 ORDER BY rowid DESC LIMIT 1))
                     FROM task_run WHERE id = ?2 AND flow_run_id = ?1",
                )?
                .execute((&run, id.to_string(), now)),
            News::Artifact(row) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, at, content)
                     SELECT flow_run_id, 'artifact', ?2, json_object('key', key, 'type', type, 'description', description,
                       'data', json(data), 'timestamp_ms', at)
                     FROM artifact WHERE id = ?1",
                )?
                .execute((row, now)),
            News::Asset(version) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, at, content)
                     SELECT ?1, 'asset', ?3, json_object('key', key, 'metadata', json(metadata), 'at_ms', at,
                       'version', version)
                     FROM asset_materialization WHERE version = ?2",
                )?
                .execute((&run, version, now)),
            News::Log(line) => transaction
                .prepare_cached("INSERT INTO outbox (flow_run_id, kind, at, content) VALUES (?1, 'log', ?2, ?3)")?
                .execute((
                    &run,
                    now,
                    json!({
                        "attempt": line.attempt, "level": line.level.as_str(), "message": line.message,
                        "timestamp_ms": line.timestamp.as_millisecond(),
                    })
                    .to_string(),
                )),
        }?;
        debug_assert!(number <= 1, "one message a piece of news");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use uuid::Uuid;

    use super::super::forwarding::{Forwarding, RunContext};
    use super::super::mail::{Mail, OutboxMessage};
    use super::*;
    use crate::domain::flow::Flows;
    use crate::domain::flow_run::LogLevel;
    use crate::domain::state::StateName;
    use crate::orchestrator::claims::{Claims, Ending, Record, log_line};
    use crate::orchestrator::local::LocalOrchestrator;
    use crate::orchestrator::queue::{NewFlowRun, Queue};
    use crate::process::identity::ProcessIdentity;

    #[tokio::test(flavor = "current_thread")]
    async fn the_server_hears_what_happens_here_and_not_what_it_said_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let opened = LocalOrchestrator::open_with(folder.path(), Some(Arc::new(Posting))).await;
        let local = Arc::new(opened.expect("opens"));
        let flow = Flows::builtin().get("full-frames").expect("built in").clone();
        let given = json!({
            "video-id": "v", "video-path": "/v/a.mp4", "db-path": "/d/v.db", "output-dir": "/o", "frame-rate": 0.1,
        });
        let arguments = flow
            .parse_arguments(given.as_object().expect("an object"), Path::new("/"))
            .expect("valid");
        let new = NewFlowRun::new(flow, arguments);
        let id = local
            .create_flow_run(new, Arc::default())
            .await
            .expect("queued")
            .flow_run_id;
        let run = local.read_flow_run(id).await.expect("read");
        let context = RunContext {
            run_name: "a-run".to_owned(),
            flow_id: Uuid::nil(),
            flow_name: run.flow_name.clone(),
            deployment_id: Uuid::nil(),
            deployment_name: "production".to_owned(),
            work_pool_id: None,
            work_pool_name: None,
            is_unnamed: false,
            tags: Vec::new(),
            concurrency_lease_id: None,
            claim: None,
            retries: None,
        };
        let (forwarding, mail) = (Forwarding::of(local.clone()), Mail::of(local.clone()));
        let claim = forwarding
            .adopt(run, false, context, "w".to_owned())
            .await
            .expect("ours");
        let lease = claim.lease;
        local.start(lease, ProcessIdentity::own()).await.expect("starts");
        let line = Record::Log(log_line(1, LogLevel::Info, "hello"));
        local.record(lease, vec![line]).await.expect("kept");
        let mirrored = forwarding
            .mirror(id, StateName::Cancelling, "stop".to_owned(), None)
            .await;
        assert!(mirrored.expect("noted"));
        let message = "stopped".to_owned();
        local.finish(lease, Ending::Cancelled { message }).await.expect("ends");
        let mut heard = Vec::new();
        loop {
            let next = mail.of_run(id).await.expect("read");
            let rows: Vec<_> = next.head.into_iter().chain(next.state).collect();
            if rows.is_empty() {
                break;
            }
            mail.told(rows.iter().map(|row| row.id).collect()).await.expect("told");
            heard.extend(rows.into_iter().map(|row| match row.message {
                OutboxMessage::State(state) => state.name.as_str().to_owned(),
                OutboxMessage::Labels(_) => "labels".to_owned(),
                OutboxMessage::Log(line) => line.message,
                other => format!("{other:?}"),
            }));
        }
        assert_eq!(heard, ["labels", "Running", "hello", "Cancelled"]);
    }
}

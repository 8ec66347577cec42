//! Puts what the server must hear into its outbox, in the transaction that it comes from.

use rusqlite::Transaction;
use serde_json::json;

use crate::domain::id::FlowRunId;
use crate::orchestrator::local::outbox::{News, Outbox};
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
        let number = match news {
            // The server gave it the one, and knows the other.
            News::State => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, content)
                     SELECT id, 'state', json_object('name', state_name, 'message', state_message, 'due_ms', scheduled_at,
                       'failed_attempts', failed_attempts, 'pid', json_extract(child_process, '$.pid'))
                     FROM flow_run WHERE id = ?1 AND state_name NOT IN ('Pending', 'Cancelling')",
                )?
                .execute([&run]),
            News::TaskRun(id) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, content)
                     SELECT flow_run_id, 'task_run', json_object('id', id, 'name', name, 'attempt', attempt,
                       'run_count', run_count, 'state', state_name, 'message', message, 'at_ms', state_at,
                       'started_ms', started_at, 'ended_ms', ended_at,
                       'after', (SELECT id FROM task_run AS earlier WHERE earlier.flow_run_id = task_run.flow_run_id
                                   AND earlier.attempt = task_run.attempt AND earlier.rowid < task_run.rowid
                                 ORDER BY rowid DESC LIMIT 1))
                     FROM task_run WHERE id = ?2 AND flow_run_id = ?1",
                )?
                .execute((&run, id.to_string())),
            News::Artifact(row) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, content)
                     SELECT flow_run_id, 'artifact', json_object('key', key, 'type', type, 'description', description,
                       'data', json(data), 'timestamp_ms', at)
                     FROM artifact WHERE id = ?1",
                )?
                .execute([row]),
            News::Asset(version) => transaction
                .prepare_cached(
                    "INSERT INTO outbox (flow_run_id, kind, content)
                     SELECT ?1, 'asset', json_object('key', key, 'metadata', json(metadata), 'at_ms', at,
                       'version', version)
                     FROM asset_materialization WHERE version = ?2",
                )?
                .execute((&run, version)),
            News::Log(line) => transaction
                .prepare_cached("INSERT INTO outbox (flow_run_id, kind, content) VALUES (?1, 'log', ?2)")?
                .execute((
                    &run,
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

//! What says that this worker is there: Prefect's own heartbeat of workers. A server calls a worker offline that has missed three
//! beats of the pace that it announced, so the pace is how soon people and other workers hear that a machine is lost. Quicker than
//! its runs say that they live: this decides what is shown, and who may end what is to be stopped; that, who takes over a run.

use std::sync::Arc;
use std::time::Duration;

use super::server::Server;

/// A beat costs a server one small write.
const LONGEST_PACE: Duration = Duration::from_secs(10);
/// A busy machine misses beats at a quicker one.
const SHORTEST_PACE: Duration = Duration::from_secs(2);

/// How often a worker says that it is there. Where calls are counted, as often as its runs do.
fn pace(lost_after: Duration, is_cloud: bool) -> Duration {
    if is_cloud {
        (lost_after / 3).max(SHORTEST_PACE)
    } else {
        (lost_after / 9).clamp(SHORTEST_PACE, LONGEST_PACE)
    }
}

/// Beats until it is dropped.
pub(super) async fn run(server: Arc<Server>, worker_name: String) {
    let settings = server.settings();
    if settings.runner_mode {
        return;
    }
    let pace = pace(settings.lost_after, settings.is_cloud);
    let mut beats = tokio::time::interval(pace);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let beat = server
            .client()
            .worker_heartbeat(&settings.work_pool, &worker_name, pace)
            .await;
        server.note(&beat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_beats_so_often_that_its_loss_is_known_well_before_its_runs_are_taken_over() {
        for (lost_after_s, is_cloud, expected_s) in [(90, false, 10), (8, false, 2), (600, false, 10), (90, true, 30)] {
            let pace = pace(Duration::from_secs(lost_after_s), is_cloud);
            assert_eq!(pace, Duration::from_secs(expected_s), "{lost_after_s}");
        }
    }
}

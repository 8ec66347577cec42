//! Several workers of one name, as containers of one service have it.

use captionacc::orchestrator::queue::WorkerRecord;

use crate::world::World;

#[test]
fn workers_of_one_name_are_seen_and_withdrawn_each_for_itself() {
    let world = World::new("");
    let workers = |number: usize| -> Vec<WorkerRecord> {
        let mut found = Vec::new();
        world.wait_until("as many are there", || {
            found = world.block_on(world.store.read_work_pool()).expect("a pool").workers;
            found.iter().filter(|worker| worker.is_alive).count() == number
        });
        assert!(found.iter().all(|worker| worker.name == "twin"), "{found:?}");
        found
    };
    let first = world.start_worker_with(&["--name", "twin"]);
    workers(1);
    let second = world.start_worker_with(&["--name", "twin"]);
    workers(2);
    first.stop();
    assert_eq!(workers(1)[0].process, second.identity);
    second.kill();
    let third = world.start_worker_with(&["--name", "twin"]);
    world.wait_until("the third is there", || workers(1)[0].process == third.identity);
    assert_eq!(workers(1).len(), 1, "nothing is left of the one that died");
    third.stop();
    workers(0);
}

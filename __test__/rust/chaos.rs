//! Deaths at random moments: worker, child or both are killed with -9 while both pipelines work on a real film.
//!
//! `CAPTIONACC_CHAOS_KILLS` sets how many deaths (200), `CAPTIONACC_CHAOS_SEED` repeats a run's choices; the seed is
//! printed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use captionacc::domain::flow_run::FlowRun;
use captionacc::domain::id::FlowRunId;
use captionacc::domain::state::{StateName, StateType};
use captionacc::process::identity::ProcessIdentity;
use rustix::process::Signal;

use crate::studio::{Studio, ocr_models};
use crate::world::{World, kill};

const DEFAULT_KILLS: u32 = 200;
const VIDEOS: usize = 4;
/// Runs that wait or run at any moment: more than the pool's limit.
const ACTIVE_RUNS: usize = 4;
/// The latest moment of a death after the last one; an attempt takes about as long.
const LATEST: Duration = Duration::from_millis(400);

/// Attempts after which a run is spared.
const UNLUCKY_ATTEMPTS: u32 = 15;

/// `SplitMix64` (Steele, Lea, Flood 2014): few lines, and the same on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).expect("small")).expect("small")
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Everything that is queued, and what the frames of a whole set are.
struct Chaos {
    world: World,
    studios: Vec<Studio>,
    chance: Chance,
    ids: BTreeSet<FlowRunId>,
    versions: Vec<i64>,
    notes: i64,
    whole: BTreeMap<&'static str, Vec<(i64, Vec<u8>)>>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        // A killed child is a crash, and no number of them ends these runs.
        let patient = "retries = 1000\nretry-delay-ms = 1\n";
        let world = World::with(
            &format!("[flows.full-frames]\n{patient}[flows.crop-frames]\n{patient}"),
            &[
                ("CAPTIONACC_OCR_MODELS", &ocr_models()),
                ("RUST_LOG", "warn,captionacc=info"),
            ],
        );
        let studios: Vec<_> = (0..VIDEOS)
            .map(|number| Studio::new(&world.path("videos"), &format!("v{number}")))
            .collect();
        Self {
            world,
            chance: Chance(seed),
            ids: BTreeSet::new(),
            versions: vec![0; studios.len()],
            studios,
            notes: 0,
            whole: BTreeMap::new(),
        }
    }

    fn queue(&mut self, video: usize, is_crop: bool) {
        let studio = &self.studios[video];
        let id = if is_crop {
            self.versions[video] += 1;
            self.world
                .queue("crop-frames", studio.crop_frames(self.versions[video]))
        } else {
            self.world.queue("full-frames", studio.full_frames())
        };
        self.ids.insert(id);
    }

    /// Undisturbed runs say what a whole set is.
    fn learn(&mut self) {
        let worker = self.world.start_worker();
        self.queue(0, true);
        self.queue(0, false);
        for id in self.ids.clone() {
            self.world.wait_for(id, StateName::Completed);
        }
        worker.stop();
        for (table, count) in [("cropped_frames", 20), ("full_frames", 2)] {
            let frames = self.studios[0].frames(table);
            assert_eq!(frames.len(), count, "{table}");
            self.whole.insert(table, frames);
        }
    }

    fn active(&self) -> Vec<FlowRun> {
        let runs = self.world.runs();
        runs.into_iter()
            .filter(|run| !run.state.state_type.is_final())
            .collect()
    }

    /// A run that was interrupted 20 times is taken for the cause and given up. Deaths come so often here, on a slow
    /// machine, that one which comes near it is left to end in peace.
    fn spare_the_unlucky(&self) {
        for run in self.active().iter().filter(|run| run.attempt >= UNLUCKY_ATTEMPTS) {
            let has_ended = || self.world.run(run.flow_run_id).state.state_type.is_final();
            self.world.wait_until("an unlucky run has ended", has_ended);
        }
    }

    /// Keeps the queue filled. One run in four takes the place of an older one that has not ended.
    fn fill(&mut self) {
        self.spare_the_unlucky();
        let mut missing = ACTIVE_RUNS.saturating_sub(self.active().len());
        if self.chance.below(4) == 0 {
            missing += 1;
        }
        for _ in 0..missing {
            let video = self.chance.below(VIDEOS);
            let is_crop = self.chance.below(3) > 0;
            self.queue(video, is_crop);
        }
    }

    fn wait_for_a_moment(&mut self) {
        let micros = u64::try_from(LATEST.as_micros()).expect("small");
        let moment = Instant::now() + Duration::from_micros(self.chance.next() % micros);
        while let Some(left) = moment.checked_duration_since(Instant::now()) {
            self.world.block_on(self.world.store.wait_for_work(left));
        }
    }

    fn children(&self) -> Vec<u32> {
        let active = self.active();
        active
            .iter()
            .flat_map(|run| self.world.processes_of(run.flow_run_id))
            .collect()
    }

    /// What the app sees at any moment: old set or new set, and its own rows.
    fn check(&mut self) {
        self.notes += 1;
        for studio in &self.studios {
            studio
                .app
                .execute(
                    "INSERT INTO captions (start_frame_index, end_frame_index, text) VALUES (?1, ?1, 'note')",
                    [1000 + self.notes],
                )
                .expect("no run holds the lock for long");
            for (table, whole) in &self.whole {
                let frames = studio.frames(table);
                assert!(
                    frames.is_empty() || frames == *whole,
                    "{table} of {} is a mixture: {:?}",
                    studio.id,
                    frames.iter().map(|(index, _)| index).collect::<Vec<_>>()
                );
            }
            let versions: i64 = studio.value("SELECT count(DISTINCT crop_bounds_version) FROM cropped_frames");
            assert!(versions <= 1, "{}", studio.id);
        }
    }

    /// After the last death: everything that was queued has come to its one end.
    fn conclude(&mut self) {
        let (world, studios) = (&self.world, &self.studios);
        world.wait_until("every run has ended", || self.active().is_empty());
        world.wait_until("every status row is up to date", || {
            world.block_on(world.store.status_rows_due()).expect("reads").is_empty()
        });
        let runs = world.runs();
        let known: BTreeSet<_> = runs.iter().map(|run| run.flow_run_id).collect();
        assert_eq!(known, self.ids, "none is lost, none came from nowhere");
        for run in &runs {
            let completed = world
                .states(run.flow_run_id)
                .into_iter()
                .filter(|state| *state == StateName::Completed)
                .count();
            let is_superseded = run.superseded_by.is_some() && run.state.state_type == StateType::Cancelled;
            assert!(
                completed == 1 || (completed == 0 && is_superseded),
                "{:?} {run:?}",
                world.states(run.flow_run_id)
            );
            assert_eq!(world.processes_of(run.flow_run_id), Vec::<u32>::new());
        }
        let pool = world.block_on(world.store.read_work_pool()).expect("a pool");
        assert_eq!(pool.active, 0, "no slot leaks");
        for (video, studio) in studios.iter().enumerate() {
            assert!(studio.is_sound(), "{}", studio.id);
            let left: Vec<_> = studio.files().into_iter().filter(|name| name != "video.mp4").collect();
            assert_eq!(left, ["annotations.db"], "{}", studio.id);
            let notes: i64 = studio.value("SELECT count(*) FROM captions WHERE text = 'note'");
            assert_eq!(notes, self.notes, "nothing of the app's is lost");
            let ran = |flow: &str| {
                runs.iter()
                    .any(|run| run.flow_name == flow && run.video_id.as_ref() == Some(&studio.id))
            };
            if ran("full-frames") {
                assert_eq!(studio.frames("full_frames"), self.whole["full_frames"]);
                // The clip has no text.
                let expected = ("error".to_owned(), None, Some("No text detected".to_owned()));
                assert_eq!(studio.processing(), expected);
            }
            if ran("crop-frames") {
                assert_eq!(studio.frames("cropped_frames"), self.whole["cropped_frames"]);
                assert_eq!(studio.cropping(), ("complete".to_owned(), None, None));
                let version: i64 = studio.value("SELECT max(crop_bounds_version) FROM cropped_frames");
                assert_eq!(version, self.versions[video], "the latest wins");
            }
        }
    }
}

#[test]
fn no_death_at_any_moment_loses_doubles_or_halves_a_run() {
    let kills = number("CAPTIONACC_CHAOS_KILLS").map_or(DEFAULT_KILLS, |kills| u32::try_from(kills).expect("a number"));
    let seed = number("CAPTIONACC_CHAOS_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    println!("CAPTIONACC_CHAOS_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    chaos.learn();
    let mut worker = chaos.world.start_worker();
    let mut killed: BTreeMap<&str, u32> = BTreeMap::new();
    while killed.values().sum::<u32>() < kills {
        chaos.fill();
        chaos.wait_for_a_moment();
        let children = chaos.children();
        let whom = match chaos.chance.below(3) {
            0 if !children.is_empty() => "child",
            1 if !children.is_empty() => "both",
            _ => "worker",
        };
        let is_worker = whom != "child";
        if is_worker {
            worker.signal(Signal::KILL);
        }
        if whom != "worker" {
            let only = (whom == "child").then(|| children[chaos.chance.below(children.len())]);
            for pid in children.iter().filter(|pid| only.is_none_or(|only| only == **pid)) {
                // What has ended since is not hit.
                if ProcessIdentity::of(*pid).is_some() {
                    kill(*pid, Signal::KILL);
                }
            }
        }
        *killed.entry(whom).or_default() += 1;
        if is_worker {
            worker.wait();
            worker = chaos.world.start_worker();
        }
        chaos.check();
    }
    println!("killed: {killed:?}, runs: {}", chaos.ids.len());
    chaos.conclude();
    worker.stop();
}

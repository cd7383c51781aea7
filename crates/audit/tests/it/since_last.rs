//! Audits that begin where the last one ended, and audits that go on where one was stopped.

use crate::world::{Data, World, different};
use audit::{Notebook, Plan, Progress, Report, Scope};
use domain::{amount::Tokens, event::UsageEvent, ids::Shard, rollup};
use std::{collections::BTreeMap, fs, path::Path, sync::Mutex};
use tempfile::TempDir;

struct Auditor {
    world: World,
    folder: TempDir,
}

impl Auditor {
    fn of(world: World) -> Self {
        Self { world, folder: tempfile::tempdir().unwrap() }
    }

    fn notes(&self) -> &Path {
        self.folder.path()
    }

    fn plan(&self) -> Plan {
        Plan { notes: Some(Notebook::at(self.notes().join("notes"))), since_last: true, ..Plan::default() }
    }

    async fn since_last(&self) -> Report {
        self.world.audit_as(&self.plan()).await.unwrap()
    }

    fn go_on(&self, steps: usize) {
        let mut data = self.world.data();
        data.traffic(steps);
        Shard::all().for_each(|shard| data.catch_up(shard));
    }
}

/// What each shard was proved through.
fn proved(report: &Report) -> BTreeMap<u8, (i64, &str)> {
    report.shards.iter().map(|shard| (shard.shard, (shard.through, shard.digest.as_str()))).collect()
}

#[tokio::test]
async fn an_audit_since_the_last_one_folds_only_what_is_new_and_comes_to_the_same() {
    for seed in 0..8 {
        let auditor = Auditor::of(World::after(seed, 400));
        let first = auditor.since_last().await;
        assert!(first.clean && first.shards.iter().all(|shard| shard.proved_before.is_none()), "{:?}", different(&first));
        let mut before: BTreeMap<u8, i64> = first.shards.iter().map(|shard| (shard.shard, shard.through)).collect();
        for _ in 0..4 {
            auditor.world.data().traffic(120);
            let report = auditor.since_last().await;
            let whole = auditor.world.audit(Scope::default()).await;
            assert_eq!(different(&report), BTreeMap::new().into_iter().collect(), "seed {seed}: {:#?}", report.invariants);
            assert_eq!(proved(&report), proved(&whole));
            assert_eq!((report.checked_events, report.totals), (whole.checked_events, whole.totals));
            for shard in &report.shards {
                assert_eq!(shard.proved_before, before.get(&shard.shard).copied());
                before.insert(shard.shard, shard.through);
            }
        }
    }
}

#[tokio::test]
async fn live_traffic_is_no_difference_to_an_audit_since_the_last_one() {
    for seed in 0..20 {
        let auditor = Auditor::of(World::after(seed, 300));
        auditor.world.data().steps_per_read = usize::try_from(seed % 4 + 1).unwrap();
        for _ in 0..4 {
            let report = auditor.since_last().await;
            assert!(report.clean, "seed {seed}: {:#?}", report.invariants);
        }
    }
}

/// Makes the event another one in the outbox, the log, the raw events, the charge and the totals: nothing contradicts anything.
fn rewrite(data: &mut Data, event: &UsageEvent) {
    let mut other = event.clone();
    other.event.metadata.insert("note".into(), "rewritten".into());
    let payload = event_codec::encode(&other).unwrap();
    let shard = data.shard(event.shard());
    shard.rows.iter_mut().find(|row| row.seq == event.seq).unwrap().payload.clone_from(&payload);
    for record in shard.log.iter_mut().filter(|record| record.seq == Some(event.seq)) {
        record.value = event_codec::frame(&payload);
    }
    let id = event.event.charge_id.unwrap();
    shard.state.charges.get_mut(&id).unwrap().spec.metadata.clone_from(&other.event.metadata);
    for (_, outcome) in data.answers.iter_mut().filter(|(charge, _)| *charge == id) {
        let domain::ledger::Outcome::Charged { charge, .. } = outcome else { continue };
        charge.spec.metadata.clone_from(&other.event.metadata);
    }
    *data.shard(event.shard()).raw.iter_mut().find(|row| row.seq == event.seq).unwrap() = other;
}

#[tokio::test]
async fn a_history_that_was_rewritten_everywhere_at_once_is_known_by_what_was_proved_before() {
    let auditor = Auditor::of(World::settled(42, 900));
    assert!(auditor.since_last().await.clean);
    auditor.go_on(100);
    // A consume: its story is one event.
    let event = auditor.world.data().middle_event();
    rewrite(&mut auditor.world.data(), &event);
    assert!(auditor.world.audit(Scope::default()).await.clean, "no two stores contradict each other");
    for _ in 0..2 {
        let report = auditor.since_last().await;
        assert_eq!(different(&report), [("I3".to_owned(), 1)].into());
        let [difference] = &report.invariants[2].differences[..] else { panic!("{:#?}", report.invariants[2]) };
        assert_eq!((difference.event_id, difference.seq), (Some(event.event.id), Some(event.seq)));
        assert!(difference.expected.starts_with("the bytes that were proved at 2026-11-2") && difference.found == "other bytes");
    }
}

type Corruption = (&'static str, fn(&mut Data, &UsageEvent));

/// One thing each, in the part that was proved before.
const CORRUPTIONS: [Corruption; 7] = [
    ("I3", |data, event| {
        let row = data.shard(event.shard()).rows.iter_mut().find(|row| row.seq == event.seq).unwrap();
        *row.payload.last_mut().unwrap() ^= 1;
    }),
    ("I4", |data, event| {
        let record = data.shard(event.shard()).log.iter_mut().find(|record| record.seq == Some(event.seq)).unwrap();
        *record.value.last_mut().unwrap() ^= 1;
    }),
    ("I5", |data, event| {
        let row = data.shard(event.shard()).raw.iter_mut().find(|row| row.seq == event.seq).unwrap();
        row.event.tokens = Tokens::new(row.event.tokens.get() ^ 1).unwrap();
    }),
    ("I5", |data, event| data.shard(event.shard()).raw.retain(|row| row.seq != event.seq)),
    ("I5", |data, event| data.shard(event.shard()).unreadable.push(event.event.id)),
    ("I8", |data, event| {
        let key = rollup::cells(event).remove(0);
        data.cells.get_mut(&key).unwrap().tokens ^= 1;
    }),
    ("I2", |data, event| {
        let charge = data.shard(event.shard()).state.charges.get_mut(&event.event.charge_id.unwrap()).unwrap();
        charge.settled = Tokens::new(charge.settled.get() ^ 1).unwrap();
    }),
];

#[tokio::test]
async fn what_differs_in_the_proved_part_is_named_as_exactly_as_by_a_whole_audit() {
    for (id, corrupt) in CORRUPTIONS {
        let auditor = Auditor::of(World::settled(42, 700));
        assert!(auditor.since_last().await.clean);
        auditor.go_on(60);
        let event = auditor.world.data().middle_event();
        corrupt(&mut auditor.world.data(), &event);
        let report = auditor.since_last().await;
        let invariant = report.invariants.iter().find(|invariant| invariant.id == id).unwrap();
        let first = invariant.differences.first().unwrap_or_else(|| panic!("{id}: {:?}", different(&report)));
        assert_eq!(first.shard, event.shard().index(), "{id}: {first:#?}");
        if id != "I8" {
            assert_eq!((first.event_id, first.seq), (Some(event.event.id), Some(event.seq)), "{id}: {first:#?}");
        }
        let whole = auditor.world.audit(Scope::default()).await;
        let beyond_i3 = |report: &Report| different(report).into_iter().filter(|(id, _)| id != "I3").collect::<BTreeMap<_, _>>();
        assert_eq!(beyond_i3(&report), beyond_i3(&whole));
    }
}

#[tokio::test]
async fn rows_that_are_gone_since_they_were_proved_are_named() {
    let auditor = Auditor::of(World::settled(42, 700));
    assert!(auditor.since_last().await.clean);
    let event = auditor.world.data().middle_event();
    {
        // As a database that was restored to an earlier moment, all the others with it.
        let mut data = auditor.world.data();
        let shard = data.shard(event.shard());
        let lost = shard.rows.pop().unwrap();
        (shard.last_seq, shard.published_through) = (lost.seq - 1, lost.seq - 1);
        shard.log.retain(|record| record.seq != Some(lost.seq));
    }
    let report = auditor.since_last().await;
    let gone = report.invariants[2].differences.iter().find(|difference| difference.found.starts_with("none")).unwrap();
    let last = auditor.world.data().shard(event.shard()).last_seq;
    assert_eq!((gone.shard, gone.seq), (event.shard().index(), Some(last + 1)));
}

#[tokio::test]
async fn a_checkpoint_that_was_damaged_is_not_believed() {
    let auditor = Auditor::of(World::settled(42, 300));
    let first = auditor.since_last().await;
    let files = || fs::read_dir(auditor.notes().join("notes")).unwrap().map(|file| file.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files().len(), first.shards.len(), "a checkpoint for each shard with events, and no other note");
    for (number, file) in files().into_iter().enumerate() {
        let mut bytes = fs::read(&file).unwrap();
        match number % 2 {
            0 => *bytes.last_mut().unwrap() ^= 1,
            _ => bytes.truncate(bytes.len() / 2),
        }
        fs::write(&file, bytes).unwrap();
    }
    let report = auditor.since_last().await;
    assert!(report.clean && report.shards.iter().all(|shard| shard.proved_before.is_none()));
    let report = auditor.since_last().await;
    assert!(report.clean && report.shards.iter().all(|shard| shard.proved_before == Some(shard.through)));
}

#[tokio::test]
async fn an_audit_that_was_stopped_goes_on_with_the_next_shard() {
    let auditor = Auditor::of(World::settled(42, 600));
    let event = auditor.world.data().middle_event();
    auditor.world.data().shard(event.shard()).raw.retain(|row| row.seq != event.seq);
    let notes = Some(Notebook::at(auditor.notes().join("notes")));
    let plan = Plan { notes: notes.clone(), ..Plan::default() };
    let stopped_after = usize::from(event.shard().index()) + 1;
    auditor.world.data().snapshots_left = stopped_after;
    auditor.world.audit_as(&plan).await.unwrap_err();
    auditor.world.data().snapshots_left = usize::MAX;

    let begun_at = |resume: Plan| {
        let world = auditor.world.clone();
        async move {
            let first = Mutex::new(None);
            let note = |progress| {
                if let Progress::Shards { done, .. } = progress {
                    first.lock().unwrap().get_or_insert(done);
                }
            };
            let report = audit::run_plan(&world.stores().await, &resume, &note).await.unwrap();
            let done = first.lock().unwrap().take();
            (done, report)
        }
    };
    let resume = Plan { resume: true, ..plan };
    let of_user = Scope { user: Some(domain::ids::UserId(uuid::Uuid::from_u128(1))), ..Scope::default() };
    let (begun, _) = begun_at(Plan { notes: None, scope: of_user, ..resume.clone() }).await;
    assert_eq!(begun, Some(0), "another scope is another audit");
    let (begun, report) = begun_at(resume.clone()).await;
    assert_eq!(begun, Some(stopped_after));
    let whole = auditor.world.audit(Scope::default()).await;
    assert_eq!(Report { made_at: whole.made_at, ..report }, whole, "what was found before the stop is in the report");
    assert!(!whole.clean);
    let (begun, _) = begun_at(resume).await;
    assert_eq!(begun, Some(0), "an audit that has ended is not resumed");
    assert!(!auditor.notes().join("notes").exists(), "nothing is left of it");
}

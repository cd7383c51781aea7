//! A statement says what reports say, and that its events prove it, or which line they do not.

use crate::world::{World, payers};
use audit::{Figures, Statement, Wanted};
use chrono::NaiveDate;
use domain::{
    ids::{OrgId, Payer},
    rollup::{CellKey, Dimension, RollupScope},
    time::Grain,
};

fn org() -> OrgId {
    let Payer::Org(org) = payers()[3] else { panic!("the fourth payer is an org") };
    org
}

async fn statement(world: &World, expanded: bool) -> Statement {
    let month = NaiveDate::from_ymd_opt(2026, 11, 1).unwrap();
    audit::statement(world, &Wanted { org: org(), month, expanded }).await.unwrap()
}

fn of_line(key: &CellKey) -> bool {
    key.scope == RollupScope::Tenant(org().0) && key.grain == Grain::Day && key.dimension.0.starts_with(Dimension::MODEL)
}

fn sum<'a>(figures: impl Iterator<Item = &'a Figures>) -> [i64; 6] {
    let numbers = |of: &Figures| [of.tokens_gross, of.tokens_refunded, of.tokens_net, of.requests, of.denied, of.cost_minor_units];
    figures.map(numbers).fold([0; 6], |sums, more| std::array::from_fn(|index| sums[index] + more[index]))
}

#[tokio::test]
async fn each_line_is_a_total_of_reports_and_the_sum_of_its_events_also_beside_live_traffic() {
    for seed in 0..10 {
        let world = World::after(seed, 600);
        world.data().steps_per_read = usize::from(seed % 2 == 1) * 3;
        let made = statement(&world, true).await;
        assert!(made.proved && made.differences.is_empty() && made.lines.len() > 1, "seed {seed}: {:#?}", made.differences);
        for line in &made.lines {
            assert_eq!(sum(line.events.iter().flatten().map(|event| &event.figures)), sum([&line.figures].into_iter()));
        }
        assert_eq!(sum(made.lines.iter().map(|line| &line.figures)), sum([&made.totals].into_iter()));
        let plain = statement(&world, false).await;
        assert!(plain.lines.iter().all(|line| line.events.is_none()));
    }
    let world = World::settled(7, 600);
    let made = statement(&world, false).await;
    let data = world.data();
    let cells: Vec<_> = data.cells.iter().filter(|(key, _)| of_line(key)).map(|(_, cell)| cell).collect();
    assert_eq!(made.lines.len(), cells.len());
    assert_eq!(made.totals.tokens_gross, cells.iter().map(|cell| cell.tokens).sum::<i64>());
    assert_eq!(made.totals.tokens_refunded, cells.iter().map(|cell| cell.refunded).sum::<i64>());
    assert!(made.totals.tokens_refunded > 0 && made.currency.is_some());
}

#[tokio::test]
async fn a_line_that_its_events_do_not_prove_is_named() {
    let sound = World::settled(7, 600);
    let key = sound.data().cells.keys().find(|key| of_line(key)).unwrap().clone();
    let day = key.bucket.date_naive();
    for damage in 0..3 {
        let world = World::settled(7, 600);
        let key = world.data().cells.keys().find(|key| of_line(key)).unwrap().clone();
        {
            let mut data = world.data();
            let raw = &mut data.shard(key.shard).raw;
            let of_line = |event: &domain::event::UsageEvent| domain::rollup::cells(event).contains(&key);
            match damage {
                0 => {
                    let index = raw.iter().position(of_line).unwrap();
                    raw.remove(index);
                }
                1 => data.cells.get_mut(&key).unwrap().requests += 1,
                _ => drop(data.cells.remove(&key)),
            }
        }
        let made = statement(&world, false).await;
        let [difference] = &made.differences[..] else { panic!("{damage}: {:#?}", made.differences) };
        assert!(!made.proved && difference.subject.starts_with(&format!("line of {day} at ")), "{damage}: {difference:#?}");
        assert!(difference.event_id.is_some() && difference.expected != difference.found);
    }
}

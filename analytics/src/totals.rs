//! Exact totals of windows, summed from the rollups.

use crate::windows::{Window, merged};
use domain::{
    ids::Provider,
    rollup::{CellKey, CellValue, Dimension, Part, RollupScope},
    time::Grain,
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use ports::{
    Result,
    usage_store::{Generation, UsageStore},
};
use std::collections::{BTreeMap, BTreeSet};

/// Reads under way at once for one query; a platform report asks 64 shards, one by user each payer of the time.
const READS_IN_FLIGHT: usize = 32;

/// Sums by window and dimension.
pub type Sums = BTreeMap<(usize, Dimension), CellValue>;

type Cells = Vec<(CellKey, CellValue)>;

/// Minor units of the installation's currency; where nothing has a price nothing is said about money.
pub fn cost_of(value: &CellValue) -> Option<i64> {
    Some(value.cost_minor_units).filter(|cost| *cost != 0)
}

pub struct Totals<'a> {
    pub store: &'a dyn UsageStore,
    pub generation: Generation,
    pub scopes: Vec<RollupScope>,
}

impl<'a> Totals<'a> {
    /// The same usage where it is told by user: the platform's own totals are not, those of its payers are.
    pub async fn by_payer(&self, windows: &[Window], provider: &Provider) -> Result<Self> {
        let mut scopes = self.scopes.clone();
        let platform = scopes.iter().any(|scope| matches!(scope, RollupScope::Platform(_)));
        if let (true, Some(first), Some(last)) = (platform, windows.first(), windows.last()) {
            let days = Window { from: Grain::Day.floor(first.from), to: Grain::Day.ceil(last.to) };
            let cells = self.read(&[days], Dimension::PAYER).await?;
            let payer = |dimension: &Dimension| match dimension.part()? {
                Part::Payer { tenant, provider: with } if with == provider.as_str() => Some(RollupScope::Tenant(tenant)),
                _ => None,
            };
            let payers: BTreeSet<RollupScope> = cells.keys().filter_map(|(_, dimension)| payer(dimension)).collect();
            scopes = payers.into_iter().collect();
        }
        Ok(Self { store: self.store, generation: self.generation, scopes })
    }

    /// Of every dimension that begins with the prefix. The windows are in order and do not overlap.
    pub async fn read(&self, windows: &[Window], prefix: &str) -> Result<Sums> {
        let mut reads: Vec<BoxFuture<'_, Result<Cells>>> = Vec::new();
        for segment in merged(windows) {
            for scope in &self.scopes {
                reads.push(self.store.cells(self.generation, scope, segment.grain, segment.from, segment.to, prefix).boxed());
            }
        }
        let cells: Vec<Cells> = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT).try_collect().await?;
        let mut sums = Sums::new();
        for (key, value) in cells.into_iter().flatten() {
            // Each bucket that was read lies inside one window.
            let window = windows.partition_point(|window| window.from <= key.bucket).saturating_sub(1);
            sums.entry((window, key.dimension)).or_default().add(&value);
        }
        Ok(sums)
    }

    /// One dimension, one value per window.
    pub async fn series(&self, windows: &[Window], dimension: &Dimension) -> Result<Vec<CellValue>> {
        self.sum(windows, &dimension.0, |found| found == dimension).await
    }

    /// All dimensions that begin with the prefix together, one value per window.
    pub async fn series_of_all(&self, windows: &[Window], prefix: &str) -> Result<Vec<CellValue>> {
        self.sum(windows, prefix, |_| true).await
    }

    async fn sum(&self, windows: &[Window], prefix: &str, counts: impl Fn(&Dimension) -> bool) -> Result<Vec<CellValue>> {
        let mut series = vec![CellValue::default(); windows.len()];
        for ((window, dimension), value) in self.read(windows, prefix).await? {
            if let Some(sum) = series.get_mut(window).filter(|_| counts(&dimension)) {
                sum.add(&value);
            }
        }
        Ok(series)
    }
}

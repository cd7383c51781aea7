//! I6: the same usage counted two ways is the same: in each bucket the users of a provider add up to its models, on the whole platform the
//! payers of a day.

use crate::{picture::Picture, report::Findings};
use chrono::{DateTime, Utc};
use domain::{
    rollup::{CellKey, CellValue, Part, RollupScope},
    time::Grain,
};
use std::collections::BTreeMap;

/// What the models of one provider add up to, and what its users or payers do.
#[derive(Default)]
struct Sums {
    models: CellValue,
    consumers: CellValue,
}

/// Compares the cells of one partition. A bucket that is being written is left alone: its cells do not all stand at the same event.
pub(crate) fn check(picture: &Picture, stored: &[(CellKey, CellValue)], findings: &mut Findings) {
    let mut sums: BTreeMap<(DateTime<Utc>, &str), Sums> = BTreeMap::new();
    for (key, cell) in stored {
        match key.dimension.part() {
            Some(Part::Model { provider, .. }) => sums.entry((key.bucket, provider)).or_default().models.add(cell),
            Some(Part::User { provider, .. } | Part::Payer { provider, .. }) => {
                sums.entry((key.bucket, provider)).or_default().consumers.add(cell);
            }
            None => {}
        }
    }
    let Some((first, _)) = stored.first() else { return };
    let consumers = match first.scope {
        RollupScope::Tenant(_) => "users",
        RollupScope::Platform(_) if first.grain == Grain::Day => "payers",
        // Only models there.
        RollupScope::Platform(_) => return,
    };
    for ((bucket, provider), sum) in sums {
        let last_seq = sum.models.last_seq.max(sum.consumers.last_seq);
        if last_seq > picture.applied.last_seq {
            continue;
        }
        findings.checked(1);
        if sum.models != sum.consumers {
            let at = bucket.format("%Y-%m-%dT%H:%MZ");
            let subject = format!("{consumers} of {}/{}/{at} at {provider:?}", first.scope.as_text(), first.grain.as_str());
            findings.report(picture.at(Some(last_seq), &subject).values(brief(sum.models), brief(sum.consumers)));
        }
    }
}

fn brief(cell: CellValue) -> String {
    let CellValue { tokens, requests, denied, refunded, cost_minor_units, .. } = cell;
    format!("tokens {tokens}, requests {requests}, denied {denied}, refunded {refunded}, cost {cost_minor_units}")
}

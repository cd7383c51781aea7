//! I6: the same usage counted two ways is the same: in each bucket the users of a provider add up to its models.

use crate::{picture::Picture, report::Findings};
use chrono::{DateTime, Utc};
use domain::rollup::{CellKey, CellValue, Part};
use std::collections::BTreeMap;

/// What the models of one provider and what its users add up to.
#[derive(Default)]
struct Sums {
    models: CellValue,
    users: CellValue,
}

/// Compares the cells of one partition. A bucket that is being written is left alone: its cells do not all stand at the same event.
pub(crate) fn check(picture: &Picture, stored: &[(CellKey, CellValue)], findings: &mut Findings) {
    let mut sums: BTreeMap<(DateTime<Utc>, &str), Sums> = BTreeMap::new();
    for (key, cell) in stored {
        match key.dimension.part() {
            Some(Part::Model { provider, .. }) => sums.entry((key.bucket, provider)).or_default().models.add(cell),
            Some(Part::User { provider, .. }) => sums.entry((key.bucket, provider)).or_default().users.add(cell),
            Some(Part::Key(_)) | None => {}
        }
    }
    let Some((first, _)) = stored.first() else { return };
    for ((bucket, provider), Sums { models, users }) in sums {
        let last_seq = models.last_seq.max(users.last_seq);
        if last_seq > picture.applied.last_seq {
            continue;
        }
        findings.checked(1);
        if models != users {
            let at = bucket.format("%Y-%m-%dT%H:%MZ");
            let subject = format!("users of {}/{}/{at} at {provider:?}", first.scope.as_text(), first.grain.as_str());
            findings.report(picture.at(Some(last_seq), &subject).values(brief(models), brief(users)));
        }
    }
}

fn brief(cell: CellValue) -> String {
    let CellValue { tokens, requests, denied, refunded, cost_minor_units, .. } = cell;
    format!("tokens {tokens}, requests {requests}, denied {denied}, refunded {refunded}, cost {cost_minor_units}")
}

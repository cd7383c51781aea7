//! I7: what was accepted is applied or still on its way, and what counts as applied is exactly the events up to the watermark.

use crate::{
    picture::Picture,
    report::{Findings, Totals},
};
use domain::rollup::digest;

/// `proved_digest` is the sum of digests of what was proved before.
pub(crate) fn check(picture: &Picture, proved_digest: u64, findings: &mut Findings, totals: &mut Totals) {
    let (accepted, applied) = (picture.snapshot.last_seq, picture.applied.last_seq);
    findings.checked(1);
    totals.accepted += accepted;
    totals.applied += applied;
    totals.pending += (accepted - applied).max(0);
    if !(0..=accepted).contains(&applied) {
        let difference = picture.at(Some(applied), "watermark of the shard");
        return findings.report(difference.values(format!("at most {accepted}, the newest number given"), applied));
    }
    let newer = picture.snapshot.events.iter().filter(|row| row.seq <= applied).count();
    let present = picture.proved.saturating_add(i64::try_from(newer).unwrap_or(i64::MAX));
    let sum = picture.events().take_while(|event| event.seq <= applied).map(digest).fold(proved_digest, u64::wrapping_add);
    if present != applied {
        let first = first_missing(picture).min(applied);
        let difference = picture.at(Some(first), "events up to the watermark");
        findings.report(difference.values(format!("{applied} applied"), format!("{present} accepted")));
    } else if sum != picture.applied.digest {
        let difference = picture.at(Some(applied), "digest of the applied events");
        findings.report(difference.values(format!("{sum:016x}"), format!("{:016x}", picture.applied.digest)));
    }
}

fn first_missing(picture: &Picture) -> i64 {
    let numbered = (picture.proved + 1..).zip(&picture.snapshot.events);
    let gap = numbered.clone().find(|(expected, row)| row.seq != *expected).map(|(expected, _)| expected);
    gap.unwrap_or_else(|| picture.snapshot.events.last().map_or(picture.proved + 1, |row| row.seq + 1))
}

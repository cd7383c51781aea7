//! A report for people.

use crate::out;
use audit::{Compared, Difference, Invariant, Report, Scope};
use chrono::{DateTime, SecondsFormat, Utc};

pub fn report(report: &Report) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["", "invariant", "checked", "different"]);
    for invariant in &report.invariants {
        let Invariant { id, name, checked, different, .. } = invariant;
        table.add_row([id.clone(), name.clone(), checked.to_string(), different.to_string()]);
    }
    out!("{table}");
    let totals = &report.totals;
    out!(
        "accepted {}, applied {}, pending {}; foreign records set aside: {}",
        totals.accepted,
        totals.applied,
        totals.pending,
        totals.dead_letters
    );
    let since: i64 = report.shards.iter().filter_map(|shard: &Compared| shard.proved_before).sum();
    if since > 0 {
        out!("{since} events were proved before and have not changed");
    }
    for invariant in report.invariants.iter().filter(|invariant| invariant.different > 0) {
        if let Some(difference) = invariant.differences.first() {
            out!("\n{} first differs at {}", invariant.id, place(difference));
            out!("  {}", difference.subject);
            out!("  expected  {}\n  found     {}", difference.expected, difference.found);
        }
    }
    out!("\n{}", verdict(report));
}

/// For example `clean: 120 events checked, of everything, 2026-11-21T12:00:00Z`.
pub fn verdict(report: &Report) -> String {
    let verdict = if report.clean { "clean" } else { "different" };
    let at = instant(report.made_at);
    format!("{verdict}: {} events checked, of {}, {at}", report.checked_events, scope(&report.scope))
}

fn scope(scope: &Scope) -> String {
    let whom = match (scope.org, scope.user) {
        (None, None) => "everything".to_owned(),
        (Some(org), None) => format!("org {org}"),
        (None, Some(user)) => format!("user {user}"),
        (Some(org), Some(user)) => format!("user {user} in org {org}"),
    };
    let bound = |word: &str, at: Option<DateTime<Utc>>| at.map(|at| format!(" {word} {}", instant(at))).unwrap_or_default();
    format!("{whom}{}{}", bound("from", scope.from), bound("to", scope.to))
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

pub fn place(difference: &Difference) -> String {
    let mut place = match (difference.event_id, difference.seq) {
        (Some(event), Some(seq)) => format!("event {event}, number {seq} of shard {}", difference.shard),
        (None, Some(seq)) => format!("number {seq} of shard {}", difference.shard),
        _ => format!("shard {}", difference.shard),
    };
    if let Some(charge) = difference.charge_id {
        place = format!("{place}, charge {charge}");
    }
    place
}

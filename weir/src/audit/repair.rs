//! `weir audit --repair`: what can be mended of what an audit found; said first, done when that is wanted.

use crate::out;
use anyhow::{Context, Result, bail};
use audit::{Lost, Report, Stores, Unlogged};
use chrono::{SecondsFormat, TimeDelta};
use std::io::{BufRead, IsTerminal, Write};

/// For holds that come back without their deadlines: as long as one has that names none.
const HOLD_TTL: TimeDelta = TimeDelta::seconds(300);

/// Whether anything was changed.
pub async fn run(stores: &Stores, report: &Report, yes: bool) -> Result<bool> {
    let lost = audit::lost_events(stores).await.context("what the log has beyond the ledger could not be read")?;
    // A log that has more than the ledger is the one to believe; what it lacks is seen to after that.
    let unlogged = match lost.is_empty() && differs(report, "I4") {
        true => audit::unlogged_events(stores, &|_| {}).await.context("what the log lacks could not be read")?,
        false => Vec::new(),
    };
    if lost.is_empty() && unlogged.is_empty() {
        tell_the_rest(report);
        return Ok(false);
    }
    tell_lost(&lost);
    tell_unlogged(&unlogged);
    let hindrances: Vec<String> = lost.iter().filter_map(hindrance).collect();
    if !hindrances.is_empty() {
        bail!("nothing was changed: {}", hindrances.join("; "));
    }
    if !yes && !consent()? {
        out!("nothing was changed");
        return Ok(false);
    }
    if !lost.is_empty() {
        let deadline = stores.clock.now() + HOLD_TTL;
        audit::bring_back(stores, &lost, deadline).await.context("not everything is back; repeat the command")?;
    }
    audit::resend(stores, &unlogged).await.context("not everything is in the log; repeat the command")?;
    out!("done; a new audit:\n");
    Ok(true)
}

fn differs(report: &Report, id: &str) -> bool {
    report.invariants.iter().any(|invariant| invariant.id == id && invariant.different > 0)
}

fn hindrance(lost: &Lost) -> Option<String> {
    lost.hindrance.as_ref().map(|why| format!("shard {}: {why}", lost.shard))
}

/// Each lost event by name: an operator has to know whom it concerns.
fn tell_lost(lost: &[Lost]) {
    if lost.is_empty() {
        return;
    }
    out!("the ledger ends before the log: it was restored to an earlier moment. Only the log has");
    for row in lost.iter().flat_map(|lost| &lost.rows) {
        let at = row.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true);
        out!("  shard {} number {}: {} {} of {}, {at}", row.shard, row.seq, row.kind, row.event_id, row.tenant);
    }
    let events: usize = lost.iter().map(|lost| lost.rows.len()).sum();
    out!("plan, to be carried out while no Weir runs:");
    out!("  1. put these {events} events of {} shards back into the ledger, with what they did to charges, pools and sagas", lost.len());
    out!("  2. raise the epoch of every shard, so that no process goes on with what it knew before");
    out!("  3. audit again");
}

fn tell_unlogged(unlogged: &[Unlogged]) {
    if unlogged.is_empty() {
        return;
    }
    out!("the log has lost events that were published:");
    for Unlogged { shard, from, through } in unlogged {
        out!("  shard {shard} from number {from} on, published up to {through}");
    }
    let events: i64 = unlogged.iter().map(|unlogged| unlogged.through - unlogged.from + 1).sum();
    out!("plan, to be carried out while no Weir runs:");
    out!("  1. send {events} events of {} shards again from the outbox; whoever has them already drops them", unlogged.len());
    out!("  2. audit again");
}

fn tell_the_rest(report: &Report) {
    if report.clean {
        return out!("there is nothing to repair\n");
    }
    out!("neither the ledger nor the log lacks an event that the other has; nothing of what differs is repaired by this command.");
    out!("Totals (I5, I6, I8) are built anew by `weir replay` and `weir replay swap`; for the rest see docs/runbooks.md\n");
}

fn consent() -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nothing was changed: nobody is there to ask; pass --yes");
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "do this? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

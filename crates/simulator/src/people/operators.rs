//! What needs an operator: a word on a purchase, and replays.

use super::{Errand, Part, REPLAY, Told, Town, Word, ask};
use crate::network::Network;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;
use uuid::Uuid;

/// Why an operator says anything.
pub const DIRECTED: &str = "an operator of the simulation";
/// In the middle of the run, nearly.
const MIDNIGHT: &str = "2026-11-22T00:00:00Z";

impl Errand {
    pub(super) async fn purchase(&mut self, number: u64, word: Word, town: &Town, network: &Arc<Network>) {
        let body = json!({"provider": "openai", "tokens": self.tokens});
        let told = ask(town, network, self.user, Some(&format!("purchase-{number}")), "tokens/purchase", &body).await;
        let Some(saga) = self.note(told).and_then(|answer| answer["sagaId"].as_str().and_then(|id| id.parse::<Uuid>().ok())) else {
            return;
        };
        self.saga_id = Some(saga);
        let step = match word {
            Word::Nothing => return,
            Word::Resume => "resume",
            Word::Compensate => "compensate",
        };
        sleep(Duration::from_millis(network.below(6_000))).await;
        let (key, path) = (format!("{step}-{number}"), format!("admin/sagas/{saga}/{step}"));
        // Too late for it, or done.
        if let Told::Astonished(what) = ask(town, network, self.user, Some(&key), &path, &json!({"reason": DIRECTED})).await {
            self.astonished = Some(what);
        }
    }

    /// Asks for it, holds it up for a while or not, and wants it swapped in until it is, or the patience ends.
    pub(super) async fn replay(&mut self, number: u64, part: Part, town: &Town, network: &Arc<Network>) {
        let key = format!("replay-{number}");
        let body = match part {
            Part::Everything => json!({"source": "outbox"}),
            Part::EverythingFromTheLog => json!({"source": "log"}),
            Part::FirstDay => json!({"source": "outbox", "to": MIDNIGHT}),
        };
        sleep(Duration::from_millis(network.below(10_000))).await;
        let told = ask(town, network, self.user, Some(&key), REPLAY, &body).await;
        let Some(replay) = self.note(told).and_then(|answer| answer["replayId"].as_str().map(str::to_owned)) else { return };
        let held_up = [Some("pause"), Some("cancel"), None, None, None, None];
        let held_up = usize::try_from(network.below(6)).ok().and_then(|index| held_up.get(index).copied().flatten());
        for step in held_up.into_iter().chain(["resume", "swap", "swap", "swap"]) {
            sleep(Duration::from_millis(network.below(4_000))).await;
            let told = ask(town, network, self.user, Some(&key), &format!("{REPLAY}/{replay}/{step}"), &Value::Null).await;
            // Refused: not built yet, ended, or another one was faster.
            if let Told::Astonished(what) = told {
                self.astonished = Some(what);
            }
        }
    }
}

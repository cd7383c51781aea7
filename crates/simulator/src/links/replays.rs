//! Replays and whole generations as a process reaches them.

use crate::{
    link::Link,
    network::Effect,
    stores::{ReplayRows, Usage},
};
use async_trait::async_trait;
use domain::{generation::Generation, replay::Replay, rollup::CellKey};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use ports::{
    Result,
    generations::{CellPage, Generations},
    replays::{Replaced, Replays, StoredReplay},
};
use std::{future::ready, sync::Arc};
use uuid::Uuid;

pub struct ReplaysLink {
    pub rows: Arc<ReplayRows>,
    pub usage: Arc<Usage>,
    pub link: Link,
}

impl ReplaysLink {
    async fn row<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: Effect,
        work: impl Fn(&ReplayRows) -> T + Send + Sync + 'static,
    ) -> Result<T> {
        let rows = Arc::clone(&self.rows);
        self.link.call(what, effect, move || ready(Ok(work(&rows)))).await
    }

    async fn generation<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: Effect,
        work: impl Fn(&Usage) -> T + Send + Sync + 'static,
    ) -> Result<T> {
        let usage = Arc::clone(&self.usage);
        self.link.call(what, effect, move || ready(Ok(work(&usage)))).await
    }
}

#[async_trait]
impl Replays for ReplaysLink {
    async fn create(&self, id: Uuid, replay: &Replay) -> Result<Option<StoredReplay>> {
        let replay = replay.clone();
        self.row("replays.create", Effect::Once, move |rows| rows.create(id, &replay)).await
    }

    async fn find(&self, id: Uuid) -> Result<Option<StoredReplay>> {
        self.row("replays.find", Effect::Read, move |rows| rows.find(id)).await
    }

    async fn list(&self, _: u32) -> Result<Vec<StoredReplay>> {
        self.row("replays.list", Effect::Read, ReplayRows::list).await
    }

    async fn running(&self) -> Result<Option<StoredReplay>> {
        self.row("replays.running", Effect::Read, ReplayRows::running).await
    }

    async fn replace(&self, changed: &mut StoredReplay) -> Result<Replaced> {
        let wanted = changed.clone();
        let replaced = self.row("replays.replace", Effect::Once, move |rows| rows.replace(&wanted)).await?;
        if replaced == Replaced::Done {
            changed.version += 1;
        }
        Ok(replaced)
    }
}

#[async_trait]
impl Generations for ReplaysLink {
    fn scan_cells(&self, generation: Generation) -> BoxStream<'_, Result<CellPage>> {
        let pages = stream::try_unfold(None::<CellKey>, move |after| async move {
            let page =
                self.generation("usage.scan_cells", Effect::Read, move |usage| usage.cells_after(generation, after.as_ref())).await?;
            let last = page.last().map(|(key, _)| key.clone());
            Ok(last.map(|last| (page, Some(last))))
        });
        pages.boxed()
    }

    async fn make_live(&self, generation: Generation) -> Result<Generation> {
        self.generation("usage.make_live", Effect::Repeatable, move |usage| usage.make_live(generation)).await
    }

    async fn drop_generation(&self, generation: i32) -> Result<()> {
        self.generation("usage.drop_generation", Effect::Repeatable, move |usage| usage.drop_generation(generation)).await
    }
}

//! Every statement, prepared once, and batches of each size of the writes.

use scylla::{
    client::session::Session,
    errors::PrepareError,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
};

/// Rows of one partition in one request.
pub const BATCH_ROWS: usize = 50;

const INSERT_RAW: &str = include_str!("../cql/insert_raw.cql");
const INSERT_PROVIDER_ENTRY: &str = include_str!("../cql/insert_provider_entry.cql");
const INSERT_CELL: &str = include_str!("../cql/insert_cell.cql");
const INSERT_SHARD_STATE: &str = include_str!("../cql/insert_shard_state.cql");
const INSERT_LIVE_GENERATION: &str = include_str!("../cql/insert_live_generation.cql");
const SELECT_LIVE_GENERATION: &str = include_str!("../cql/select_live_generation.cql");
const SELECT_SHARD_STATES: &str = include_str!("../cql/select_shard_states.cql");
const SELECT_CELLS_BY_KEY: &str = include_str!("../cql/select_cells_by_key.cql");
const SELECT_CELLS_BY_PREFIX: &str = include_str!("../cql/select_cells_by_prefix.cql");
const SELECT_RAW_NEWEST: &str = include_str!("../cql/select_raw_newest.cql");
const SELECT_RAW_DAY: &str = include_str!("../cql/select_raw_day.cql");
const SELECT_PROVIDER_NEWEST: &str = include_str!("../cql/select_provider_newest.cql");
const SELECT_RELEASE_VERSION: &str = include_str!("../cql/select_release_version.cql");
const SELECT_CELLS_BY_TOKEN: &str = include_str!("../cql/select_cells_by_token.cql");
const SELECT_PARTITIONS_BY_TOKEN: &str = include_str!("../cql/select_partitions_by_token.cql");
const DELETE_CELLS_OF_PARTITION: &str = include_str!("../cql/delete_cells_of_partition.cql");
const DELETE_SHARD_STATES: &str = include_str!("../cql/delete_shard_states.cql");

/// The only ones that delete: whole partitions of a generation that was dropped, whose number never comes back.
#[cfg(test)]
pub const DROPPING: [&str; 2] = [DELETE_CELLS_OF_PARTITION, DELETE_SHARD_STATES];

#[cfg(test)]
pub const ALL_STATEMENTS: [&str; 15] = [
    INSERT_RAW,
    INSERT_PROVIDER_ENTRY,
    INSERT_CELL,
    INSERT_SHARD_STATE,
    INSERT_LIVE_GENERATION,
    SELECT_LIVE_GENERATION,
    SELECT_SHARD_STATES,
    SELECT_CELLS_BY_KEY,
    SELECT_CELLS_BY_PREFIX,
    SELECT_RAW_NEWEST,
    SELECT_RAW_DAY,
    SELECT_PROVIDER_NEWEST,
    SELECT_RELEASE_VERSION,
    SELECT_CELLS_BY_TOKEN,
    SELECT_PARTITIONS_BY_TOKEN,
];

pub struct Statements {
    pub insert_raw: Batches,
    pub insert_provider_entry: Batches,
    pub insert_cell: Batches,
    pub insert_shard_state: Batches,
    pub insert_live_generation: PreparedStatement,
    pub select_live_generation: PreparedStatement,
    pub select_shard_states: PreparedStatement,
    pub select_cells_by_key: PreparedStatement,
    pub select_cells_by_prefix: PreparedStatement,
    pub select_raw_newest: PreparedStatement,
    pub select_raw_day: PreparedStatement,
    pub select_provider_newest: PreparedStatement,
    pub select_release_version: PreparedStatement,
    pub select_cells_by_token: PreparedStatement,
    pub select_partitions_by_token: PreparedStatement,
    pub delete_cells_of_partition: PreparedStatement,
    pub delete_shard_states: PreparedStatement,
}

impl Statements {
    pub async fn prepare(session: &Session) -> Result<Self, PrepareError> {
        let prepare = async |cql: &str| {
            let mut statement = session.prepare(cql).await?;
            // All of them: reads change nothing, and a repeated write is the same write.
            statement.set_is_idempotent(true);
            Ok::<_, PrepareError>(statement)
        };
        Ok(Self {
            insert_raw: Batches::of(&prepare(INSERT_RAW).await?),
            insert_provider_entry: Batches::of(&prepare(INSERT_PROVIDER_ENTRY).await?),
            insert_cell: Batches::of(&prepare(INSERT_CELL).await?),
            insert_shard_state: Batches::of(&prepare(INSERT_SHARD_STATE).await?),
            insert_live_generation: prepare(INSERT_LIVE_GENERATION).await?,
            select_live_generation: prepare(SELECT_LIVE_GENERATION).await?,
            select_shard_states: prepare(SELECT_SHARD_STATES).await?,
            select_cells_by_key: prepare(SELECT_CELLS_BY_KEY).await?,
            select_cells_by_prefix: prepare(SELECT_CELLS_BY_PREFIX).await?,
            select_raw_newest: prepare(SELECT_RAW_NEWEST).await?,
            select_raw_day: prepare(SELECT_RAW_DAY).await?,
            select_provider_newest: prepare(SELECT_PROVIDER_NEWEST).await?,
            select_release_version: prepare(SELECT_RELEASE_VERSION).await?,
            select_cells_by_token: prepare(SELECT_CELLS_BY_TOKEN).await?,
            select_partitions_by_token: prepare(SELECT_PARTITIONS_BY_TOKEN).await?,
            delete_cells_of_partition: prepare(DELETE_CELLS_OF_PARTITION).await?,
            delete_shard_states: prepare(DELETE_SHARD_STATES).await?,
        })
    }
}

/// Unlogged batches of one statement, by their number of rows. All rows of a batch share a partition, so it is one write on a replica.
pub struct Batches(Vec<Batch>);

impl Batches {
    fn of(statement: &PreparedStatement) -> Self {
        let batch = |rows: usize| {
            let statements = vec![BatchStatement::PreparedStatement(statement.clone()); rows];
            let mut batch = Batch::new_with_statements(BatchType::Unlogged, statements);
            batch.set_is_idempotent(true);
            batch
        };
        Self((0..=BATCH_ROWS).map(batch).collect())
    }

    /// `None` above [`BATCH_ROWS`].
    pub fn for_rows(&self, rows: usize) -> Option<&Batch> {
        self.0.get(rows)
    }
}

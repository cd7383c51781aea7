//! The steps of the schema of each file, compiled in.

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Number, name and text of one file of `migrations/sqlite`. A stored database remembers all three: a landed one never changes.
type Step = (i64, &'static str, &'static str);

macro_rules! step {
    ($folder:literal, $number:literal, $name:literal, $file:literal) => {
        ($number, $name, include_str!(concat!("../../../migrations/sqlite/", $folder, "/", $file)))
    };
}

const MAIN: &[Step] = &[
    step!("weir", 1, "ledger", "0001_ledger.sql"),
    step!("weir", 2, "outbox", "0002_outbox.sql"),
    step!("weir", 3, "settings and accounts", "0003_settings_and_accounts.sql"),
    step!("weir", 6, "answers", "0006_answers.sql"),
    step!("weir", 10, "webhooks", "0010_webhooks.sql"),
    step!("weir", 15, "replays", "0015_replays.sql"),
    step!("weir", 16, "archive", "0016_archive.sql"),
];
const USAGE: &[Step] = &[step!("usage", 1, "usage", "0001_usage.sql")];

/// Of `weir.db`.
pub(crate) fn main() -> Migrator {
    migrator(MAIN)
}

/// Of `usage.db`.
pub(crate) fn usage() -> Migrator {
    migrator(USAGE)
}

fn migrator(steps: &[Step]) -> Migrator {
    let migration = |&(number, name, sql): &Step| Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false);
    Migrator::with_migrations(steps.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What sqlx itself finds in the folder is what is compiled in, in its order and with its checksums.
    #[tokio::test]
    async fn every_file_of_the_folders_is_a_step() {
        for (folder, ours) in [("weir", main()), ("usage", usage())] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/sqlite").join(folder);
            let found = Migrator::new(path).await.unwrap();
            let told = |all: &Migrator| -> Vec<_> {
                all.iter().map(|step| (step.version, step.description.to_string(), step.checksum.to_vec())).collect()
            };
            assert_eq!(told(&ours), told(&found));
        }
    }
}

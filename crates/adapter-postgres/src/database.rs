//! The database itself, for a first `weir migrate`.

use crate::error::not_done;
use ports::Result;
use sqlx::migrate::MigrateDatabase;

/// Creates the database that the URL names when it is missing and the role may; answers whether it did.
///
/// # Errors
/// `Unavailable` when the server does not answer or refuses.
pub async fn create_database(url: &str) -> Result<bool> {
    if sqlx::Postgres::database_exists(url).await.map_err(not_done)? {
        return Ok(false);
    }
    match sqlx::Postgres::create_database(url).await {
        Ok(()) => Ok(true),
        // Another process was faster.
        Err(error) => match sqlx::Postgres::database_exists(url).await {
            Ok(true) => Ok(false),
            _ => Err(not_done(error)),
        },
    }
}

//! How a struct is read from a row. sqlx has a derive for it, which compiles sqlx, tokio and their helpers once more for the compiler's
//! own use: half a minute of processor time of `make up`.

/// Each field from the column of its name; what stands after `with` is itself read from the same row.
macro_rules! from_row {
    ($row:ident { $($field:ident),* } $(with $($part:ident),+)?) => {
        impl sqlx::FromRow<'_, sqlx::sqlite::SqliteRow> for $row {
            fn from_row(row: &sqlx::sqlite::SqliteRow) -> sqlx::Result<Self> {
                use sqlx::Row;
                Ok(Self { $($field: row.try_get(stringify!($field))?,)* $($($part: sqlx::FromRow::from_row(row)?,)+)? })
            }
        }
    };
}

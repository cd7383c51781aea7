//! Amounts of real requests.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Row {
    context_tokens: i64,
    generated_tokens: i64,
}

/// Tokens of each request of the trace, in its order.
pub fn amounts(path: &Path) -> Result<Vec<i64>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("the trace {} cannot be read", path.display()))?;
    let mut amounts = Vec::new();
    for row in reader.deserialize::<Row>() {
        let row = row.with_context(|| format!("the trace {}", path.display()))?;
        amounts.push(row.context_tokens + row.generated_tokens);
    }
    if amounts.is_empty() {
        bail!("the trace {} has no rows", path.display());
    }
    Ok(amounts)
}

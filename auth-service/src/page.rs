//! Pages of a list: `limit` and `cursor` of a query, `items` and `nextCursor` of the answer.

use serde::Deserialize;
use serde_json::{Value, json};
use service_kit::problem::Problem;
use std::{fmt::Display, str::FromStr};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Page {
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }

    /// How many to read: one more than is shown, to know whether there is a next page.
    pub fn read_limit(&self) -> u32 {
        self.limit() + 1
    }

    /// The id that the previous page ended with.
    pub fn after<T: FromStr>(&self) -> Result<Option<T>, Problem> {
        self.cursor
            .as_deref()
            .map(|text| text.parse().map_err(|_| Problem::field("cursor", "cursor is not one that an answer gave")))
            .transpose()
    }

    /// `read` was read with [`Page::read_limit`].
    pub fn answer<T, I: Display>(&self, mut read: Vec<T>, id: impl Fn(&T) -> I, show: impl Fn(&T) -> Option<Value>) -> Value {
        let limit = usize::try_from(self.limit()).unwrap_or(usize::MAX);
        let more = read.len() > limit;
        read.truncate(limit);
        let items: Vec<Value> = read.iter().filter_map(show).collect();
        let mut body = json!({"items": items});
        if let (true, Some(last)) = (more, read.last()) {
            body["nextCursor"] = json!(id(last).to_string());
        }
        body
    }
}

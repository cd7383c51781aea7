//! Webhooks: a payer's addresses that are told, signed, about each threshold that is reached.

pub mod deliver;
mod egress;
mod routes;

pub use egress::{Networks, client};
pub use routes::{create, deliveries, list, redeliver, remove};

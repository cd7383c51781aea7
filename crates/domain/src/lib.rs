//! What Weir decides, without I/O and without a clock: ids, amounts, limits, pools, charges, events, settings.
//! Every rule takes `now` and returns a value; adapters and services call these and nothing else decides.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

pub mod access;
pub mod amount;
pub mod bucket;
pub mod budget;
pub mod charge;
pub mod defect;
pub mod event;
pub mod fixed_point;
pub mod generation;
pub mod ids;
pub mod ledger;
pub mod money;
pub mod pool;
pub mod replay;
pub mod rollup;
pub mod saga;
pub mod settings;
pub mod threshold;
pub mod time;
pub mod trace_parent;

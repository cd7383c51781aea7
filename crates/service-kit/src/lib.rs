//! What every service shares: settings, serving, request context, errors as problems, health, telemetry, background tasks.

pub mod budgets;
pub mod client;
pub mod config;
pub mod health;
pub mod identity;
pub mod json;
pub mod problem;
pub mod request_context;
pub mod revision;
pub mod serve;
pub mod settings;
pub mod tasks;
pub mod telemetry;

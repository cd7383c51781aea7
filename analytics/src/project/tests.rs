//! The projection under schedules that a test can only find by trying very many of them.

pub mod fakes;
mod schedules;
mod steps;

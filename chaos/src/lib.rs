//! Breaks processes, servers and connections of a real Weir under load, and then proves that every figure is right.

pub mod brokers;
pub mod fleet;
pub mod installation;
pub mod journal;
pub mod load;
pub mod process;
pub mod proxy;
pub mod scenarios;
pub mod stack;
pub mod stage;
pub mod table;

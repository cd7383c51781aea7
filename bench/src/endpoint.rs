//! One leg of one round: a process is asked for a while; its processor time and what its store used are read around it.

use crate::{
    Plan,
    figures::{Sample, number},
    load::{self, Pace, Prepared},
    meter::Meter,
    process::Process,
};
use anyhow::Result;
use std::{cell::Cell, rc::Rc, time::Instant};

/// A process under measurement and what it is asked.
pub struct Endpoint {
    pub process: Process,
    pub requests: Rc<Vec<Prepared>>,
    pub meter: Option<Meter>,
    /// Goes on from leg to leg: no two requests are the same.
    next: Rc<Cell<usize>>,
}

impl Endpoint {
    pub fn new(process: Process, requests: Rc<Vec<Prepared>>) -> Self {
        Self { process, requests, meter: None, next: Rc::new(Cell::new(0)) }
    }

    /// Also read what its store uses.
    pub fn beside(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Requests sent so far.
    pub fn sent(&self) -> usize {
        self.next.get()
    }

    /// In the closed loop.
    pub async fn closed(&self, plan: &Plan, mode: &str, connections: usize) -> Result<Sample> {
        self.ask(plan, mode, &self.requests, connections, Pace::Closed).await
    }

    pub async fn ask(&self, plan: &Plan, mode: &str, requests: &Rc<Vec<Prepared>>, connections: usize, pace: Pace) -> Result<Sample> {
        let leg = load::Leg { address: self.process.address, connections, pace, warm_up: plan.warm_up, measured: plan.measured };
        let load = load::run(&leg, requests, &self.next, "bench");
        let used = async {
            tokio::time::sleep(plan.warm_up).await;
            let (begin, at) = (self.used().await?, Instant::now());
            tokio::time::sleep(plan.measured).await;
            let end = self.used().await?;
            anyhow::Ok((begin, end, at.elapsed()))
        };
        let (outcome, used) = futures::join!(load, used);
        let (outcome, (begin, end, window)) = (outcome?, used?);
        let per_second = number(outcome.answered) / plan.measured.as_secs_f64();
        let each = |used: f64| used / window.as_secs_f64() / per_second.max(1.0);
        let metered = |value: fn(&Reading) -> f64| self.meter.as_ref().map(|_| each(value(&end) - value(&begin)));
        Ok(Sample {
            per_second,
            p50_micros: Some(outcome.latencies.value_at_quantile(0.5)),
            p99_micros: Some(outcome.latencies.value_at_quantile(0.99)),
            cpu_micros_each: Some(each(end.cpu_micros - begin.cpu_micros)),
            store_cpu_micros_each: metered(|reading| reading.store_cpu_micros),
            wal_bytes_each: metered(|reading| reading.wal_bytes).filter(|bytes| *bytes > 0.0),
            redis_scripts_each: metered(|reading| reading.redis_scripts).filter(|scripts| *scripts > 0.0),
            refused: outcome.refused,
            ..Sample::new(mode)
        })
    }

    async fn used(&self) -> Result<Reading> {
        let store = match &self.meter {
            Some(meter) => meter.read().await?,
            None => Default::default(),
        };
        let cpu_micros = number(self.process.cpu_micros()?);
        Ok(Reading { cpu_micros, store_cpu_micros: store.cpu_micros, wal_bytes: store.wal_bytes, redis_scripts: store.scripts })
    }
}

struct Reading {
    cpu_micros: f64,
    store_cpu_micros: f64,
    wal_bytes: f64,
    redis_scripts: f64,
}

/// Each round begins with another leg, so that none always follows the same one.
pub fn order<const LEGS: usize>(round: usize) -> [usize; LEGS] {
    std::array::from_fn(|leg| (leg + round) % LEGS)
}

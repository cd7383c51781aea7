//! What is simulated, and the smallest of it that fails.

use crate::{Defect, Faults, Machine, run};

/// One simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Things that happen: somebody asks, a process dies, one is stopped, time passes.
    pub steps: u64,
    pub faults: Faults,
    /// One step in so many ends a process or stops one for a while; 0: none.
    pub deaths: u64,
    /// Everybody may spend only so fast, and hold only so much at once.
    pub limited: bool,
    /// Operators ask for replays.
    pub replayed: bool,
    /// What is put back.
    pub defect: Option<Defect>,
    pub machine: Machine,
}

impl Plan {
    pub fn of_seed(seed: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Some runs are calm in one respect, so that one kind of fault does not hide what another would show.
        let rate = |shift: u32, rate: u32| if mixed.rotate_right(32 + shift) & 3 == 0 { 0 } else { rate };
        let faults = Faults {
            refused: rate(0, 200),
            lost: rate(2, 300),
            late: rate(4, 300),
            twice: rate(6, 300),
            slow: rate(8, 300),
            deadly: rate(12, 20),
            holes: rate(10, 100),
        };
        let deaths = if seed.is_multiple_of(5) { 0 } else { 6 };
        let [limited, replayed] = [46, 48].map(|shift| mixed.rotate_right(shift) & 3 == 0);
        Self { seed: mixed, steps: 16, faults, deaths, limited, replayed, defect: None, machine: Machine::Quick }
    }
}

/// What went wrong, and how it came to that.
#[derive(Clone, Debug)]
pub struct Failure {
    pub plan: Plan,
    pub what: String,
    pub story: Vec<String>,
}

impl Failure {
    /// The same failure with as little as possible around it: fewer steps, fewer kinds of faults.
    #[must_use]
    pub fn smallest(self) -> Self {
        let mut smallest = self;
        loop {
            let Plan { steps, faults, .. } = smallest.plan;
            let with = |faults: Faults| Plan { faults, ..smallest.plan };
            let smaller = [
                Plan { steps: steps / 2, ..smallest.plan },
                Plan { steps: steps.saturating_sub(1), ..smallest.plan },
                Plan { deaths: 0, ..smallest.plan },
                Plan { limited: false, ..smallest.plan },
                Plan { replayed: false, ..smallest.plan },
                with(Faults { refused: 0, ..faults }),
                with(Faults { lost: 0, ..faults }),
                with(Faults { late: 0, ..faults }),
                with(Faults { twice: 0, ..faults }),
                with(Faults { slow: 0, ..faults }),
                with(Faults { deadly: 0, ..faults }),
                with(Faults { holes: 0, ..faults }),
            ];
            let fails = |plan: Plan| (plan != smallest.plan).then(|| run(plan).err()).flatten();
            match smaller.into_iter().find_map(fails) {
                Some(failure) => smallest = *failure,
                None => return smallest,
            }
        }
    }
}

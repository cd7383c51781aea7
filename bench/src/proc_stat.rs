//! Processor time of processes, as Linux counts it.

use anyhow::{Context, Result};

/// Linux reports times to processes in units of 1/100 s, whatever the kernel's own tick is.
const MICROS_PER_TICK: u64 = 10_000;

/// Times are microseconds, in steps of 10,000.
#[derive(Debug, PartialEq, Eq)]
pub struct Stat {
    pub parent: u32,
    /// User and system time.
    pub cpu_micros: u64,
    /// That of its children that have ended.
    pub children_cpu_micros: u64,
}

pub fn of(pid: u32) -> Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("there is no process {pid}"))?;
    parse(&text).context("/proc/<pid>/stat has another form")
}

/// Processor time of a process, of its children and of those that it had, microseconds.
pub fn family_cpu_micros(parent: u32) -> Result<u64> {
    let own = of(parent)?;
    let mut sum = own.cpu_micros + own.children_cpu_micros;
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Whoever ends meanwhile is counted by its parent from now on.
        if let Ok(child) = of(pid)
            && child.parent == parent
        {
            sum += child.cpu_micros;
        }
    }
    Ok(sum)
}

/// The 4th and the 14th to 17th field; the second one, the name in parentheses, may hold spaces.
fn parse(stat: &str) -> Option<Stat> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let mut times = fields.skip(9).map_while(|field| field.parse::<u64>().ok());
    let mut sum_of_two = || Some((times.next()? + times.next()?) * MICROS_PER_TICK);
    Some(Stat { parent, cpu_micros: sum_of_two()?, children_cpu_micros: sum_of_two()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (we (ir) x) S 7 2 3 4 5 6 7 8 9 10 150 25 3 4 20 0 4 0 100 1 2 3";
        assert_eq!(parse(stat), Some(Stat { parent: 7, cpu_micros: 1_750_000, children_cpu_micros: 70_000 }));
        assert_eq!(parse("42 (weir) S 7 2 3"), None);
    }

    #[test]
    fn a_family_has_used_at_least_what_its_parent_has() {
        let own = of(std::process::id()).unwrap();
        assert!(family_cpu_micros(std::process::id()).unwrap() >= own.cpu_micros);
        assert!(of(own.parent).is_ok());
    }
}

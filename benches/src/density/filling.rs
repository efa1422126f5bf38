//! A pool of very many VMs: how fast it becomes full, first and last, and how fast it is gone.
//!
//! ```text
//!   fvm pool create ─► its keeper is asked every 20 ms how many it has made ─► full ─► ... ─► fvm pool delete ─► no process left
//!                      first tenth ├─────┤                      last tenth ├─────┤
//! ```
//!
//! Invariants: the rate over all is from before the command that makes the pool; that of a tenth is between what the keeper
//! said, and the first tenth begins when it said that one was ready, so that what is started once (the keeper, the router that
//! VMs share) makes the first no slower.

use super::memory::{Before, Memory};
use super::{MOST_IN_USE, Setting, ms, wait_for_the_end, wait_for_vms};
use crate::error::Error;
use crate::machine::meminfo_kib;
use crate::pools::Pool;
use crate::report::{Table, ratio};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NAME: &str = "density";
/// Often enough for a tenth of a pool that takes a second; what is asked costs the keeper a ten-thousandth of that.
const ASKED_EVERY: Duration = Duration::from_millis(20);
/// So long nothing may happen.
const STALLED: Duration = Duration::from_secs(20);

/// What a keeper said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Said {
    ms: f64,
    made: u64,
    ready: u32,
}

/// A pool that is being measured.
pub(super) struct Filling {
    asked: usize,
    /// When the command that makes it had returned.
    created_ms: f64,
    series: Vec<Said>,
    renewed: u64,
    pub stopped: Option<String>,
    pub memory: Memory,
    delete_ms: f64,
    gone_ms: f64,
    all_gone_ms: f64,
}

impl Filling {
    /// Makes it, and waits until it is full, or as full as it gets.
    pub fn new(setting: &Setting<'_>, asked: usize) -> Result<Self, Error> {
        let before = Before::look();
        let reserve = format!("{}K", (meminfo_kib("MemTotal") as f64 * (1.0 - MOST_IN_USE)) as u64);
        let options = ["--size", &asked.to_string(), "--net", setting.net, "--reserve", &reserve];
        let began = Instant::now();
        let pool = Pool::make(setting.lab, setting.person, NAME, &options)?;
        let mut filling = Self {
            asked,
            created_ms: ms(began.elapsed()),
            series: Vec::new(),
            renewed: 0,
            stopped: None,
            memory: Memory::default(),
            delete_ms: 0.0,
            gone_ms: 0.0,
            all_gone_ms: 0.0,
        };
        filling.watch(&pool, began)?;
        if filling.stopped.is_some() {
            // Nothing else is to be measured beside a pool that goes on trying.
            let ready = filling.vms().max(1).to_string();
            setting.lab.fvm(setting.person, ["pool", "size", NAME, &ready])?;
        }
        filling.memory = Memory::since(&before, setting.lab, filling.vms());
        Ok(filling)
    }

    fn watch(&mut self, pool: &Pool, began: Instant) -> Result<(), Error> {
        let mut progress = (0, Instant::now());
        loop {
            let status = pool.status()?;
            self.series.push(Said { ms: ms(began.elapsed()), made: status.made, ready: status.ready });
            self.renewed = status.renewed;
            if status.ready as usize >= self.asked {
                return Ok(());
            }
            if status.made > progress.0 {
                progress = (status.made, Instant::now());
            }
            let waited = progress.1.elapsed();
            let why = status.trouble.filter(|_| waited > Duration::from_secs(3));
            if let Some(why) = why.or_else(|| (waited > STALLED).then(|| "nothing more happened".to_owned())) {
                if status.ready == 0 {
                    return Err(Error::Program { command: "fvm pool create".to_owned(), reason: why });
                }
                self.stopped = Some(why);
                return Ok(());
            }
            std::thread::sleep(ASKED_EVERY);
        }
    }

    /// How many are there.
    pub fn vms(&self) -> usize {
        self.series.last().map_or(0, |said| said.ready as usize)
    }

    /// Deletes it, and waits until no process of it is left.
    pub fn end(&mut self, setting: &Setting<'_>) -> Result<(), Error> {
        let began = Instant::now();
        setting.lab.fvm(setting.person, ["pool", "delete", NAME])?;
        self.delete_ms = ms(began.elapsed());
        wait_for_vms(setting);
        self.gone_ms = ms(began.elapsed());
        wait_for_the_end(setting.lab);
        self.all_gone_ms = ms(began.elapsed());
        Ok(())
    }

    fn full_ms(&self) -> f64 {
        self.series.last().map_or(0.0, |said| said.ms)
    }

    fn rate_per_second(&self) -> f64 {
        self.series.last().map_or(0.0, |said| said.made as f64 * 1e3 / said.ms)
    }

    pub fn table(&self) -> Table {
        let vms = self.vms();
        let title = format!("A pool of {vms} VMs, from `fvm pool create` until all are ready:");
        let mut table = Table::new(&title, &["what", "all", "the first tenth", "the last tenth", "last to first"]);
        let tenths = tenths(&self.series);
        let cell = |each: Option<f64>| each.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2} ms"));
        let (first, last) = (tenths.map(|t| t.0), tenths.map(|t| t.1));
        table.rows.push(vec![
            "a VM takes".into(),
            format!("{:.2} ms", self.full_ms() / self.series.last().map_or(1.0, |said| said.made.max(1) as f64)),
            cell(first),
            cell(last),
            last.map_or_else(|| "–".to_owned(), |last| ratio(last, first)),
        ]);
        let rate = |each: Option<f64>| each.map_or_else(|| "–".to_owned(), |ms| format!("{:.0}", 1e3 / ms));
        table.rows.push(vec![
            "VMs in a second".into(),
            format!("{:.0}", self.rate_per_second()),
            rate(first),
            rate(last),
            String::new(),
        ]);
        let mut row = |name: &str, value: f64| {
            table.rows.push(vec![name.into(), format!("{value:.0} ms"), String::new(), String::new(), String::new()]);
        };
        row("all are ready after", self.full_ms());
        row("`fvm pool delete`", self.delete_ms);
        row("until their last process is gone", self.gone_ms);
        row("until the router that they share is gone, which waits for the next VM", self.all_gone_ms);
        table
    }

    /// What has to be said with it.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.stopped {
            notes.push(format!("**Stopped after {} of {} VMs: {why}.**", self.vms(), self.asked));
        }
        if self.renewed > 0 {
            let renewed = self.renewed;
            notes.push(format!("**{renewed} VMs were made anew meanwhile: the host's mounts changed, or they died.**"));
        }
        notes
    }

    pub fn json(&self) -> Value {
        let tenths = tenths(&self.series);
        let series: Vec<Value> = self.series.iter().map(|s| json!([s.ms, s.made, s.ready])).collect();
        let mut object = json!({
            "vms": self.vms(), "stopped": self.stopped, "renewed": self.renewed,
            "created_ms": self.created_ms, "full_ms": self.full_ms(), "series": series,
            "rate_per_second": self.rate_per_second(),
            "first_tenth_ms_each": tenths.map(|t| t.0), "last_tenth_ms_each": tenths.map(|t| t.1),
            "delete_ms": self.delete_ms, "gone_ms": self.gone_ms, "all_gone_ms": self.all_gone_ms,
        });
        self.memory.add_to(&mut object);
        object
    }
}

/// Milliseconds for each VM of the first tenth and of the last; nothing when all were there at once.
fn tenths(series: &[Said]) -> Option<(f64, f64)> {
    let (first, last) = (series.iter().find(|said| said.made > 0)?, series.last()?);
    let tenth = (last.made.checked_sub(first.made)? / 10).max(1);
    let early = reached(series, (first.made + tenth) as f64)? - first.ms;
    let late = last.ms - reached(series, last.made.checked_sub(tenth)?.max(first.made) as f64)?;
    (last.made > first.made).then(|| (early / tenth as f64, late / tenth as f64))
}

/// When so many were made: as if between two answers all took equally long.
fn reached(series: &[Said], made: f64) -> Option<f64> {
    let after = series.iter().position(|said| said.made as f64 >= made)?;
    let Some(before) = after.checked_sub(1) else { return Some(series[after].ms) };
    let (one, two) = (series[before], series[after]);
    let part = (made - one.made as f64) / (two.made as f64 - one.made as f64);
    Some(one.ms + part * (two.ms - one.ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, u64)]) -> Vec<Said> {
        points.iter().map(|&(ms, made)| Said { ms, made, ready: u32::try_from(made).unwrap() }).collect()
    }

    #[test]
    fn a_tenth_lies_between_what_was_said() {
        let series = series(&[(0.0, 0), (50.0, 1), (70.0, 21), (90.0, 31), (100.0, 31), (300.0, 91), (350.0, 101)]);
        assert_eq!(reached(&series, 0.0), Some(0.0));
        assert_eq!(reached(&series, 11.0), Some(60.0));
        assert_eq!(reached(&series, 61.0), Some(200.0));
        assert_eq!(reached(&series, 102.0), None);
        assert_eq!(tenths(&series), Some((1.0, 5.0)), "without what is made once, before the first");
    }

    #[test]
    fn without_a_difference_there_are_no_tenths() {
        assert_eq!(tenths(&[]), None);
        assert_eq!(tenths(&series(&[(5.0, 0), (25.0, 0)])), None);
        assert_eq!(tenths(&series(&[(5.0, 3)])), None);
        assert_eq!(tenths(&series(&[(5.0, 3), (25.0, 3)])), None);
        assert_eq!(tenths(&series(&[(5.0, 3), (25.0, 4)])), Some((20.0, 20.0)));
    }
}

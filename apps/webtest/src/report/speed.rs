//! How fast a run was, and could have been: `T = min(C / (s + W + k), cores / (c_visit + c_idle W))`.
//!
//! With what was measured: a visit took `s + W + k` from its VM's start to its end, and `c_visit + c_idle W` of processor time.

use crate::db::{DbError, Queue, Run, Sums};
use serde::Serialize;

/// The speed of a run, in visits a minute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// What was measured.
    pub measured: Sums,
    /// Seconds that a visit waited: W.
    pub wait_s: u32,
    /// `C / (s + W + k)`: as many as the VMs at once allow.
    pub by_vms: Option<f64>,
    /// `cores / (c_visit + c_idle W)`: as many as the processors allow.
    pub by_cores: Option<f64>,
    /// The smaller of both.
    pub model: Option<f64>,
    /// What there was, from the first result to the last.
    pub achieved: Option<f64>,
    /// The same of the middle four fifths, without beginning and end.
    pub steady: Option<f64>,
}

/// The speed of a run.
///
/// # Errors
/// When the database fails.
pub fn speed(queue: &dyn Queue, run: &Run) -> Result<Speed, DbError> {
    Ok(of(queue.sums(run.id)?, run.params.wait_s))
}

#[expect(clippy::cast_precision_loss, reason = "a measure")]
fn of(measured: Sums, wait_s: u32) -> Speed {
    let per_minute = |many: f64, ms: f64| (many > 0.0 && ms > 0.0).then(|| many / ms * 60e3);
    let by_vms = per_minute(measured.concurrent, measured.took_ms);
    let by_cores = per_minute(measured.cores, measured.cpu_ms);
    let visits = measured.visits as f64;
    Speed {
        by_vms,
        by_cores,
        model: match (by_vms, by_cores) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        },
        achieved: per_minute(visits - 1.0, measured.all_s * 1e3),
        steady: per_minute((visits * 0.8).floor(), measured.middle_s * 1e3),
        measured,
        wait_s,
    }
}

impl Speed {
    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let rate = |rate: Option<f64>| rate.map_or("?".into(), |rate| format!("{rate:.1}"));
        let m = &self.measured;
        let achieved = rate(self.achieved);
        let day = self.steady.or(self.achieved).map_or("?".into(), |rate| format!("{:.0}", rate * 1_440.0));
        let model = self.model.map_or(String::new(), |model| {
            format!(
                "; model {model:.1} = min({:.0} VMs / {:.2} s = {}, {:.1} processors / {:.3} s = {})",
                m.concurrent,
                m.took_ms / 1e3,
                rate(self.by_vms),
                m.cores,
                m.cpu_ms / 1e3,
                rate(self.by_cores)
            )
        });
        format!(
            "{achieved} visits a minute ({} steady, {day} a day){model}; VM start {:.1} ms, page load {:.2} s in the median",
            rate(self.steady),
            m.vm_ms,
            m.load_median_ms / 1e3,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_limit_is_the_model() {
        let sums = Sums {
            visits: 1_001,
            took_ms: 122_000.0,
            cpu_ms: 480.0,
            concurrent: 200.0,
            cores: 2.0,
            all_s: 600.0,
            middle_s: 480.0,
            ..Sums::default()
        };
        let speed = of(sums.clone(), 120);
        assert!((speed.by_vms.unwrap() - 98.36).abs() < 0.01 && (speed.by_cores.unwrap() - 250.0).abs() < 0.01);
        assert_eq!(speed.model, speed.by_vms);
        assert_eq!((speed.achieved, speed.steady), (Some(100.0), Some(100.0)));
        assert!(speed.line().contains("144000 a day"), "{}", speed.line());
        let heavy = of(Sums { cpu_ms: 2_700.0, ..sums }, 120);
        assert_eq!(heavy.model, heavy.by_cores);
        let none = of(Sums::default(), 0);
        assert_eq!((none.model, none.achieved), (None, None));
        assert!(none.line().starts_with("? visits"));
    }
}

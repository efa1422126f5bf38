//! Order statistics: what disturbs a measurement only adds to it, so nothing here squares or averages.

/// Of a series of measurements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// 95 of 100 are not larger.
    pub p95: f64,
    /// Median absolute deviation from the median.
    pub mad: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let median = middle(&sorted);
        let deviations: Vec<f64> = sorted.iter().map(|value| (value - median).abs()).collect();
        let mad = middle(&self::sorted(&deviations));
        // Nearest rank.
        let rank = (sorted.len() * 95).div_ceil(100).max(1) - 1;
        Some(Self { median, p95: sorted[rank], mad, min, max })
    }
}

/// The median; 0 of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    middle(&sorted(values))
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn middle(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// The order of `len` candidates in round `round`: another one each time, the same in each session.
#[must_use]
pub fn order(len: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut state = round as u64;
    for last in (1..len).rev() {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let pick = usize::try_from((mixed ^ (mixed >> 31)) % (last as u64 + 1)).unwrap_or(last);
        order.swap(last, pick);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_of_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).rev().collect();
        let summary = Summary::of(&values).unwrap();
        assert_eq!((summary.median, summary.p95, summary.mad), (50.5, 95.0, 25.0));
        assert_eq!((summary.min, summary.max), (1.0, 100.0));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]).unwrap().p95, 3.0);
    }

    #[test]
    fn each_round_has_an_order_of_its_own() {
        let mut seen = order(9, 1);
        assert_ne!(seen, order(9, 2));
        assert_eq!(seen, order(9, 1));
        seen.sort_unstable();
        assert_eq!(seen, (0..9).collect::<Vec<_>>());
    }
}

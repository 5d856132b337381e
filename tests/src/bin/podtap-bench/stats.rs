//! What many slices come to.

use serde_json::{Value, json};

/// Values of one measure over all rounds, in order of size.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values(Vec<f64>);

impl FromIterator<f64> for Values {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Values {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that this part of the values does not exceed, interpolated; not a number when there are none.
    fn quantile(&self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let place = part * last as f64;
        let (below, above) = (self.0[place.floor() as usize], self.0[place.ceil() as usize]);
        below + (above - below) * place.fract()
    }

    /// The middle one.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The middle half.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    /// The largest.
    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// For the report.
    pub(crate) fn json(&self) -> Value {
        let (low, high) = self.quartiles();
        json!({
            "count": self.count(), "median": self.median(), "quartiles": [low, high],
            "min": self.quantile(0.0), "max": self.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters_are_interpolated() {
        let values: Values = [4.0, 1.0, 3.0, 2.0, f64::NAN].into_iter().collect();
        assert_eq!((values.count(), values.median()), (4, 2.5));
        assert_eq!(values.quartiles(), (1.75, 3.25));
        assert!(Values::default().median().is_nan());
    }
}

//! What is printed and written: one line a measure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::stats::Values;
use crate::tool::Tool;

/// What a measure must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Told, not judged.
    Told,
}

/// What is judged by the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// podtap's value divided by this tool's, round by round; the median counts.
    RatioTo(Tool),
    /// podtap's own median.
    Median,
    /// The worst of podtap's values, when each one must hold.
    Worst,
}

/// One measure of a row.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Per tool, the values of all rounds in their order.
    pub(crate) values: Vec<(Tool, Vec<f64>)>,
    pub(crate) judged: Judged,
    pub(crate) target: Target,
}

impl Measure {
    /// One with no values yet.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, judged: Judged, target: Target) -> Self {
        Self { name: name.into(), unit, values: Vec::new(), judged, target }
    }

    /// One with only podtap's values.
    pub(crate) fn own(
        name: impl Into<String>,
        unit: &'static str,
        judged: Judged,
        target: Target,
        values: Vec<f64>,
    ) -> Self {
        Self { values: vec![(Tool::Podtap, values)], ..Self::new(name, unit, judged, target) }
    }

    /// Adds one round's value.
    pub(crate) fn push(&mut self, tool: Tool, value: f64) {
        match self.values.iter_mut().find(|(known, _)| *known == tool) {
            Some((_, values)) => values.push(value),
            None => self.values.push((tool, vec![value])),
        }
    }

    fn of(&self, tool: Tool) -> &[f64] {
        self.values.iter().find(|(known, _)| *known == tool).map_or(&[], |(_, values)| values)
    }

    /// What is held against the target.
    fn judged(&self) -> Values {
        let own = self.of(Tool::Podtap);
        match self.judged {
            Judged::RatioTo(tool) => own.iter().zip(self.of(tool)).map(|(own, other)| own / other).collect(),
            Judged::Median | Judged::Worst => own.iter().copied().collect(),
        }
    }

    fn judged_value(&self) -> f64 {
        let values = self.judged();
        match (self.judged, self.target) {
            (Judged::Worst, _) => values.max(),
            _ => values.median(),
        }
    }

    /// Whether the target is reached; none when there is none. Without values it is not.
    pub(crate) fn met(&self) -> Option<bool> {
        let value = self.judged_value();
        match self.target {
            Target::AtMost(most) => Some(value <= most),
            Target::AtLeast(least) => Some(value >= least),
            Target::Told => None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![format!("{} ({})", self.name, self.unit)];
        for tool in [Tool::Podtap, Tool::Tcpdump, Tool::Dumpcap, Tool::None] {
            let values: Values = self.of(tool).iter().copied().collect();
            cells.push(if values.count() == 0 { "-".into() } else { number(values.median()) });
        }
        let values = self.judged();
        let (low, high) = values.quartiles();
        let what = match self.judged {
            Judged::RatioTo(tool) => format!("/ {} ", tool.name()),
            Judged::Median => String::new(),
            Judged::Worst => "worst ".into(),
        };
        cells.push(format!("{what}{} [{} {}]", number(self.judged_value()), number(low), number(high)));
        cells.push(match self.target {
            Target::AtMost(most) => format!("<= {}", number(most)),
            Target::AtLeast(least) => format!(">= {}", number(least)),
            Target::Told => String::new(),
        });
        cells.push(match self.met() {
            Some(true) => "yes".into(),
            Some(false) => "NO".into(),
            None => String::new(),
        });
        cells
    }

    fn json(&self) -> Value {
        let tools = self.values.iter().map(|(tool, values)| {
            let summary: Values = values.iter().copied().collect();
            (tool.name().to_owned(), json!({"summary": summary.json(), "rounds": values}))
        });
        let (target, bound) = match self.target {
            Target::AtMost(most) => ("at most", Some(most)),
            Target::AtLeast(least) => ("at least", Some(least)),
            Target::Told => ("told", None),
        };
        json!({
            "name": self.name, "unit": self.unit, "tools": tools.collect::<serde_json::Map<_, _>>(),
            "judged": format!("{:?}", self.judged), "judgedValue": self.judged_value(),
            "judgedValues": self.judged().json(), "target": target, "bound": bound, "met": self.met(),
        })
    }
}

/// One row of the table: some measures, and remarks on what else was seen.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) measures: Vec<Measure>,
    pub(crate) remarks: Vec<String>,
    pub(crate) seconds: f64,
}

impl Row {
    /// The row as a table, for a terminal and for a document alike.
    pub(crate) fn text(&self) -> String {
        let head =
            ["", "podtap", "tcpdump", "dumpcap", "none", "judged: median [quartiles]", "target", "met"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        lines.extend(self.measures.iter().map(Measure::cells));
        let widths: Vec<usize> = (0..head.len())
            .map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0))
            .collect();
        let mut text = format!("### {} ({:.0} s)\n\n", self.title, self.seconds);
        for (number, line) in lines.iter().enumerate() {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if number == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                let _ = writeln!(text, "| {} |", rules.join(" | "));
            }
        }
        for remark in &self.remarks {
            let _ = write!(text, "\n{remark}\n");
        }
        text
    }

    /// The row for a program.
    pub(crate) fn json(&self) -> Value {
        json!({
            "row": self.name, "title": self.title, "seconds": self.seconds, "remarks": self.remarks,
            "measures": self.measures.iter().map(Measure::json).collect::<Vec<_>>(),
        })
    }
}

/// Four figures, without an exponent.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "?".into();
    }
    let digits = if value == 0.0 { 0 } else { (3 - value.abs().log10().floor() as i32).clamp(0, 4) };
    let text = format!("{value:.*}", digits as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_by_what_it_names() {
        let mut measure = Measure::new("x", "us", Judged::RatioTo(Tool::Tcpdump), Target::AtMost(0.6));
        for (own, other) in [(1.0, 2.0), (1.0, 4.0), (9.0, 1.0)] {
            measure.push(Tool::Podtap, own);
            measure.push(Tool::Tcpdump, other);
        }
        assert_eq!(measure.met(), Some(true));
        measure.judged = Judged::Worst;
        assert_eq!(measure.met(), Some(false));
        measure.values.clear();
        assert_eq!(measure.met(), Some(false));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.123_456, 12.0, 834_512.4, 0.5].map(number);
        assert_eq!(texts, ["0", "0.1235", "12", "834512", "0.5"]);
    }
}

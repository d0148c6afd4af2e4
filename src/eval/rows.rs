//! Rows of a table from the posteriors of their parts: each part is computed once, however many rows have it.

use super::averages::{Averages, ScoreAverage};
use super::look::Look;
use super::paper::{PaperNet, PaperRow};
use super::tally::Tally;
use crate::data::loader::Source;
use crate::error::Result;

/// Posteriors that rows are means of: one network, looking densely or at crops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Whose.
    pub net: PaperNet,
    /// How it looks; never `both`, which is two components.
    pub look: Look,
}

/// The rows of a table, to be filled component by component.
pub struct Rows<'a> {
    rows: Vec<Row>,
    source: &'a dyn Source,
}

struct Row {
    wanted: Vec<Component>,
    /// How many of them are in the mean.
    taken: usize,
    mean: Option<Averages>,
    tally: Option<Tally>,
}

impl<'a> Rows<'a> {
    /// Rows that can be computed with the networks that have test scales; `scales` says them.
    pub fn new(
        rows: &[PaperRow],
        source: &'a dyn Source,
        scales: impl Fn(&PaperRow, PaperNet) -> Option<Vec<usize>>,
    ) -> Self {
        let row = |row: &PaperRow| Row {
            wanted: components(row, &scales).unwrap_or_default(),
            taken: 0,
            mean: None,
            tally: None,
        };
        Self {
            rows: rows.iter().map(row).collect(),
            source,
        }
    }

    /// What has to be computed, each once: network by network, in the order of the rows.
    pub fn components(&self) -> Vec<Component> {
        let mut all: Vec<Component> = Vec::new();
        for component in self.rows.iter().flat_map(|row| &row.wanted) {
            if !all.contains(component) {
                all.push(component.clone());
            }
        }
        all
    }

    /// Adds a component to every row that has it. A row whose components are all there is counted, and its posteriors go.
    pub fn add(&mut self, component: &Component, averages: &Averages, average: ScoreAverage) -> Result<()> {
        for row in self.rows.iter_mut().filter(|row| row.wanted.contains(component)) {
            let taken = row.taken as f64;
            match &mut row.mean {
                None => row.mean = Some(averages.clone()),
                Some(mean) => mean.mix(averages, taken / (taken + 1.0)),
            }
            row.taken += 1;
            if row.taken == row.wanted.len()
                && let Some(mean) = row.mean.take()
            {
                row.tally = Some(mean.tally(self.source, average)?);
            }
        }
        Ok(())
    }

    /// What was counted, row by row; `None` where networks are missing.
    pub fn tallies(self) -> Vec<Option<Tally>> {
        self.rows.into_iter().map(|row| row.tally).collect()
    }
}

/// The components of a row, all with the same weight. `None` where a network is missing.
fn components(
    row: &PaperRow,
    scales: &impl Fn(&PaperRow, PaperNet) -> Option<Vec<usize>>,
) -> Option<Vec<Component>> {
    let mut all = Vec::new();
    for &net in &row.nets {
        let scales = scales(row, net)?;
        all.extend(row.protocol.parts().iter().map(|&(protocol, _)| Component {
            net,
            look: Look {
                protocol,
                scales: scales.clone(),
                flip: true,
            },
        }));
    }
    Some(all)
}

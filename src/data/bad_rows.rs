//! What becomes of a row of a source that is not what it should be.

use serde_json::{Value, json};
use stillhouse_stage::Context;
use stillhouse_stage::spec::Config;

use crate::error::{DataError, DataResult};

/// How many places of bad rows the record tells.
const TOLD: usize = 5;

/// What becomes of a bad row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum OnBadRow {
    /// The stage fails, and says where the row is.
    Stop,
    /// It is left out; the record has their number and the first places.
    Skip,
}

/// The bad rows of a source so far.
#[derive(Debug)]
pub struct BadRows {
    policy: OnBadRow,
    count: u64,
    first: Vec<String>,
}

impl BadRows {
    /// None yet.
    pub fn new(policy: OnBadRow) -> Self {
        Self { policy, count: 0, first: Vec::new() }
    }

    /// Takes what went wrong with a row.
    ///
    /// # Errors
    /// The fault itself, where bad rows stop the stage or it is no fault of one row.
    pub fn pass(&mut self, error: DataError) -> DataResult<()> {
        let DataError::Row { path, line, column, message, hint } = error else { return Err(error) };
        if self.policy == OnBadRow::Stop {
            return Err(DataError::Row { path, line, column, message, hint });
        }
        self.count += 1;
        if self.first.len() < TOLD {
            // The name without its folder: a record reads the same on every machine.
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            let column = column.map(|column| format!(":{column}")).unwrap_or_default();
            self.first.push(format!("{name}:{line}{column}: {message}"));
        }
        Ok(())
    }

    /// A source of which no row is good is not worth going on with.
    ///
    /// # Errors
    /// When rows were left out and `good` is 0.
    pub fn some_are_good(&self, good: u64) -> DataResult<()> {
        match self.first.first() {
            Some(first) if good == 0 => Err(DataError::invalid(
                format!("no row is good: {} were left out, the first for {first}", self.count),
                "look at that row; does the table fit the file?",
            )),
            _ => Ok(()),
        }
    }

    /// Tells the user, if there is something to tell.
    pub fn warn(&self, context: &Context) {
        if let Some(first) = self.first.first() {
            let are = if self.count == 1 { "1 bad row is".to_owned() } else { format!("{} bad rows are", self.count) };
            context.warn(format!("{are} left out, the first: {first}"));
        }
    }

    /// For the record: their number and the first places; nothing where bad rows stop the stage.
    pub fn figures(&self) -> Option<Value> {
        (self.policy == OnBadRow::Skip).then(|| json!({ "count": self.count, "first": self.first }))
    }
}

//! Training: a student's weights as a function of its trajectory.
//!
//! ```text
//! Plan ─keys→ Trajectory ─longest stored prefix→ State ─step, step, …→ State ─every n→ Checkpoint
//! ```

mod batch;
mod checkpoint;
mod head;
mod live_teacher;
mod run;
mod source;
mod state;
mod trajectory;

pub use batch::StepBatch;
pub use checkpoint::{Checkpoint, CheckpointStore, StoredCheckpoints};
pub use head::{HeadGradients, PartSum, head_gradients};
pub use live_teacher::{LiveHidden, LiveTeacher};
pub use run::{Observer, Trained, Training};
pub use source::{BatchSource, DatasetSource};
pub use state::{LossPart, Losses, State, StepReport};
pub use trajectory::{StepIdentity, Trajectory};

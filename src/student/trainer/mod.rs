//! Training: a student's weights as a function of its trajectory.
//!
//! ```text
//! Plan ─keys→ Trajectory ─longest stored prefix→ State ─step, step, …→ State ─every n→ Checkpoint
//! ```

mod adapters;
mod average;
mod batch;
mod checkpoint;
mod compared_layers;
mod gradients;
mod guard;
mod head;
mod hidden;
mod keeper;
mod live_teacher;
mod losses;
pub mod memory;
mod need;
mod on_policy;
mod other_tokens;
mod parameters;
mod rewriter;
mod run;
mod segments;
mod source;
mod state;
mod stored_checkpoints;
mod teacher_head;
mod trained;
mod trajectory;
mod validation;

pub use adapters::{Lora, peft_config, peft_names};
pub(crate) use adapters::{has_target, targets};
pub use batch::StepBatch;
pub use checkpoint::{Checkpoint, CheckpointStore};
pub(crate) use compared_layers::no_teacher;
pub use compared_layers::{ComparedLayers, Misfit};
pub use guard::Spike;
pub use head::{HeadGradients, HeadInput, PartSum, head_gradients};
pub use hidden::{CountedStreams, HiddenComparison};
pub use keeper::Keep;
pub use live_teacher::{LiveHidden, LiveTeacher};
pub use losses::{LossPart, Losses};
pub use need::{Holds, Need, StepSize, training_bytes};
pub use on_policy::{OnPolicy, OnPolicySampler, Rollout};
pub(crate) use parameters::{fits_some, trained};
pub use run::{Observer, Options, Trained, Training};
pub use source::{BatchSource, Coverage, DatasetSource};
pub use state::{Method, State, StepReport};
pub use stored_checkpoints::StoredCheckpoints;
pub use teacher_head::{TeacherHead, TeacherOnDevice};
pub use trajectory::{StepIdentity, Trajectory};
pub use validation::{EarlyStop, History, HoldoutSource, Measured, Validation};

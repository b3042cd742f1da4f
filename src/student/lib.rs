//! Students: models, weights, losses, training and generation. The only crate that knows burn.
//!
//! | module | answers |
//! |---|---|
//! | [`model`] | what is computed: families, decoder |
//! | [`weights`], [`init`], [`cut`] | with which numbers |
//! | [`kernels`], [`precision`], [`backend`], [`device`], [`cpu`] | on what |
//! | [`kind`] | the stage `[student.X]` |
//! | [`generate`], [`score`], [`language_model`] | how it is used |
//! | [`loss`], [`optimizer`], [`schedule`], [`trainer`] | how numbers become better ones |
//! | [`throughput`] | how fast, against what the machine can do |

pub mod backend;
pub mod cpu;
pub mod cut;
pub mod device;
pub mod error;
pub mod generate;
pub mod init;
pub mod kernels;
pub mod kind;
pub mod language_model;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod precision;
pub mod schedule;
pub mod score;
pub mod throughput;
pub mod trainer;
pub mod weights;

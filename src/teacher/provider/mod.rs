//! Who answers: one folder or file a provider.

pub mod openai;

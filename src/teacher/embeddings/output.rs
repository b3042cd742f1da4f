//! What the stage writes: the vectors in the order of the texts, and the texts without one.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stillhouse_data::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingWriter, REFUSED_FILE, WithoutVector};
use stillhouse_data::jsonl::JsonlWriter;
use stillhouse_stage::{Class, Failure};

use super::texts::{Counts, Named};
use crate::reply::Reply;

/// Writes the artifact of an `embeddings` stage.
pub struct Output {
    vectors: EmbeddingWriter,
    /// Created with the first.
    refused: Option<JsonlWriter<WithoutVector>>,
    refusals: u64,
    folder: PathBuf,
    teacher: String,
}

impl Output {
    /// Creates the files in a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, of: Embedded, teacher: &str) -> Result<Self, Failure> {
        Ok(Self {
            vectors: EmbeddingWriter::create(&folder.join(EMBEDDINGS_FILE), of)?,
            refused: None,
            refusals: 0,
            folder: folder.to_owned(),
            teacher: teacher.to_owned(),
        })
    }

    /// Takes the reply to a text.
    ///
    /// # Errors
    /// If it cannot be written; a vector of another width than the others.
    pub fn take(&mut self, named: Named, reply: Reply) -> Result<(), Failure> {
        let Some(vector) = reply.vector else {
            self.refusals += 1;
            let refused = match &mut self.refused {
                Some(refused) => refused,
                none => none.insert(JsonlWriter::create(&self.folder.join(REFUSED_FILE))?),
            };
            let Named { text, prompt, sample } = named;
            return Ok(refused.write(&WithoutVector::new(text, prompt, sample, reply.finish))?);
        };
        let (width, found) = (self.vectors.width(), vector.0.len());
        if self.vectors.rows() > 0 && width != found {
            let message = format!(
                "teacher {} gave vectors of {width} numbers and of {found}: they are of different models",
                self.teacher
            );
            let hint = "a new `revision` of the teacher makes all of them anew; what is stored under the old one stays";
            return Err(Failure::new(Class::Teacher, message).hint(hint));
        }
        Ok(self.vectors.add(named.text, &vector.0)?)
    }

    /// Texts that the server refused so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Completes the files and gives the figures for the record.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish(self, counts: Counts) -> Result<Value, Failure> {
        let mut metrics = json!({ "rows": counts.rows, "vectors": self.vectors.rows(), "width": self.vectors.width() });
        let more = [("repeated", counts.repeated), ("blank", counts.blank), ("rejected", self.refusals)];
        for (name, count) in more.into_iter().filter(|(_, count)| *count > 0) {
            metrics[name] = json!(count);
        }
        self.vectors.finish()?;
        if let Some(refused) = self.refused {
            refused.finish()?;
        }
        Ok(metrics)
    }
}

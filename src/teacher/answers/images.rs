//! Prompts that show images to a teacher that sees none: said before anything is asked.

use std::io::{BufRead as _, BufReader};

use stillhouse_data::prompt::{Message, PROMPTS_FILE, Prompt};
use stillhouse_data::prompts::{ImageAt, PromptsConfig};
use stillhouse_spec::{Diagnostic, Diagnostics};
use stillhouse_stage::{Context, Failure, View};

use crate::provider::capability;

/// What stands in every line of prompts that shows an image.
const MARK: &str = "\"image_url\"";

fn hint() -> String {
    format!("take the images out, or ask a model that sees by a chat API; {}", capability::that_see())
}

/// Reports a source of prompts whose first rows show an image.
pub fn check(view: &View<'_>, why: &str, report: &mut Diagnostics) {
    let Some(prompts) = view.follow("prompts") else { return };
    let Some(config) = prompts.config_as::<PromptsConfig>() else { return };
    if let Some(ImageAt { path, line }) = config.first_image() {
        let message = format!("{} shows an image ({}:{line}), and {why}", prompts.label, path.display());
        report.push(Diagnostic::error(view.place("prompts"), message).hint(hint()));
    }
}

/// Looks through the prompts of a stage, all of them.
///
/// # Errors
/// The first that shows an image; prompts that cannot be read.
pub fn refuse(context: &Context, why: &str) -> Result<(), Failure> {
    // Those of answers that are scored are found when their turn comes.
    if !context.has_input("prompts") {
        return Ok(());
    }
    let input = context.input("prompts")?;
    let mut lines = BufReader::with_capacity(1 << 16, fs_err::File::open(input.path(PROMPTS_FILE)?)?);
    let (mut line, mut number) = (Vec::new(), 0_u64);
    while lines.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        // Few lines have it, and only those are parsed.
        if std::str::from_utf8(&line).is_ok_and(|text| text.contains(MARK))
            && let Ok(prompt) = serde_json::from_slice::<Prompt>(&line)
            && prompt.messages.iter().any(Message::has_images)
        {
            let stage = &input.stage;
            let message = format!("{stage}, {PROMPTS_FILE}:{number} (prompt {}) shows an image, and {why}", prompt.id);
            return Err(Failure::input(message).hint(hint()));
        }
        line.clear();
    }
    Ok(())
}

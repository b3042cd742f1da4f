//! How text is cut before byte-pair merging: `tokenizer.ggml.pre` names it.
//!
//! The wrong cuts give other ids than the model was trained with, and nothing would look wrong. So a name that is not
//! known here is an error, and so is a missing one (files made before April 2024).

use super::container::GgufFile;
use super::tokenizer_json::{Pattern, Step};
use crate::error::DataResult;

/// GPT-2's cuts.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's cuts.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's cuts.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way of cutting.
pub(super) struct PreTokenizer {
    /// Its names.
    names: &'static [&'static str],
    /// Cut one after the other, each within the pieces of the one before.
    cuts: &'static [Cut],
    /// Whether text is brought to Unicode's form NFC first.
    pub(super) composed: bool,
    /// Whether a piece that is a token as a whole is taken as it is, whatever the merges say.
    pub(super) whole_pieces: bool,
    /// Whether texts begin with the beginning-of-sequence token where the file does not say.
    pub(super) begins: bool,
}

enum Cut {
    Digits,
    At(&'static str),
}

/// The ways that are known: what the tokenizers of these models do in Hugging Face's files, and for `default` what
/// llama.cpp does.
static PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer { names: &["smollm"], cuts: &[Cut::Digits, Cut::At(GPT2)], ..PLAIN },
    PreTokenizer { names: &["gpt-2"], cuts: &[Cut::At(GPT2)], ..PLAIN },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cuts: &[Cut::At(LLAMA3)],
        whole_pieces: true,
        begins: true,
        ..PLAIN
    },
    PreTokenizer { names: &["qwen2"], cuts: &[Cut::At(QWEN2)], composed: true, ..PLAIN },
    PreTokenizer {
        names: &["default"],
        cuts: &[Cut::At(r"[\p{P}\$\+<=>\^~\|]+"), Cut::At(GPT2), Cut::At(r"\p{N}+"), Cut::At("[0-9][0-9][0-9]")],
        ..PLAIN
    },
];

const PLAIN: PreTokenizer = PreTokenizer { names: &[], cuts: &[], composed: false, whole_pieces: false, begins: false };

/// The way that a file names.
pub(super) fn of(file: &GgufFile) -> DataResult<&'static PreTokenizer> {
    let key = "tokenizer.ggml.pre";
    let hint = || {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().map(|known| known.names[0]).collect();
        format!(
            "the ids would be others than the model was trained with; known are {}; \
             a model folder with its own tokenizer.json works too",
            known.join(", ")
        )
    };
    let Some(name) = file.text(key)? else {
        let message = format!("metadata `{key}` is missing, so it is unknown how the tokenizer cuts text");
        return Err(file.fault(message, Some(&hint())));
    };
    let known = PRE_TOKENIZERS.iter().find(|known| known.names.contains(&name));
    known.ok_or_else(|| file.fault(format!("the pre-tokenizer `{name}` (metadata `{key}`) is unknown"), Some(&hint())))
}

impl PreTokenizer {
    /// As `tokenizer.json` writes it.
    pub(super) fn step(&self) -> Step {
        let mut steps: Vec<Step> = self.cuts.iter().map(Cut::step).collect();
        let cut_by_gpt2 = matches!(self.cuts, [Cut::At(GPT2)] | [Cut::Digits, Cut::At(GPT2)]);
        if cut_by_gpt2 {
            // The byte level brings GPT-2's cuts with it, and transformers knows them in this form.
            steps.pop();
        }
        steps.push(Step::ByteLevel { add_prefix_space: false, trim_offsets: true, use_regex: cut_by_gpt2 });
        match steps.len() {
            1 => steps.remove(0),
            _ => Step::Sequence { pretokenizers: steps },
        }
    }
}

impl Cut {
    fn step(&self) -> Step {
        match self {
            Self::Digits => Step::Digits { individual_digits: true },
            Self::At(expression) => {
                Step::Split { pattern: Pattern::Regex(expression), behavior: "Isolated", invert: false }
            }
        }
    }
}

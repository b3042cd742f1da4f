//! The words in which a teacher is asked for new prompts. They are in the requests' keys: a changed word asks anew.

use serde::Serialize;
use stillhouse_data::error::DataResult;
use stillhouse_data::random::Stream;
use stillhouse_data::source::RowTemplate;

use super::config::{ExpandConfig, StyleConfig};

/// What a template may use.
pub const NAMES: [&str; 2] = ["examples", "wanted"];

/// After Self-Instruct (Wang et al. 2022, arXiv 2212.10560): examples, and a list to be continued.
const SELF_INSTRUCT: &str = "\
Here are {{ examples | length }} requests that people have sent to an assistant:

{% for example in examples %}{{ loop.index }}. {{ example }}
{% endfor %}
Write {{ wanted }} new requests of this kind. Each has another subject than those above, stands by itself, and can be \
answered in words alone. Let them differ in what they ask for, in their form and in their length. Give a numbered list \
from 1 to {{ wanted }}, a request each, without answers and without any other text.";

/// After Evol-Instruct (Xu et al. 2023, arXiv 2304.12244): what is to be done to a prompt, one of these a request. The
/// first four make it more demanding (\"in depth\"), the last one takes its place with another (\"in breadth\").
const EVOLVE: [&str; 5] = [
    "Add one condition or requirement that an answer has to meet.",
    "Let it ask for more: a deeper treatment of its subject, or one more side of it.",
    "Replace what is general in it by something definite: names, numbers, a situation.",
    "Change it so that an answer takes several steps of reasoning one after the other.",
    "Write another request in its place: from the same field, about a rarer matter, as long and as hard.",
];
const EVOLVE_FRAME: [&str; 2] = [
    "Here is a request that somebody has sent to an assistant:\n\n",
    "\n\nRewrite it. {{ change }} It must stay something that a person would ask and that can be answered in words alone, and \
     grow by no more than some twenty words. Reply with the new request only: no answer, no heading, no remark.",
];

/// A style, ready to ask in.
pub enum Style {
    /// A template over examples.
    Examples(RowTemplate),
    /// Templates over one example.
    Evolve(Vec<RowTemplate>),
}

#[derive(Serialize)]
struct Shown<'a> {
    examples: &'a [&'a str],
    wanted: u32,
}

impl Style {
    /// The style of a stage.
    ///
    /// # Errors
    /// A template that does not compile.
    pub fn of(config: &ExpandConfig) -> DataResult<Self> {
        Ok(match &config.style {
            StyleConfig::SelfInstruct => Self::Examples(RowTemplate::new(SELF_INSTRUCT, "style")?),
            StyleConfig::Template(template) => Self::Examples(RowTemplate::new(&template.text, "style.template.text")?),
            StyleConfig::Evolve => {
                let [before, after] = EVOLVE_FRAME;
                let frame =
                    |change: &str| format!("{before}{{{{ examples[0] }}}}{}", after.replace("{{ change }}", change));
                Self::Evolve(
                    EVOLVE.iter().map(|change| RowTemplate::new(&frame(change), "style")).collect::<Result<_, _>>()?,
                )
            }
        })
    }

    /// The text of a request that shows some prompts.
    ///
    /// # Errors
    /// Whatever a template of the user's cannot do.
    pub fn request(&self, examples: &[&str], wanted: u32, stream: &mut Stream) -> DataResult<String> {
        let template = match self {
            Self::Examples(template) => template,
            Self::Evolve(templates) => &templates[stream.below(templates.len() as u64) as usize],
        };
        template.fill(Shown { examples, wanted })
    }
}

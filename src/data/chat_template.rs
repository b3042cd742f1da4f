//! Chat templates in Hugging Face's dialect of Jinja: how a conversation becomes the text a model was trained on.

use std::sync::Arc;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};

use crate::error::{DataError, DataResult};
use crate::prompt::Message;

/// The most steps that one conversation may take: far more than any needs, and over in seconds.
const FUEL: u64 = 50_000_000;
const NAME: &str = "chat template";

/// The day `strftime_now` tells. Templates that print today's date would make other tokens tomorrow; a dataset must
/// not. (Llama 3's template falls back on this very day where there is no clock.)
const DAY: jiff::civil::Date = jiff::civil::date(2024, 7, 26);

/// A compiled chat template with the special tokens it may print.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Compiles a template. `special` names the tokens it may print: `("bos_token", "<s>")`.
    pub fn new(source: &str, special: Vec<(String, String)>) -> DataResult<Self> {
        let mut environment = Environment::new();
        // The settings transformers compiles with.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| fault("the chat template cannot be read", &error))?;
        Ok(Self { environment: Arc::new(environment), special })
    }

    /// The text of a conversation; with `generation_prompt` it ends where the model is to go on.
    pub fn render(&self, messages: &[Message], generation_prompt: bool) -> DataResult<String> {
        let mut variables: Vec<(String, Value)> = vec![
            ("messages".into(), Value::from_serialize(messages)),
            ("add_generation_prompt".into(), generation_prompt.into()),
            ("tools".into(), Value::from(())),
            ("documents".into(), Value::from(())),
        ];
        variables.extend(self.special.iter().map(|(name, token)| (name.clone(), token.as_str().into())));
        let variables: Value = variables.into_iter().collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context! { ..variables }))
            .map_err(|error| fault("the chat template refuses this conversation", &error))
    }
}

fn fault(what: &str, error: &Error) -> DataError {
    if error.kind() == ErrorKind::OutOfFuel {
        return DataError::invalid(
            format!("{what}: it does not come to an end, and was stopped after {FUEL} steps"),
            "does a loop in it run over too much? a file of your own replaces the tokenizer's template",
        );
    }
    let place = error.line().map(|line| format!(" (template line {line})")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    DataError::invalid(
        format!("{what}: {detail}{place}"),
        "`chat-template = \"none\"` uses the plain text; a file of your own replaces the tokenizer's template",
    )
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, DAY.at(0, 0, 0, 0))
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// As `json.dumps(value, ensure_ascii=False)`: no HTML escapes, a space after `,` and `:`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut text = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut out = serde_json::Serializer::with_formatter(&mut text, formatter);
            serde::Serialize::serialize(value, &mut out).map_err(failed)?;
        }
        None => {
            let mut out = serde_json::Serializer::with_formatter(&mut text, PythonSpacing);
            serde::Serialize::serialize(value, &mut out).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&text).into_owned()))
}

/// Python's `json.dumps` puts a space after commas and colons.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// `{% generation %}` marks for transformers what the model is to learn. Here the completion is known already, so the
/// tags become comments of the same white-space control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else { break };
        let tag = &rest[start..start + length];
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        if matches!(word, "generation" | "endgeneration") {
            let open = if inner.starts_with('-') { "{#-" } else { "{#" };
            let close = if inner.ends_with('-') { "-#}" } else { "#}" };
            out.push_str(open);
            out.push_str(close);
        } else {
            out.push_str(tag);
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}\n{{ '<|im_start|>' + message['role'] + '\\n' + \
        message['content'].strip() + '<|im_end|>' + '\\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn render(source: &str, messages: &[Message]) -> DataResult<String> {
        ChatTemplate::new(source, vec![("eos_token".into(), "</s>".into())])?.render(messages, true)
    }

    #[test]
    fn chatml_renders_as_in_transformers() {
        let text = render(CHATML, &[Message::system("Be brief."), Message::user(" hi ")]).unwrap();
        assert_eq!(
            text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_template_may_refuse_with_its_own_words() {
        let source = "{{ raise_exception('roles must alternate') }}";
        let error = render(source, &[Message::user("x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the chat template refuses this conversation: roles must alternate (template line 1)"
        );
    }

    #[test]
    fn a_broken_template_is_an_error_with_its_line() {
        let error = render("a\n{% if %}", &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("the chat template cannot be read") && error.ends_with("(template line 2)"),
            "{error}"
        );
    }

    #[test]
    fn today_is_always_the_same_day() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}", &[]).unwrap(), "26 Jul 2024");
    }

    #[test]
    fn json_is_written_as_python_does() {
        let text = render("{{ messages | tojson }}", &[Message::user("<é>")]).unwrap();
        assert_eq!(text, r#"[{"role": "user", "content": "<é>"}]"#);
    }

    #[test]
    fn generation_tags_leave_no_trace() {
        let source = "a {%- generation -%} {{ messages[0].content + eos_token }} {% endgeneration %}b";
        assert_eq!(render(source, &[Message::user("x")]).unwrap(), "ax</s> b");
    }

    #[test]
    fn loops_may_break() {
        let source = "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}";
        assert_eq!(render(source, &[Message::user("x"), Message::user("y")]).unwrap(), "x");
    }
}

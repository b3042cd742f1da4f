//! Templates that a user writes over the fields of a row: `"{{ instruction }}\n{{ context }}"`.

use std::path::Path;

use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use stillhouse_stage::spec::suggest::{did_you_mean, list};

use super::csv::delimiter_in;
use super::objects::Object;
use super::printing;
use crate::error::{DataError, DataResult};

const NAME: &str = "template";
/// The most steps that one row may take: far more than a row of thousands of turns needs, and soon over.
const FUEL: u64 = 5_000_000;

/// A compiled template. Fields that a row does not have are errors, not empty text; `{{ field | default("") }}` says
/// that one may be missing. Null is empty text, and lists and objects are JSON.
#[derive(Debug)]
pub struct RowTemplate {
    environment: Box<Environment<'static>>,
    key: &'static str,
}

impl RowTemplate {
    /// Compiles a template; `key` is the setting it was written under, for messages.
    pub fn new(source: &str, key: &'static str) -> DataResult<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_keep_trailing_newline(true);
        environment.set_fuel(Some(FUEL));
        printing::set(&mut environment);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            DataError::invalid(
                format!("`{key}` is not a valid template: {detail}"),
                "a field is written {{ field }}, a condition {% if field %}…{% endif %}",
            )
        })?;
        Ok(Self { environment: Box::new(environment), key })
    }

    /// The text of values that the program itself gives.
    ///
    /// # Errors
    /// A name that is not among them; anything else the template cannot do with them.
    pub fn fill<S: Serialize>(&self, values: S) -> DataResult<String> {
        let filled = self.environment.get_template(NAME).and_then(|template| template.render(values));
        filled.map_err(|error| {
            let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            DataError::invalid(format!("`{}` fails: {detail}", self.key), "`stillhouse kinds` says what it may use")
        })
    }

    /// The names that the template uses, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let template = self.environment.get_template(NAME);
        let mut names: Vec<String> =
            template.map(|it| it.undeclared_variables(false)).unwrap_or_default().into_iter().collect();
        names.sort_unstable();
        names
    }

    /// The text of a row.
    ///
    /// # Errors
    /// A field the row does not have, with the fields it has; anything else the template cannot do with it.
    pub fn render(&self, path: &Path, object: &Object) -> DataResult<String> {
        let fault = |message: String, hint: Option<String>| DataError::Row {
            path: path.to_path_buf(),
            line: object.line,
            column: None,
            message,
            hint,
        };
        let template = self.environment.get_template(NAME).map_err(|error| fault(error.to_string(), None))?;
        template.render(printing::fields(&object.fields)).map_err(|error| {
            let mut wanted: Vec<String> = template.undeclared_variables(false).into_iter().collect();
            wanted.sort();
            let have: Vec<&str> = object.fields.keys().map(String::as_str).collect();
            let missing = wanted.iter().find(|name| !object.fields.contains_key(*name));
            match (error.kind(), missing) {
                (minijinja::ErrorKind::UndefinedError, Some(name)) => fault(
                    format!("the row has no field `{name}`, which `{}` uses", self.key),
                    Some(hint_for_missing(name, &have).unwrap_or_else(|| {
                        format!(
                            "the row has {}; a field that may be missing: {{{{ {name} | default(\"\") }}}}",
                            list(&have)
                        )
                    })),
                ),
                (minijinja::ErrorKind::OutOfFuel, _) => fault(
                    format!("`{}` does not come to an end on this row: it was stopped after {FUEL} steps", self.key),
                    Some("does a loop in it run over too much?".into()),
                ),
                _ => {
                    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
                    let null =
                        wanted.iter().find(|name| object.fields.get(*name).is_some_and(serde_json::Value::is_null));
                    let hint = null.map(|name| {
                        format!("`{name}` is null in this row: `({name} or \"\")` is empty text in its place")
                    });
                    fault(format!("`{}` fails on this row: {detail}", self.key), hint)
                }
            }
        })
    }
}

/// What to do about a field that a row with the fields `have` lacks, where one of them says it.
pub(crate) fn hint_for_missing(name: &str, have: &[&str]) -> Option<String> {
    if let [one] = have
        && let Some(delimiter) = delimiter_in(one)
    {
        return Some(format!("the row has one field, `{one}`: is `{}` the `delimiter`?", delimiter.escape_default()));
    }
    let close = did_you_mean(name, have.iter().copied())?;
    Some(format!("did you mean `{close}`? the row has {}", list(have)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str, json: &str) -> DataResult<String> {
        let object = Object { line: 7, fields: serde_json::from_str(json).unwrap() };
        RowTemplate::new(template, "template")?.render(Path::new("rows.jsonl"), &object)
    }

    #[test]
    fn fields_and_white_space_come_out_as_written() {
        let text = render("{{ q }}\n<{{ n }}>\n", r#"{"q": "a < \"b\"", "n": 3}"#).unwrap();
        assert_eq!(text, "a < \"b\"\n<3>\n");
    }

    #[test]
    fn a_missing_field_is_named_with_a_suggestion() {
        let error = render("{{ instrction }}", r#"{"instruction": "x", "input": ""}"#).unwrap_err();
        assert_eq!(error.to_string(), "rows.jsonl:7: the row has no field `instrction`, which `template` uses");
        assert_eq!(error.hint().unwrap(), "did you mean `instruction`? the row has `input`, `instruction`");
    }

    #[test]
    fn a_field_that_may_be_missing_can_say_so() {
        assert_eq!(render("{{ q }}{{ more | default('') }}", r#"{"q": "x"}"#).unwrap(), "x");
        assert_eq!(render("{% if more is defined %}y{% endif %}", r#"{"q": "x"}"#).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_done_with_null_is_told_with_what_can() {
        for template in ["{{ q + 'x' }}", "{{ q.name }}"] {
            let error = render(template, r#"{"q": null}"#).unwrap_err();
            assert!(error.to_string().starts_with("rows.jsonl:7: `template` fails on this row: "), "{error}");
            let hint = "`q` is null in this row: `(q or \"\")` is empty text in its place";
            assert_eq!(error.hint().as_deref(), Some(hint), "{template}");
        }
        assert_eq!(render("{{ 1 + 'x' }}", r#"{"q": null}"#).unwrap_err().hint(), None);
    }

    #[test]
    fn a_template_that_would_run_for_ever_is_stopped() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let error = render(endless, "{}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "rows.jsonl:7: `template` does not come to an end on this row: it was stopped after 5000000 steps"
        );
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_template_that_does_not_parse_names_its_setting() {
        let error = render("{{ q", "{}").unwrap_err().to_string();
        assert!(error.starts_with("`template` is not a valid template: "), "{error}");
    }
}

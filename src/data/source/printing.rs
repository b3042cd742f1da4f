//! How values of rows become text in a template: null is empty text, and what is nested is JSON.
//!
//! Jinja writes `None` for null, and lists and objects as Python does: words that no file of rows holds, and that a model would
//! then learn to say. Truth values alone stay `True` and `False`, so that a template gives what it gives in Jinja elsewhere.

use std::io;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, filters};
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

/// Makes an environment print so, by `{{ … }}` and by the filters that make text of a value.
pub(super) fn set(environment: &mut Environment<'static>) {
    environment.set_formatter(print);
    for (name, filter) in [
        ("capitalize", Value::from_function(filters::capitalize)),
        ("indent", Value::from_function(filters::indent)),
        ("lower", Value::from_function(filters::lower)),
        ("replace", Value::from_function(filters::replace)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("upper", Value::from_function(filters::upper)),
    ] {
        environment.add_filter(name, move |state: &State<'_, '_>, Rest(mut values): Rest<Value>| {
            if let Some(value) = values.first_mut().filter(|value| value.is_none() || is_nested(value)) {
                *value = Value::from(text(value)?);
            }
            filter.call(state, &values)
        });
    }
    environment.add_filter("string", |value: &Value| -> Result<Value, Error> {
        if value.is_none() || is_nested(value) { Ok(text(value)?.into()) } else { Ok(value.to_string().into()) }
    });
    let join = Value::from_function(filters::join);
    environment.add_filter("join", move |state: &State<'_, '_>, Rest(mut values): Rest<Value>| {
        if let Some(list) = values.first_mut().filter(|list| is_nested(list)) {
            let printed = |item: Value| match item.is_none() || is_nested(&item) {
                true => text(&item).map(Value::from),
                false => Ok(item),
            };
            *list = list.try_iter()?.map(printed).collect::<Result<Vec<Value>, Error>>()?.into();
        }
        join.call(state, &values)
    });
}

fn print(output: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_none() || is_nested(value) {
        return Ok(output.write_str(&text(value)?)?);
    }
    minijinja::escape_formatter(output, state, value)
}

fn is_nested(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Nothing for null, JSON for the rest.
fn text(value: &Value) -> Result<String, Error> {
    if value.is_none() {
        return Ok(String::new());
    }
    let mut json = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut json, Spaced));
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(String::from_utf8_lossy(&json).into_owned())
}

/// JSON on one line with a space behind commas and colons, as Jinja writes lists and Python's `json` everything.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::source::{Object, RowTemplate};

    fn render(template: &str, json: &str) -> String {
        let object = Object { line: 1, fields: serde_json::from_str(json).unwrap() };
        RowTemplate::new(template, "template").unwrap().render(Path::new("rows.jsonl"), &object).unwrap()
    }

    #[test]
    fn null_is_empty_text() {
        for template in
            ["{{ a }}", "{{ a | trim }}", "{{ a | string }}", "{{ a | upper }}", "{{ a | replace('N', 'x') }}"]
        {
            assert_eq!(render(&format!("<{template}>"), r#"{"a": null}"#), "<>", "{template}");
        }
        assert_eq!(render("{{ a | join('-') }}", r#"{"a": ["x", null, "y"]}"#), "x--y");
        assert_eq!(render("{% if a is none %}none{% endif %}{{ a or 'else' }}", r#"{"a": null}"#), "noneelse");
    }

    #[test]
    fn what_is_nested_is_json_and_the_rest_as_jinja_writes_it() {
        let row = r#"{"a": {"x": null, "y": [true, 1, 0.5, "ä\"\n"]}, "b": true, "c": 1.5, "d": [], "e": ["p", "q"]}"#;
        assert_eq!(render("{{ a }}", row), r#"{"x": null, "y": [true, 1, 0.5, "ä\"\n"]}"#);
        assert_eq!(render("{{ a | string }}", row), r#"{"x": null, "y": [true, 1, 0.5, "ä\"\n"]}"#);
        assert_eq!(render("{{ b }} {{ c }} {{ d }} {{ e }} {{ e | join }}", row), r#"True 1.5 [] ["p", "q"] pq"#);
        assert_eq!(render("{{ e | map('upper') }} {{ e[0] | upper }}", row), r#"["P", "Q"] P"#);
        assert_eq!(render("{{ a | tojson }}", row), r#"{"x":null,"y":[true,1,0.5,"ä\"\n"]}"#);
    }
}

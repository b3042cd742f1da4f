//! How values of rows become text in a template: null is empty text, and what is nested is JSON.
//!
//! Jinja writes `None` for null, and lists and objects as Python does: words that no file of rows holds, and that a model would
//! then learn to say. Truth values alone stay `True` and `False`, so that a template gives what it gives in Jinja elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, filters};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Map, Value as Json};

type List = VecDeque<Value>;

/// Makes an environment print so, by `{{ … }}` and by the filters and methods that take a text: null is one without letters there, a list
/// without items where one is taken, and stays null where a number is, or one of several items.
/// A part of null (`context[:200]`) is what null is.
pub(super) fn set(environment: &mut Environment<'static>) {
    environment.set_formatter(print);
    for (name, filter) in [
        ("capitalize", Value::from_function(filters::capitalize)),
        ("e", Value::from_function(filters::escape)),
        ("escape", Value::from_function(filters::escape)),
        ("indent", Value::from_function(filters::indent)),
        ("lower", Value::from_function(filters::lower)),
        ("replace", Value::from_function(filters::replace)),
        ("safe", Value::from_function(filters::safe)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("upper", Value::from_function(filters::upper)),
    ] {
        let texts = if name == "replace" { usize::MAX } else { 1 };
        environment.add_filter(name, move |state: &State<'_, '_>, Rest(mut values): Rest<Value>| {
            if let Some(value) = values.first_mut().filter(|value| is_nested(value)) {
                *value = Value::from(text(value)?);
            }
            values.iter_mut().take(texts).filter(|value| value.is_none()).for_each(|value| *value = Value::from(""));
            filter.call(state, &values)
        });
    }
    for (name, filter, instead) in [
        ("abs", Value::from_function(filters::abs), None),
        ("count", Value::from_function(filters::length), Some(Value::from(""))),
        ("dictsort", Value::from_function(filters::dictsort), Some(no_fields())),
        ("first", Value::from_function(filters::first), None),
        ("items", Value::from_function(filters::items), Some(no_fields())),
        ("last", Value::from_function(filters::last), None),
        ("length", Value::from_function(filters::length), Some(Value::from(""))),
        ("lines", Value::from_function(filters::lines), Some(Value::from(""))),
        ("max", Value::from_function(filters::max), None),
        ("min", Value::from_function(filters::min), None),
        ("reverse", Value::from_function(filters::reverse), Some(Value::from(""))),
        ("round", Value::from_function(filters::round), None),
        ("split", Value::from_function(filters::split), Some(Value::from(""))),
    ] {
        environment.add_filter(name, move |state: &State<'_, '_>, Rest(mut values): Rest<Value>| {
            if let Some(value) = values.first_mut().filter(|value| value.is_none() || is_part_of_null(value)) {
                let Some(instead) = &instead else { return Ok(value.clone()) };
                *value = instead.clone();
            }
            filter.call(state, &values).map(made)
        });
    }
    for (name, filter) in [
        ("batch", Value::from_function(filters::batch)),
        ("chain", Value::from_function(filters::chain)),
        ("groupby", Value::from_function(filters::groupby)),
        ("list", Value::from_function(filters::list)),
        ("map", Value::from_function(filters::map)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("slice", Value::from_function(filters::slice)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("zip", Value::from_function(filters::zip)),
    ] {
        environment.add_filter(name, move |state: &State<'_, '_>, Rest(values): Rest<Value>| {
            filter.call(state, &values).map(made)
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
    environment.set_unknown_method_callback(method);
}

/// What strings, lists and maps have in Python; null has what an empty text and an empty map have.
fn method(state: &State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    if !value.is_none() && !is_part_of_null(value) {
        return unknown_method_callback(state, value, name, arguments).map(made);
    }
    let called = match unknown_method_callback(state, &Value::from(""), name, arguments) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod => {
            unknown_method_callback(state, &no_fields(), name, arguments)
        }
        called => called,
    };
    called.map(made)
}

fn no_fields() -> Value {
    Value::from_serialize(BTreeMap::<String, String>::new())
}

/// The fields of a row for a template. Lists are no [`Vec`], which is what minijinja makes of a part of null (`context[:200]`): so that part can be told
/// from a field that is an empty list.
pub(super) fn fields(row: &Map<String, Json>) -> Value {
    row.iter().map(|(name, field)| (name.as_str(), field_value(field))).collect()
}

fn field_value(field: &Json) -> Value {
    match field {
        Json::Array(items) => Value::from_object(items.iter().map(field_value).collect::<List>()),
        Json::Object(members) => fields(members),
        plain => Value::from_serialize(plain),
    }
}

/// What a filter or a method made: its lists are lists, also where nothing is in them.
fn made(value: Value) -> Value {
    if is_part_of_null(&value) { Value::from_object(List::new()) } else { value }
}

fn is_part_of_null(value: &Value) -> bool {
    value.downcast_object_ref::<Vec<Value>>().is_some_and(Vec::is_empty)
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

/// Nothing for null and a part of it, JSON for the rest.
fn text(value: &Value) -> Result<String, Error> {
    if value.is_none() || is_part_of_null(value) {
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
    fn filters_take_null_for_a_text_without_letters_or_a_list_without_items() {
        for (template, expected) in [
            ("{{ a | length }}", "0"),
            ("{{ a | count }}", "0"),
            ("{% if a | length > 0 %}x{% else %}y{% endif %}", "y"),
            ("{{ a | safe }}{{ a | escape }}{{ a | e }}{{ a | title }}{{ a | capitalize }}{{ a | indent(2) }}", ""),
            ("{{ 'x,y' | replace(',', a) }}", "xy"),
            ("{{ a | first }}{{ a | last }}{{ a | min }}{{ a | max }}{{ a | reverse }}", ""),
            ("{{ a | abs }}{{ a | round(2) }}", ""),
            ("{{ a | int }} {{ a | float }} {{ a | sum }}", "0 0.0 0"),
            ("{{ a | lines }} {{ a | split }} {{ a | list }} {{ a | sort }} {{ a | unique }}", "[] [] [] [] []"),
            (
                "{{ a | map('upper') | list }} {{ a | select | list }} {{ a | items | list }} {{ a | dictsort }}",
                "[] [] [] []",
            ),
            ("{% for x in a %}x{% else %}none{% endfor %}", "none"),
            ("{{ a | join(', ') }}{{ a | default('x', true) }}{{ a or 'y' }}", "xy"),
            ("{{ a | default('x') }}", ""),
            ("{{ a.strip() }}{{ a.upper() }}{{ a.replace('x', 'y') }}", ""),
            ("{{ a.split() }} {{ a.items() | list }} {{ a.startswith('x') }}", "[] [] False"),
            ("{{ a is none }} {{ a is defined }} {{ a | tojson }}", "True True null"),
        ] {
            assert_eq!(render(template, r#"{"a": null}"#), expected, "{template}");
        }
        for template in [
            "{{ a[:200] }}",
            "{{ a[-5:] | trim }}",
            "{% if a is none %}{{ a [1:2] }}{% endif %}",
            "{{ m.text[:200] }}{{ m['text'][::2] | upper }}{{ (m.text or a)[:2] }}",
            "{% set x = a %}{{ x[:200] }}{{ x[:9].strip() }}{{ x[:9] | first }}{{ l[0][:1] | string }}",
            "{% for x in a[:3] %}{{ x }}{% endfor %}{% if a[:3] %}x{% endif %}",
        ] {
            assert_eq!(render(template, r#"{"a": null, "m": {"text": null}, "l": [null]}"#), "", "{template}");
        }
        assert_eq!(
            render("{{ b[:2] }} {{ c[:1] }} {{ c[2:] }}", r#"{"a": null, "b": "xyz", "c": [1, 2]}"#),
            "xy [1] []"
        );
        assert_eq!(
            render("{{ a | length }} {{ b | length }} {{ c | first }}", r#"{"a": "xy", "b": [1], "c": ["p"]}"#),
            "2 1 p"
        );
    }

    #[test]
    fn an_empty_list_is_printed_alike_whatever_other_fields_are() {
        let template = "{{ d }} {{ m.d }} {{ d | list }} {{ d[:2] }} {{ d | trim }} {{ d | map('upper') }} {{ e.split() }} {{ c[:200] }}|";
        for (context, printed) in [("null", ""), ("\"xyz\"", "xyz")] {
            let row = format!(r#"{{"c": {context}, "d": [], "e": "", "m": {{"d": []}}}}"#);
            assert_eq!(render(template, &row), format!("[] [] [] [] [] [] [] {printed}|"), "{context}");
        }
        let row = r#"{"d": [{"x": 2}, {"x": 1}, {"x": 2}]}"#;
        assert_eq!(render("{{ d | map(attribute='x') | sort(reverse=true) | unique }} {{ d[-1].x }}", row), "[2, 1] 2");
        assert_eq!(
            render("{{ d | selectattr('x', 'eq', 1) }} {{ d | length }} {{ (d + d[:1]) | length }}", row),
            r#"[{"x": 1}] 3 4"#
        );
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

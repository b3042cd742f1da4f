//! JSON with the members of objects as they stand in the file: in order, and a name that stands twice is an error.
//!
//! `serde_json::Value` keeps the last of two members of a name without a word, and their order only where some crate of the
//! build asks for it.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// Anything but a list or an object.
    Plain(Value),
    /// A list.
    Array(Vec<Self>),
    /// An object's members, in order.
    Object(Vec<(String, Self)>),
}

impl From<Json> for Value {
    fn from(json: Json) -> Self {
        match json {
            Json::Plain(value) => value,
            Json::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Json::Object(members) => {
                Self::Object(members.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Plain(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Plain(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Plain(text.into()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Plain(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut all: Vec<(String, Json)> = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            if all.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("the key `{name}` stands twice in one object")));
            }
            all.push((name, members.next_value()?));
        }
        Ok(Json::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_what_serde_json_reads() {
        for text in [
            r#"{"a": [1, -2, 0.1, 1e300, 18446744073709551615], "b": {"c": null, "d": [true, "ä\n"]}, "e": {}, "f": []}"#,
            "[]",
            "0.30000000000000004",
        ] {
            let read: Json = serde_json::from_str(text).unwrap();
            assert_eq!(Value::from(read), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn members_keep_their_order_and_stand_once() {
        let Json::Object(members) = serde_json::from_str(r#"{"q": 1, "b": 2, "a": 3}"#).unwrap() else { panic!() };
        assert_eq!(members.into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["q", "b", "a"]);
        let error = serde_json::from_str::<Json>(r#"{"a": {"b": 1, "b": 1}}"#).unwrap_err().to_string();
        assert!(error.starts_with("the key `b` stands twice in one object at line 1"), "{error}");
    }
}

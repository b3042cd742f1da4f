//! The embeddings API: several texts go, a vector for each comes.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;

use super::chat::usage;
use crate::provider::api::{Api, Unusable};
use crate::provider::lenient;
use crate::provider::opened::{self, opened};
use crate::reply::{Reply, Usage, Vector};
use crate::request::Request;

/// Embeddings of one model. A request is one text: its only message.
#[derive(Debug)]
pub struct EmbeddingsApi {
    model: String,
    together: usize,
    /// Numbers of a vector, once one came.
    width: OnceLock<usize>,
}

impl EmbeddingsApi {
    /// The model as the server knows it, and the texts in one body at most.
    #[must_use]
    pub fn new(model: String, together: usize) -> Self {
        Self { model, together: together.max(1), width: OnceLock::new() }
    }

    /// The vectors of a body, without a fault. All of it or nothing: a server that is wrong in one is not trusted with the others.
    fn sound(&self, vectors: Vec<Option<Numbers>>) -> Result<Vec<Vector>, Unusable> {
        let vectors: Vec<Vector> =
            vectors.into_iter().map(|numbers| sound(numbers.and_then(Numbers::read))).collect::<Result<_, _>>()?;
        let mut width = self.width.get().copied();
        for Vector(numbers) in &vectors {
            let width = *width.get_or_insert(numbers.len());
            if numbers.len() != width {
                let what = format!("a vector has {} numbers, those before it had {width}", numbers.len());
                return Err(Unusable::Broken(what));
            }
        }
        if let Some(width) = width {
            // Another body may have told it meanwhile: the stage compares all of them once more.
            _ = self.width.set(width);
        }
        Ok(vectors)
    }
}

/// A vector without a fault of its own.
fn sound(numbers: Option<Vec<f32>>) -> Result<Vector, Unusable> {
    let broken = |what: &str| Unusable::Broken(what.to_owned());
    let numbers = numbers.ok_or_else(|| broken("a vector is neither numbers nor their base64"))?;
    if numbers.is_empty() {
        return Err(broken("a vector has no numbers"));
    }
    if numbers.iter().any(|number| !number.is_finite()) {
        return Err(broken("a vector holds something that is no number"));
    }
    if numbers.iter().all(|number| *number == 0.0) {
        return Err(broken("a vector is all zeros"));
    }
    Ok(Vector(numbers))
}

/// The body of a request. Some servers answer in base64 where nothing is said.
#[derive(Serialize)]
struct Body<'r> {
    model: &'r str,
    input: Vec<&'r str>,
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "lenient::list")]
    data: Vec<Embedding>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl opened::Body for Answer {
    fn passed_on(&self) -> Option<&serde_json::Value> {
        self.error.as_ref().filter(|_| self.data.is_empty())
    }
}

#[derive(Deserialize)]
struct Embedding {
    #[serde(default)]
    index: Option<usize>,
    embedding: Numbers,
}

/// As a server writes a vector, whatever it was told. JSON has no NaN: it is null.
#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    Digits(Vec<Option<f64>>),
    Base64(String),
}

impl Numbers {
    fn read(self) -> Option<Vec<f32>> {
        match self {
            Self::Digits(numbers) => {
                Some(numbers.into_iter().map(|number| number.map_or(f32::NAN, |number| number as f32)).collect())
            }
            Self::Base64(text) => Vector::from_base64(&text).map(|vector| vector.0),
        }
    }
}

/// What a request embeds.
fn text(request: &Request) -> &str {
    request.messages.first().map_or("", |message| message.content.as_str())
}

/// The tokens of a body shared out by the texts' bytes: the server only tells the sum.
fn shares(tokens: u32, requests: &[Request]) -> Vec<u32> {
    let bytes: Vec<u64> = requests.iter().map(|request| text(request).len() as u64 + 1).collect();
    let all: u64 = bytes.iter().sum::<u64>().max(1);
    let (mut before, mut given) = (0, 0);
    let share = |bytes: &u64| {
        before += bytes;
        let until = (u128::from(tokens) * u128::from(before) / u128::from(all)) as u32;
        let share = until - given;
        given = until;
        share
    };
    bytes.iter().map(share).collect()
}

impl Api for EmbeddingsApi {
    fn path(&self) -> &'static str {
        "embeddings"
    }

    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>> {
        self.body_of_all(std::slice::from_ref(request))
    }

    fn parse(&self, body: &[u8], request: &Request) -> Result<Reply, Unusable> {
        let replies = self.parse_all(body, std::slice::from_ref(request))?;
        replies.into_iter().next().ok_or_else(|| Unusable::Broken("the reply has no vector".to_owned()))
    }

    fn usage(&self, body: &[u8]) -> Option<Usage> {
        usage(body)
    }

    fn together(&self) -> usize {
        self.together
    }

    fn makes_vectors(&self) -> bool {
        true
    }

    fn body_of_all(&self, requests: &[Request]) -> serde_json::Result<Vec<u8>> {
        let input = requests.iter().map(text).collect();
        serde_json::to_vec(&Body { model: &self.model, input, encoding_format: "float" })
    }

    fn parse_all(&self, body: &[u8], requests: &[Request]) -> Result<Vec<Reply>, Unusable> {
        let answer: Answer = opened(body)?;
        let (count, wanted) = (answer.data.len(), requests.len());
        if count != wanted {
            return Err(Unusable::Broken(format!("the reply has {count} vectors for {wanted} texts")));
        }
        let mut vectors: Vec<Option<Numbers>> = answer.data.iter().map(|_| None).collect();
        for (place, Embedding { index, embedding }) in answer.data.into_iter().enumerate() {
            let place = index.unwrap_or(place);
            match vectors.get_mut(place) {
                Some(free @ None) => *free = Some(embedding),
                Some(Some(_)) => return Err(Unusable::Broken(format!("the reply has two vectors for text {place}"))),
                None => return Err(Unusable::Broken(format!("the reply has a vector for text {place} of {wanted}"))),
            }
        }
        let vectors = self.sound(vectors)?;
        let model = answer.model.unwrap_or_default();
        let tokens = shares(usage(body).unwrap_or_default().prompt, requests);
        let reply = |(vector, prompt)| Reply {
            outcome: Outcome::Ok,
            text: String::new(),
            finish: String::new(),
            model: model.clone(),
            usage: Usage { prompt, completion: 0 },
            token_ids: None,
            tokens: None,
            vector: Some(vector),
        };
        Ok(vectors.into_iter().zip(tokens).map(reply).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stillhouse_data::prompt::Message;

    use super::*;
    use crate::request::Sampling;

    fn requests(texts: &[&str]) -> Vec<Request> {
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 0, stop: Vec::new() };
        let request = |text: &&str| Request {
            messages: vec![Message::user(*text)],
            sampling: sampling.clone(),
            capture: None,
            sample: 0,
            attempt: 0,
            seed: None,
            given: None,
        };
        texts.iter().map(request).collect()
    }

    fn api() -> EmbeddingsApi {
        EmbeddingsApi::new("m".to_owned(), 8)
    }

    #[test]
    fn texts_go_together_and_vectors_come_in_whatever_order_and_writing() {
        let requests = requests(&["aaa", "b"]);
        let body: Value = serde_json::from_slice(&api().body_of_all(&requests).unwrap()).unwrap();
        assert_eq!(body, json!({ "model": "m", "input": ["aaa", "b"], "encoding_format": "float" }));
        let answer = json!({
            "object": "list", "model": "m-1", "usage": { "prompt_tokens": 7, "total_tokens": 7 },
            "data": [{ "index": 1, "embedding": "AACAPwAAAMA=" }, { "index": 0, "embedding": [0.5, 1] }],
        });
        let replies = api().parse_all(answer.to_string().as_bytes(), &requests).unwrap();
        let vectors: Vec<Vec<f32>> = replies.iter().map(|reply| reply.vector.clone().unwrap().0).collect();
        assert_eq!(vectors, [[0.5, 1.0], [1.0, -2.0]]);
        let tokens: Vec<u32> = replies.iter().map(|reply| reply.usage.prompt).collect();
        assert_eq!((tokens, replies[0].model.as_str()), (vec![4, 3], "m-1"));
        let written = serde_json::to_string(&replies[1]).unwrap();
        assert!(written.contains(r#""vector":"AACAPwAAAMA=""#), "{written}");
        assert_eq!(serde_json::from_str::<Reply>(&written).unwrap(), replies[1]);
    }

    #[test]
    fn what_costs_nothing_to_understand_is_understood() {
        let answer = r#"{"model":"m-1","data":[{"embedding":[0.5,1]}]}"#;
        let twice = answer.replacen('{', r#"{"model":"first","#, 1);
        for body in [format!("\u{feff}{answer}"), twice] {
            let replies = api().parse_all(body.as_bytes(), &requests(&["a"])).unwrap();
            assert_eq!((replies.len(), replies[0].model.as_str()), (1, "m-1"), "{body}");
        }
        let passed_on = api().parse_all(br#"{"data":null,"error":{"message":"busy"}}"#, &requests(&["a"]));
        assert_eq!(passed_on, Err(Unusable::Broken("the reply is an error: busy".to_owned())));
        let nothing = api().parse_all("\u{feff} ".as_bytes(), &requests(&["a"]));
        assert_eq!(nothing, Err(Unusable::Broken("the reply is empty".to_owned())));
    }

    #[test]
    fn every_fault_of_an_answer_is_named() {
        let of = |data: Value| match api()
            .parse_all(json!({ "data": data }).to_string().as_bytes(), &requests(&["a", "b"]))
        {
            Err(Unusable::Broken(what)) => what,
            other => panic!("{other:?}"),
        };
        let good = json!([0.5, 1.0]);
        assert_eq!(of(json!([{ "embedding": good }])), "the reply has 1 vectors for 2 texts");
        let at = |index: usize| json!({ "index": index, "embedding": good });
        assert_eq!(of(json!([at(1), at(1)])), "the reply has two vectors for text 1");
        assert_eq!(of(json!([at(0), at(2)])), "the reply has a vector for text 2 of 2");
        let second = |vector: Value| of(json!([at(0), { "index": 1, "embedding": vector }]));
        assert_eq!(second(json!([0.5])), "a vector has 1 numbers, those before it had 2");
        assert_eq!(second(json!([])), "a vector has no numbers");
        assert_eq!(second(json!([0.5, null])), "a vector holds something that is no number");
        assert_eq!(second(json!([0.5, 1e300])), "a vector holds something that is no number");
        assert_eq!(second(json!([0.0, 0.0])), "a vector is all zeros");
        assert_eq!(second(json!("AAA")), "a vector is neither numbers nor their base64");
        assert!(second(json!([[0.5, 1.0]])).starts_with("the reply is not valid: "));
        let nan = br#"{"data":[{"embedding":[NaN]},{"embedding":[1]}]}"#;
        assert!(matches!(api().parse_all(nan, &requests(&["a", "b"])), Err(Unusable::Broken(_))));
        let passed_on = api().parse_all(br#"{"error":{"message":"busy"}}"#, &requests(&["a"]));
        assert_eq!(passed_on, Err(Unusable::Broken("the reply is an error: busy".to_owned())));
    }

    #[test]
    fn the_shares_of_tokens_add_up() {
        for tokens in [0, 1, 7, 1_000] {
            let shares = shares(tokens, &requests(&["", "a", "long enough", "é"]));
            assert_eq!(shares.iter().sum::<u32>(), tokens);
        }
    }
}

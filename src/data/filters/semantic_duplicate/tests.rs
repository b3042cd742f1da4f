use serde_json::json;
use stillhouse_stage::spec::{Diagnostics, Node};

use super::*;
use crate::embeddings::cosine::tests::random_unit;
use crate::embeddings::{Embedded, EmbeddingWriter, TextDigest};
use crate::filters::testing::judged;

const WIDTH: usize = 24;

/// Texts with a vector each: every third one is a slightly turned copy of one some places before it.
fn vectors(count: usize) -> (Vec<String>, Vec<Vec<f32>>) {
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    for number in 0..count {
        let fresh = random_unit(number as u64, WIDTH);
        let vector = match number % 3 {
            2 => vectors[number - 1 - number % 37 % number]
                .iter()
                .zip(&fresh)
                .map(|(old, new)| 5.0 * old + (number % 5) as f32 * 0.4 * new)
                .collect(),
            _ => fresh,
        };
        vectors.push(vector);
    }
    ((0..count).map(|number| format!("text {number}")).collect(), vectors)
}

fn seen(folder: &Path, texts: &[String], vectors: &[Vec<f32>], similarity: f64, exact_rows: usize) -> Seen {
    let path = folder.join(EMBEDDINGS_FILE);
    let mut writer = EmbeddingWriter::create(&path, Embedded::Answer).unwrap();
    for (text, vector) in texts.iter().zip(vectors) {
        writer.add(TextDigest::of(text), vector).unwrap();
    }
    writer.finish().unwrap();
    let config = json!({ "embeddings": "x", "similarity": similarity, "exact-rows": exact_rows });
    let filter = SemanticDuplicate::decode(&Node::from_json(&config), &mut Diagnostics::default()).unwrap();
    Seen::new(&filter, EmbeddingReader::open(&path).unwrap(), "embeddings.x".into(), Cancel::default())
}

fn rows(texts: &[String]) -> Vec<Judged<'_>> {
    texts.iter().zip(1..).map(|(text, line)| Judged { line, ..judged(text) }).collect()
}

/// Row by row, in twice the precision.
fn naive(vectors: &[Vec<f32>], similarity: f64) -> Vec<Option<usize>> {
    let unit = |vector: &Vec<f32>| {
        let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        vector.iter().map(|number| f64::from(*number) / length).collect::<Vec<f64>>()
    };
    let units: Vec<Vec<f64>> = vectors.iter().map(unit).collect();
    let mut kept: Vec<usize> = Vec::new();
    let mut dropped = Vec::new();
    for (number, row) in units.iter().enumerate() {
        let cosine = |other: &usize| row.iter().zip(&units[*other]).map(|(a, b)| a * b).sum::<f64>();
        let near = kept.iter().copied().max_by(|a, b| cosine(a).total_cmp(&cosine(b)).then(b.cmp(a)));
        let duplicate = near.filter(|near| cosine(near) >= similarity);
        if duplicate.is_none() {
            kept.push(number);
        }
        dropped.push(duplicate);
    }
    dropped
}

fn dropped(verdicts: &[Verdict]) -> Vec<Option<usize>> {
    let line = |verdict: &Verdict| match verdict {
        Verdict::Drop(why) => {
            Some(why.split("row 0:").nth(1).unwrap().split(',').next().unwrap().parse::<usize>().unwrap() - 1)
        }
        _ => None,
    };
    verdicts.iter().map(line).collect()
}

#[test]
fn a_row_goes_when_a_kept_one_is_as_near_as_the_table_says_and_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, vectors) = vectors(700);
    let expected = naive(&vectors, 0.95);
    let found = seen(folder.path(), &texts, &vectors, 0.95, 50_000).judge(&rows(&texts)).unwrap();
    assert_eq!(dropped(&found), expected);
    let gone = expected.iter().flatten().count();
    assert!((100..300).contains(&gone), "{gone}");
}

#[test]
fn neither_batches_nor_threads_change_a_verdict_exactly_or_by_hashing() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, vectors) = vectors(420);
    let rows = rows(&texts);
    for exact_rows in [50_000, 100] {
        let whole = seen(folder.path(), &texts, &vectors, 0.95, exact_rows).judge(&rows).unwrap();
        for size in [1, 97] {
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let mut pass = seen(folder.path(), &texts, &vectors, 0.95, exact_rows);
            let parts: Vec<Verdict> =
                rows.chunks(size).flat_map(|chunk| one.install(|| pass.judge(chunk)).unwrap()).collect();
            assert_eq!(parts, whole, "{exact_rows} {size}");
        }
    }
}

#[test]
fn hashing_finds_what_comparing_all_finds_but_for_one_in_a_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, vectors) = vectors(900);
    let rows = rows(&texts);
    let exact = dropped(&seen(folder.path(), &texts, &vectors, 0.95, 50_000).judge(&rows).unwrap());
    let hashed = dropped(&seen(folder.path(), &texts, &vectors, 0.95, 1).judge(&rows).unwrap());
    let (all, same) = (exact.iter().flatten().count(), exact.iter().zip(&hashed).filter(|(a, b)| a == b).count());
    assert!(all > 150, "{all}");
    assert!(same >= rows.len() - 1, "{} of {} verdicts differ", rows.len() - same, rows.len());
}

#[test]
fn equal_vectors_are_duplicates_at_a_similarity_of_1() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["a", "b", "c"].map(str::to_owned);
    let vector = random_unit(1, WIDTH);
    let longer = vector.iter().map(|number| 3.0 * number).collect();
    let vectors = [vector, longer, random_unit(2, WIDTH)];
    let found = seen(folder.path(), &texts, &vectors, 1.0, 10).judge(&rows(&texts)).unwrap();
    assert_eq!(found, [Verdict::Keep, Verdict::Drop("cosine 1.000 to row 0:1, which stays".into()), Verdict::Keep]);
}

#[test]
fn a_row_without_a_vector_is_treated_as_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["a", "b"].map(str::to_owned);
    let pass = || seen(folder.path(), &texts[..1], &[random_unit(1, WIDTH)], 0.9, 10);
    let error = pass().judge(&rows(&texts)).unwrap_err();
    assert_eq!(error.to_string(), "embeddings.x/embeddings.bin: there is no vector for the text of row 2 of source 0");
    assert!(error.hint().unwrap().contains("unknown"));
    for (unknown, verdict) in
        [(Unknown::Keep, Verdict::Keep), (Unknown::Drop, Verdict::Drop("its text has no vector".into()))]
    {
        let mut pass = Seen { unknown, ..pass() };
        assert_eq!(pass.judge(&rows(&texts)).unwrap()[1], verdict);
    }
}

//! Keeps rows in given languages.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};
use whatlang::Lang;

use super::{EachRow, Filter, Judged, On, Pass, Place, Verdict};

/// Keeps rows in given languages. The language is told by script and by the frequencies of trigrams (the crate
/// `whatlang`, 70 languages): sure for a paragraph, a guess for a few words, and a guess drops nothing.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Language {
    /// The languages that stay, by their code in ISO 639-1 or 639-3 (`"en"`, `"eng"`) or their English name.
    pub keep: Vec<String>,
    /// A row goes when its text is in another language with at least this confidence, from 0 to 1.
    #[config(default = 0.8, min = 0.0, max = 1.0)]
    pub confidence: f64,
    /// Texts of fewer letters are not judged.
    #[config(default = 40)]
    pub min_letters: usize,
    /// The texts that are judged, each by itself.
    #[config(default = On::Completion)]
    pub on: On,
}

/// ISO 639-1 codes of the languages whose 639-3 code whatlang knows them by.
const SHORT: &[(&str, &str)] = &[
    ("af", "afr"),
    ("ak", "aka"),
    ("am", "amh"),
    ("ar", "ara"),
    ("az", "aze"),
    ("be", "bel"),
    ("bg", "bul"),
    ("bn", "ben"),
    ("ca", "cat"),
    ("cs", "ces"),
    ("cy", "cym"),
    ("da", "dan"),
    ("de", "deu"),
    ("el", "ell"),
    ("en", "eng"),
    ("eo", "epo"),
    ("es", "spa"),
    ("et", "est"),
    ("fa", "pes"),
    ("fi", "fin"),
    ("fr", "fra"),
    ("gu", "guj"),
    ("he", "heb"),
    ("hi", "hin"),
    ("hr", "hrv"),
    ("hu", "hun"),
    ("hy", "hye"),
    ("id", "ind"),
    ("it", "ita"),
    ("ja", "jpn"),
    ("jv", "jav"),
    ("ka", "kat"),
    ("km", "khm"),
    ("kn", "kan"),
    ("ko", "kor"),
    ("la", "lat"),
    ("lt", "lit"),
    ("lv", "lav"),
    ("mk", "mkd"),
    ("ml", "mal"),
    ("mr", "mar"),
    ("my", "mya"),
    ("nb", "nob"),
    ("ne", "nep"),
    ("nl", "nld"),
    ("no", "nob"),
    ("or", "ori"),
    ("pa", "pan"),
    ("pl", "pol"),
    ("pt", "por"),
    ("ro", "ron"),
    ("ru", "rus"),
    ("si", "sin"),
    ("sk", "slk"),
    ("sl", "slv"),
    ("sn", "sna"),
    ("sr", "srp"),
    ("sv", "swe"),
    ("ta", "tam"),
    ("te", "tel"),
    ("th", "tha"),
    ("tk", "tuk"),
    ("tl", "tgl"),
    ("tr", "tur"),
    ("uk", "ukr"),
    ("ur", "urd"),
    ("uz", "uzb"),
    ("vi", "vie"),
    ("yi", "yid"),
    ("zh", "cmn"),
    ("zu", "zul"),
];

fn language(name: &str) -> Option<Lang> {
    let lower = name.to_lowercase();
    let code = SHORT.iter().find(|(short, _)| *short == lower).map_or(lower.as_str(), |(_, code)| code);
    Lang::from_code(code).or_else(|| Lang::all().iter().copied().find(|lang| lang.eng_name().to_lowercase() == lower))
}

fn sound(config: &Language, node: &Node, report: &mut Diagnostics) {
    let at = node.as_table().and_then(|table| table.get("keep")).map_or(node.at, |list| list.at);
    if config.keep.is_empty() {
        report.push(Diagnostic::error(at, "`keep` names no language").hint("keep = [\"en\"]"));
    }
    for name in config.keep.iter().filter(|name| language(name).is_none()) {
        let known = SHORT.iter().map(|(short, _)| *short).chain(Lang::all().iter().map(|lang| lang.code()));
        report.push(Diagnostic::error(at, format!("`{name}` is no language that can be told")).suggest(name, known));
    }
}

impl Filter for Language {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let (filter, keep) = (self.clone(), self.keep.iter().filter_map(|name| language(name)).collect::<Vec<_>>());
        Ok(Box::new(EachRow(move |row: &Judged<'_>| {
            match filter.on.texts(row).find_map(|text| filter.foreign(text, &keep)) {
                Some((lang, confidence)) => {
                    Verdict::Drop(format!("it is in {} (confidence {confidence:.2})", lang.eng_name()))
                }
                None => Verdict::Keep,
            }
        })))
    }
}

impl Language {
    /// The language of a text, if it is surely none of those that stay.
    fn foreign(&self, text: &str, keep: &[Lang]) -> Option<(Lang, f64)> {
        if text.chars().filter(|character| character.is_alphabetic()).count() < self.min_letters {
            return None;
        }
        let found = whatlang::detect(text)?;
        (!keep.contains(&found.lang()) && found.confidence() >= self.confidence)
            .then_some((found.lang(), found.confidence()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filters::testing::{judged, reasons};

    fn decode(table: serde_json::Value) -> (Option<Language>, Vec<String>) {
        let mut report = Diagnostics::default();
        let decoded = Language::decode(&Node::from_json(&table), &mut report);
        (decoded, report.sorted().iter().map(|one| one.message.clone()).collect())
    }

    #[test]
    fn other_languages_go_and_what_cannot_be_told_stays() {
        let filter = decode(json!({ "keep": ["en"] })).0.unwrap();
        let rows = [
            "The capital of France is Paris, a city that lies on the river Seine in the north of the country.",
            "Die Hauptstadt von Frankreich ist Paris, eine Stadt, die an der Seine im Norden des Landes liegt.",
            "\u{6771}\u{4eac}\u{306f}\u{65e5}\u{672c}\u{306e}\u{9996}\u{90fd}\u{3067}\u{3059}\u{3002}".repeat(4).leak(),
            "Ja, das ist so.",
            "1 + 1 = 2, 2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16, 16 + 16 = 32, 32 + 32 = 64, 64 + 64 = 128",
        ];
        let reasons = reasons(&filter, &rows.map(judged));
        assert_eq!(reasons[0], "");
        assert!(reasons[1].starts_with("it is in German (confidence "), "{}", reasons[1]);
        assert!(reasons[2].starts_with("it is in Japanese (confidence "), "{}", reasons[2]);
        assert_eq!(reasons[3..], ["", ""]);
        let both = decode(json!({ "keep": ["German", "eng"] })).0.unwrap();
        assert_eq!(
            super::super::testing::kept(&both, &rows[..3].iter().map(|text| judged(text)).collect::<Vec<_>>()),
            [true, true, false]
        );
    }

    #[test]
    fn every_short_code_means_a_language_and_every_language_has_one() {
        assert!(SHORT.iter().all(|(_, code)| Lang::from_code(*code).is_some()));
        assert!(Lang::all().iter().all(|lang| SHORT.iter().any(|(_, code)| *code == lang.code())));
    }

    #[test]
    fn a_language_that_is_not_known_is_named() {
        assert_eq!(decode(json!({ "keep": ["en", "xx"] })).1, ["`xx` is no language that can be told"]);
        assert_eq!(decode(json!({ "keep": [] })).1, ["`keep` names no language"]);
    }
}

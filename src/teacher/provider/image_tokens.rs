//! What images take in a prompt, before a server has counted them: as OpenAI's and Anthropic's documentation reckons them, by their
//! size. Servers of other models count in ways of their own; for them OpenAI's first rule stands in.
//!
//! OpenAI (<https://platform.openai.com/docs/guides/images-vision>, "Calculating costs"): either tiles, `base + tile · n`, n
//! the squares of 512 pixels that cover the image once it is shrunk into 2,048 × 2,048 and then to 768 pixels at its shorter side,
//! and `base` alone at `detail = "low"`; or patches of 32 pixels, at most 1,536 of them, times a factor.
//! Anthropic (<https://docs.claude.com/en/docs/build-with-claude/vision>, "Evaluate image size"): `width · height / 750`, once the image is
//! shrunk to 1,568 pixels at its longer side and about 1,600 tokens.

use stillhouse_data::image_size::pixels_of_url;
use stillhouse_data::prompt::ImageUrl;

/// How a model reckons images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// Tiles of 512 pixels.
    Tiles {
        /// Tokens of any image.
        base: u64,
        /// Tokens of a tile.
        tile: u64,
    },
    /// Patches of 32 pixels.
    Patches {
        /// Tokens a patch.
        factor: f64,
    },
    /// Pixels.
    Area,
}

/// Beginnings of OpenAI's models and their rules; the first that fits counts.
const MODELS: &[(&str, Rule)] = &[
    ("gpt-4o-mini", Rule::Tiles { base: 2833, tile: 5667 }),
    ("gpt-4.1-mini", Rule::Patches { factor: 1.62 }),
    ("gpt-4.1-nano", Rule::Patches { factor: 2.46 }),
    ("gpt-5-mini", Rule::Patches { factor: 1.62 }),
    ("gpt-5-nano", Rule::Patches { factor: 2.46 }),
    ("gpt-5", Rule::Tiles { base: 70, tile: 140 }),
    ("o4-mini", Rule::Patches { factor: 1.72 }),
    ("o1", Rule::Tiles { base: 75, tile: 150 }),
    ("o3", Rule::Tiles { base: 75, tile: 150 }),
];
const OTHERS: Rule = Rule::Tiles { base: 85, tile: 170 };

const MOST_PATCHES: f64 = 1536.0;
const MOST_BY_AREA: f64 = 1600.0;
const LONGEST_BY_AREA: f64 = 1568.0;
/// Tiles of an image of 2,048 × 768 pixels.
const MOST_TILES: u64 = 8;

impl Rule {
    /// The rule of a provider's model.
    pub(super) fn of(provider: &str, model: &str) -> Self {
        if provider == "anthropic" {
            return Self::Area;
        }
        MODELS.iter().find(|(begins, _)| model.starts_with(begins)).map_or(OTHERS, |(_, rule)| *rule)
    }

    /// Tokens of an image; of one whose size is not known, as one on the web, the most that it can take.
    pub(super) fn tokens(self, image: &ImageUrl) -> u64 {
        if let (Self::Tiles { base, .. }, Some("low")) = (self, image.detail.as_deref()) {
            return base;
        }
        match pixels_of_url(&image.url) {
            Some((width, height)) => self.tokens_of(f64::from(width.max(1)), f64::from(height.max(1))),
            None => self.most(),
        }
    }

    fn most(self) -> u64 {
        match self {
            Self::Tiles { base, tile } => base + MOST_TILES * tile,
            Self::Patches { factor } => (MOST_PATCHES * factor).ceil() as u64,
            Self::Area => MOST_BY_AREA as u64,
        }
    }

    fn tokens_of(self, width: f64, height: f64) -> u64 {
        let covered = |scale: f64, square: f64| (width * scale / square).ceil() * (height * scale / square).ceil();
        match self {
            Self::Tiles { base, tile } => {
                let fits = (2048.0 / width.max(height)).min(1.0);
                let shrunk = (768.0 / (width.min(height) * fits)).min(1.0) * fits;
                base + tile * covered(shrunk, 512.0) as u64
            }
            Self::Patches { factor } => (covered(1.0, 32.0).min(MOST_PATCHES) * factor).ceil() as u64,
            Self::Area => {
                let scale = (LONGEST_BY_AREA / width.max(height)).min(1.0);
                (width * scale * height * scale / 750.0).min(MOST_BY_AREA).ceil() as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_documentation_s_examples_give_its_tokens() {
        let tiles = Rule::of("openai", "gpt-4o-2024-08-06");
        assert_eq!(tiles.tokens_of(1024.0, 1024.0), 765);
        assert_eq!(tiles.tokens_of(2048.0, 4096.0), 1105);
        assert_eq!(tiles.tokens_of(300.0, 200.0), 85 + 170, "an image is never enlarged");
        let patches = Rule::of("openai", "gpt-4.1-mini-2025-04-14");
        assert_eq!(patches.tokens_of(1024.0, 1024.0), 1659);
        assert_eq!(patches.tokens_of(4000.0, 4000.0), 2489, "1,536 patches at most");
        let area = Rule::of("anthropic", "claude-sonnet-4-5-20250929");
        assert_eq!([area.tokens_of(200.0, 200.0), area.tokens_of(1000.0, 1000.0)], [54, 1334]);
        assert_eq!(area.tokens_of(4000.0, 4000.0), 1600);
    }

    #[test]
    fn an_image_is_never_nothing() {
        let image = |url: &str, detail: Option<&str>| ImageUrl { url: url.into(), detail: detail.map(str::to_owned) };
        let web = image("https://example.org/a.png", None);
        assert_eq!(Rule::of("openai", "llava").tokens(&web), 85 + 8 * 170, "as much as it can take");
        assert_eq!(Rule::of("openai", "llava").tokens(&image(&web.url, Some("low"))), 85);
        assert_eq!(Rule::of("anthropic", "claude").tokens(&web), 1600);
        for rule in [OTHERS, Rule::Patches { factor: 1.62 }, Rule::Area] {
            assert!(rule.tokens_of(1.0, 1.0) > 0, "{rule:?}");
        }
    }
}

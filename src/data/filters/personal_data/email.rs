//! E-mail addresses, and what is written like one and is none: logins of servers, versions of packages, names of files.

use std::ops::Range;

use super::super::regex::compile;

/// Letters of the scripts in which addresses stand apart from what is around them: in others, such as Han, a text writes no
/// spaces, and its words are no part of an address.
const ADDRESS: &str = r"(?x)
    [\p{Latin}\p{Greek}\p{Cyrillic}\p{M}0-9._%+-]+ (?: ' [\p{Latin}\p{Greek}\p{Cyrillic}\p{M}0-9._%+-]+ )*
    @ (?: [\p{Latin}\p{Greek}\p{Cyrillic}\p{M}0-9-]+ \. )+ (?: xn--[A-Za-z0-9-]+ | [\p{Latin}\p{Greek}\p{Cyrillic}]{2,} )";
/// RFC 2606, section 2: top-level domains that nobody has; section 3: domains for examples.
const RESERVED: &[&str] = &["test", "example", "invalid", "localhost"];
const EXAMPLES: &[&str] = &["example.com", "example.net", "example.org"];
/// Users that stand for a service wherever they log in: `git@github.com:owner/repo.git`.
const SERVICES: &[&str] = &["git", "hg", "svn"];
/// Endings of files that are no top-level domain: `icon@2x.png`.
const FILES: &[&str] = &[
    "bmp", "class", "cpp", "css", "csv", "deb", "gif", "gz", "html", "ico", "jar", "jpeg", "jpg", "js", "json", "jsx",
    "pdf", "php", "png", "scss", "svg", "tar", "tgz", "tiff", "toml", "ts", "tsx", "txt", "wav", "webp", "whl", "xml",
    "yaml", "yml",
];
/// First words of an expression behind the operator `@`: `x@self.weight`.
const OBJECTS: &[&str] = &["self", "cls", "np", "jnp", "torch"];
/// Last words of one: no top-level domains.
const FIELDS: &[&str] = &["bias", "device", "dtype", "grad", "shape", "size", "weight"];
/// A shorter last word of such an expression may be a top-level domain: `joe@torch.ai`.
const SHORTEST_FIELD: usize = 4;

/// Finds addresses.
pub(super) struct Addresses(regex::Regex);

impl Addresses {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self(compile(ADDRESS)?))
    }

    /// The places of the addresses.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let found = self.0.find_iter(text).map(|found| found.range());
        found.filter(|place| is_address(text, place)).collect()
    }
}

fn is_address(text: &str, place: &Range<usize>) -> bool {
    let Some((user, domain)) = text[place.clone()].rsplit_once('@') else { return false };
    let (domain, behind) = (domain.to_lowercase(), &text[place.end..]);
    let goes_on = behind.starts_with(|next: char| next == '_' || next.is_ascii_digit());
    !(goes_on
        || is_reserved(&domain)
        || is_no_domain(&domain)
        || is_expression(user, &domain, behind)
        || SERVICES.contains(&user)
        || is_login(&text[..place.start], behind))
}

/// Whether a domain is one that RFC 2606 reserves, or below one: by whole labels.
fn is_reserved(domain: &str) -> bool {
    let last = domain.rsplit('.').next().unwrap_or_default();
    let below =
        |example: &&str| domain.strip_suffix(*example).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    RESERVED.contains(&last) || EXAMPLES.iter().any(below)
}

/// Whether it is a file or a version (`pkg@1.2.3-rc.next`, `pkg@v2.0-beta.ok`).
fn is_no_domain(domain: &str) -> bool {
    let (first, rest) = domain.split_once('.').unwrap_or((domain, ""));
    let last = domain.rsplit('.').next().unwrap_or_default();
    let number = first.strip_prefix('v').unwrap_or(first);
    let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let version = numbered && rest.starts_with(|digit: char| digit.is_ascii_digit());
    version || FILES.contains(&last)
}

/// Whether it is a product of matrices in a program: `x@self.weight`, `W@np.linalg.inv(A)`, `a@b.transpose(0, 1)`.
fn is_expression(user: &str, domain: &str, behind: &str) -> bool {
    let calls = behind.starts_with(['(', '[']);
    let first = domain.split('.').next().unwrap_or_default();
    let last = domain.rsplit('.').next().unwrap_or_default();
    FIELDS.contains(&last)
        || (OBJECTS.contains(&first) && (calls || last.len() >= SHORTEST_FIELD))
        || (calls && user.len() <= 2)
}

/// Whether somebody logs in there: `scp x deploy@host.de:/srv`, or the user of an address (`ssh://deploy@host.de`,
/// `https://user:password@host.de`; what stands behind its first `/` is no user).
fn is_login(before: &str, behind: &str) -> bool {
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    let user_of_an_address = word.rsplit_once("://").is_some_and(|(_, user)| !user.contains(['/', '?', '#']));
    user_of_an_address || behind.starts_with(":/") || behind.starts_with(":~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_like_an_address_and_is_none_stays() {
        let addresses = Addresses::new().unwrap();
        for text in [
            "git clone git@github.com:owner/repo.git",
            "ssh -T git@gitlab.com",
            "scp x deploy@build.firma.de:/srv and deploy@build.firma.de:~/x",
            "ssh://deploy@build.firma.de:22/x, postgres://app@db.firma.de/x, https://user:pass@firma.de/x",
            "root@localhost, user@localhost:8080, postgres@127.0.0.1",
            "icon@2x.png, logo@3x.jpg, sprite@2x.webp",
            "npm i pkg@1.2.3 left-pad@1.3.0-rc.next @scope/pkg@2.0.0-beta.alpha",
            "uses: actions/checkout@v4, x/y@v2.1.0-rc.final",
            "ghcr.io/owner/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "y = x@self.weight.t() + W@np.linalg.inv(A) + a@b.transpose(0, 1)",
            "@app.route and @pytest.mark.parametrize",
            "com.firma.Thing@1b2c3d4e",
            "W@x.shape, a@b.dtype and foo@Override.class",
        ] {
            let found: Vec<&str> = addresses.find(text).into_iter().map(|place| &text[place]).collect();
            assert_eq!(found, [""; 0], "{text}");
        }
    }

    #[test]
    fn addresses_beside_such_things_are_found() {
        let addresses = Addresses::new().unwrap();
        for (text, expected) in [
            ("mail joe@163.com", vec!["joe@163.com"]),
            ("mailto:joe@firma.de", vec!["joe@firma.de"]),
            ("https://firma.de/?to=joe@firma.de", vec!["joe@firma.de"]),
            ("joe@firma.de:hunter2", vec!["joe@firma.de"]),
            ("(joe@firma.de)", vec!["joe@firma.de"]),
            ("joe@firma.de(Joe), joe@torch.ai", vec!["joe@firma.de", "joe@torch.ai"]),
            ("gitte@firma.de, git.hub@firma.de", vec!["gitte@firma.de", "git.hub@firma.de"]),
            ("ann@v2.firma.de and ann@self-made.de", vec!["ann@v2.firma.de", "ann@self-made.de"]),
        ] {
            let found: Vec<&str> = addresses.find(text).into_iter().map(|place| &text[place]).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}

//! How large an image is, told by the first bytes of its file: what servers reckon images by.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// So much of a `data:` URI is decoded first: a header is at the beginning, but behind a photo's notes where it has some.
const FIRST: usize = 16 << 10;

/// Width and height in pixels of an image that is a `data:` URI; nothing for one that lies elsewhere, or is of a format that is
/// not known.
#[must_use]
pub fn pixels_of_url(url: &str) -> Option<(u32, u32)> {
    let (_, text) = url.strip_prefix("data:image/")?.split_once(";base64,")?;
    let decode = |length: usize| STANDARD.decode(text.as_bytes().get(..length)?).ok();
    let first = (text.len() > FIRST).then(|| decode(FIRST)).flatten();
    first.and_then(|bytes| pixels(&bytes)).or_else(|| pixels(&decode(text.len())?))
}

/// Width and height in pixels of a PNG, JPEG, GIF or WebP.
#[must_use]
pub fn pixels(bytes: &[u8]) -> Option<(u32, u32)> {
    let big = |at: usize| Some(u32::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let little = |at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some((big(16)? << 16 | big(18)?, big(20)? << 16 | big(22)?)),
        [b'G', b'I', b'F', b'8', ..] => Some((little(6)?, little(8)?)),
        [0xff, 0xd8, 0xff, ..] => jpeg(bytes),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => match bytes.get(12..16)? {
            b"VP8 " => Some((little(26)? & 0x3fff, little(28)? & 0x3fff)),
            // 14 bits each, less one, behind a signature of one byte.
            b"VP8L" => {
                let bits = little(21)? | little(23)? << 16;
                Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
            }
            b"VP8X" => {
                let three = |at: usize| Some(little(at)? | u32::from(*bytes.get(at + 2)?) << 16);
                Some((three(24)? + 1, three(27)? + 1))
            }
            _ => None,
        },
        _ => None,
    }
}

/// Segment by segment to the one that begins a frame.
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| Some(u32::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let mut at = 2;
    loop {
        let (mark, kind) = (*bytes.get(at)?, *bytes.get(at + 1)?);
        match (mark, kind) {
            (0xff, 0xff) => at += 1,
            // Start of a frame of any coding; C4, C8 and CC are tables.
            (0xff, 0xc0..=0xcf) if !matches!(kind, 0xc4 | 0xc8 | 0xcc) => {
                return Some((number(at + 7)?, number(at + 5)?));
            }
            (0xff, 0x01 | 0xd0..=0xd7) => at += 2,
            (0xff, 0xd9 | 0xda) => return None,
            (0xff, _) => at += 2 + number(at + 2)? as usize,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg_of(width: u16, height: u16, notes: usize) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8];
        let mut left = notes;
        while left > 0 {
            let part = left.min(60_000);
            bytes.extend([0xff, 0xe1]);
            bytes.extend((part as u16 + 2).to_be_bytes());
            bytes.extend(vec![0xff; part]);
            left -= part;
        }
        bytes.extend([0xff, 0xc4, 0, 4, 1, 2, 0xff, 0xc2, 0, 11, 8]);
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.extend([1, 0x11, 0, 0]);
        bytes
    }

    #[test]
    fn sizes_are_read_from_every_format() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([0, 1, 0, 2, 0, 0, 0, 9, 8, 2]);
        assert_eq!(pixels(&png), Some((65_538, 9)));
        assert_eq!(pixels(b"GIF89a\x40\x01\xf0\x00"), Some((320, 240)));
        assert_eq!(pixels(&jpeg_of(640, 480, 0)), Some((640, 480)));
        let webp = |kind: &[u8], rest: &[u8]| [b"RIFF\0\0\0\0WEBP", kind, &[0; 4], rest].concat();
        let lossy = [0, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01];
        assert_eq!(pixels(&webp(b"VP8 ", &lossy)), Some((640, 480)));
        let lossless = (639_u32 | 479 << 14).to_le_bytes();
        assert_eq!(pixels(&webp(b"VP8L", &[&[0x2f], &lossless[..]].concat())), Some((640, 480)));
        let large = [0, 0, 0, 0, 0x7f, 0x02, 0, 0xdf, 0x01, 0];
        assert_eq!(pixels(&webp(b"VP8X", &large)), Some((640, 480)));
    }

    #[test]
    fn what_is_no_image_or_ends_early_has_no_size() {
        assert_eq!(pixels(b"%PDF-1.7"), None);
        let whole = jpeg_of(640, 480, 0);
        for length in 0..whole.len() - 4 {
            assert_eq!(pixels(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_data_uri_is_decoded_as_far_as_it_takes() {
        let url = |bytes: &[u8]| format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes));
        assert_eq!(pixels_of_url(&url(&jpeg_of(640, 480, 0))), Some((640, 480)));
        // The notes alone are longer than what is looked at first.
        assert_eq!(pixels_of_url(&url(&jpeg_of(640, 480, 200_000))), Some((640, 480)));
        assert_eq!(pixels_of_url("https://example.org/a.jpeg"), None);
        assert_eq!(pixels_of_url("data:image/png;base64,????"), None);
    }
}

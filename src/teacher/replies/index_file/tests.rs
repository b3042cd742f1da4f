use std::io::Cursor;

use super::*;

const COVERED: Covered = Covered { segment: 3, end: 1 << 40, last: 77, last_check: *b"12345678" };

/// Keys that share their first half with others, some of them several entries long.
fn entries(count: u32) -> Vec<IndexEntry> {
    let limit = |n| Limit { max_tokens: n, tokens: n / 2, ended_by_itself: n % 3 == 0 };
    let entry = |n: u32| IndexEntry {
        prefix: (u128::from(n / 200) << 100) + u128::from(n / 7 * 10),
        offset: n,
        limit: limit(n),
    };
    (0..count).map(entry).collect()
}

fn bytes(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write(&mut out, &COVERED, entries.len(), entries.iter().copied().map(Ok)).unwrap();
    out.into_inner()
}

#[test]
fn every_key_is_found_with_all_its_entries() {
    for count in [1, 63, 64, 65, 128, 5000] {
        let all = entries(count);
        let index = IndexFile::in_memory(bytes(&all)).unwrap();
        assert_eq!((index.len(), index.covered()), (all.len(), &COVERED));
        assert_eq!(index.iter().collect::<Result<Vec<_>, _>>().unwrap(), all);
        for entry in &all {
            let expected: Vec<_> = all.iter().filter(|other| other.prefix == entry.prefix).copied().collect();
            assert_eq!(index.get(entry.prefix).unwrap(), expected);
            assert_eq!(index.get(entry.prefix + 1).unwrap(), []);
        }
        assert_eq!(index.get(u128::MAX).unwrap(), []);
    }
}

#[test]
fn any_flipped_bit_is_noticed_and_so_is_any_cut() {
    let all = entries(150);
    let whole = bytes(&all);
    let sound = |bytes: Vec<u8>| IndexFile::in_memory(bytes).is_ok_and(|index| index.iter().all(|one| one.is_ok()));
    assert!(sound(whole.clone()));
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!sound(flipped), "bit {bit}");
    }
    for length in 0..whole.len() {
        assert!(!sound(whole[..length].to_vec()), "cut at {length}");
    }
    assert!(!sound([whole, vec![0]].concat()));
}

#[test]
fn the_bytes_are_pinned() {
    let one =
        IndexEntry { prefix: 0x0102, offset: 16, limit: Limit { max_tokens: 512, tokens: 7, ended_by_itself: true } };
    let bytes = bytes(&[one]);
    assert_eq!(bytes.len(), 64 + 32 + 16);
    assert_eq!(bytes[..12], *b"SHindex\0\x01\0\0\0");
    assert_eq!(bytes[12..16], [3, 0, 0, 0]);
    assert_eq!(bytes[64..96], *b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x10\0\0\0\0\x02\0\0\x07\0\0\0\x01\0\0\0");
}

//! Every type against blocks that the reference implementation (the Python package `gguf`) dequantised.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    bytes: String,
    values: Vec<f32>,
}

#[test]
fn blocks_of_every_type_give_the_numbers_of_the_reference_to_the_bit() {
    let references: BTreeMap<String, Reference> = serde_json::from_str(include_str!("blocks.json")).unwrap();
    assert_eq!(references.len(), QUANTS.len());
    for quant in QUANTS {
        let reference = &references[quant.name];
        let digits: Vec<u32> = reference.bytes.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
        let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
        assert!(bytes.len() >= quant.bytes && bytes.len().is_multiple_of(quant.bytes));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&quant.dequantise(&bytes)), bits(&reference.values), "{}", quant.name);
    }
}

#[test]
fn many_blocks_are_one_after_the_other() {
    let quant = numbered(8).unwrap();
    let block = |number: usize| {
        let numbers = (0..32).map(|i| ((number + i) % 100) as u8);
        half::f16::ONE.to_le_bytes().into_iter().chain(numbers).collect::<Vec<u8>>()
    };
    let blocks = 2 * BATCH + 3;
    let values = quant.dequantise(&(0..blocks).flat_map(block).collect::<Vec<u8>>());
    assert_eq!(values.len(), blocks * 32);
    assert!(values.iter().enumerate().all(|(i, value)| *value == ((i / 32 + i % 32) % 100) as f32));
}

#[test]
fn types_that_can_not_be_read_have_names_too() {
    assert_eq!(name_of(23), "IQ4_XS");
    assert_eq!(name_of(14), "Q6_K");
    assert_eq!(name_of(77), "type 77");
}

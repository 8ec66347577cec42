//! Numbers of EBML (RFC 8794).

/// A number of EBML (`None` for "unknown") and the bytes that it takes.
pub(super) fn ebml_number(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let length = bytes.first()?.leading_zeros() as usize + 1;
    let bytes = bytes.get(..length).filter(|_| length <= 8)?;
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let bits = 7 * u32::try_from(length).ok()?;
    let value = value & ((1 << bits) - 1);
    Some(((value != (1 << bits) - 1).then_some(value), length))
}

#[cfg(test)]
mod tests {
    use super::ebml_number;

    #[test]
    fn numbers_of_ebml_are_read() {
        assert_eq!(ebml_number(&[0x81]), Some((Some(1), 1)));
        assert_eq!(ebml_number(&[0x40, 0x02, 0xff]), Some((Some(2), 2)));
        assert_eq!(
            ebml_number(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Some((None, 8))
        );
        assert_eq!(ebml_number(&[0x00; 9]), None);
        assert_eq!(ebml_number(&[0x40]), None);
        assert_eq!(ebml_number(&[]), None);
    }
}

//! Base64 in lines of 76 characters (RFC 2045 §6.8).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Maximum line length.
const LINE: usize = 76;
/// Bytes encoded in one line.
const PER_LINE: usize = LINE / 4 * 3;
/// Bytes encoded per call: encoding line by line would be slower, and a block of this size fits into the CPU cache.
const BLOCK: usize = PER_LINE * 128;

/// Returns an upper limit of the encoded length of `len` bytes.
pub(in crate::mail) fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4 + len.div_ceil(PER_LINE) * 2
}

/// Writes `data` in lines with CRLF between them, without a final line end.
pub(in crate::mail) fn write(out: &mut Vec<u8>, data: &[u8]) {
    let mut encoded = String::with_capacity(BLOCK.min(data.len()) / 3 * 4 + 4);
    for (index, block) in data.chunks(BLOCK).enumerate() {
        encoded.clear();
        STANDARD.encode_string(block, &mut encoded);
        for (line_index, line) in encoded.as_bytes().chunks(LINE).enumerate() {
            if index + line_index > 0 {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_full_and_within_the_predicted_length() {
        for len in [0, 1, 2, 3, 56, 57, 58, 114, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 58] {
            let data: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
            let mut out = Vec::new();
            write(&mut out, &data);
            assert!(out.len() <= encoded_len(len), "{len}");
            let text = String::from_utf8(out).unwrap();
            let (last, full) =
                text.split("\r\n").collect::<Vec<_>>().split_last().map(|(l, f)| (l.len(), f.to_vec())).unwrap();
            assert!(full.iter().all(|line| line.len() == LINE) && last <= LINE, "{len}");
            assert_eq!(STANDARD.decode(text.replace("\r\n", "")).unwrap(), data);
        }
    }
}

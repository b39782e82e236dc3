//! What services that take texts check alike, and how many of them an encoder answers for at once.

use crate::encoder::Bundle;
use search_core::FieldError;

/// Most texts of one request to an encoder.
const MAX_ENCODED_TEXTS: usize = 1024;
/// What an encoder's answer holds beside its vectors.
const ANSWER_OVERHEAD_BYTES: usize = 64 * 1024;

/// Whether a text is there, and not too long.
pub fn check_text(path: &str, text: &str, max_bytes: usize) -> Result<(), FieldError> {
    match text.len() {
        0 => Err(FieldError::new(path, "is empty")),
        bytes if bytes > max_bytes => {
            let message = format!("has {bytes} bytes, must have at most {max_bytes}");
            Err(FieldError::new(path, message))
        }
        _ => Ok(()),
    }
}

/// Whether there are 1 to `most` of `texts`, and each is there and not too long.
pub fn check_texts(texts: &[String], most: usize, max_bytes: usize) -> Result<(), FieldError> {
    if !(1..=most).contains(&texts.len()) {
        let message = format!("has {} texts, must have 1 to {most}", texts.len());
        return Err(FieldError::new("texts", message));
    }
    let mut numbered = texts.iter().enumerate();
    numbered.try_for_each(|(index, text)| check_text(&format!("texts[{index}]"), text, max_bytes))
}

/// Most texts that an encoder takes in one request: what comes out has to fit into a message of so many bytes. One at least.
#[must_use]
pub fn most_encoded_texts(
    bundle: &Bundle,
    with_token_vectors: bool,
    max_message_bytes: usize,
) -> usize {
    let token_numbers = match with_token_vectors {
        true => u64::from(bundle.max_tokens) * u64::from(bundle.token_dimensions),
        false => 0,
    };
    let numbers = token_numbers.saturating_add(bundle.dimensions.into());
    let text_bytes = numbers.saturating_mul(size_of::<f32>() as u64).max(1);
    let room = max_message_bytes.saturating_sub(ANSWER_OVERHEAD_BYTES) as u64;
    let fitting = usize::try_from(room / text_bytes).unwrap_or(usize::MAX);
    fitting.clamp(1, MAX_ENCODED_TEXTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_vectors_take_the_room_of_many_texts() {
        let most = |dimensions, token_dimensions, max_tokens, with_token_vectors| {
            let bundle = Bundle {
                dimensions,
                token_dimensions,
                max_tokens,
                ..Bundle::default()
            };
            most_encoded_texts(&bundle, with_token_vectors, 16 * 1024 * 1024)
        };
        assert_eq!(most(384, 384, 256, false), 1024);
        assert_eq!(most(384, 384, 256, true), 42);
        // Whatever a bundle says of itself, one text can be asked for.
        assert_eq!(most(u32::MAX, u32::MAX, u32::MAX, true), 1);
        assert_eq!(most(0, 0, 0, true), 1024);
    }

    #[test]
    fn the_text_that_is_wrong_is_named() {
        let wrong = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            check_texts(&texts, 2, 3).unwrap_err().to_string()
        };
        assert_eq!(wrong(&[]), "texts: has 0 texts, must have 1 to 2");
        assert_eq!(
            wrong(&["a", "a", "a"]),
            "texts: has 3 texts, must have 1 to 2"
        );
        assert_eq!(wrong(&["a", ""]), "texts[1]: is empty");
        assert_eq!(
            wrong(&["abcd"]),
            "texts[0]: has 4 bytes, must have at most 3"
        );
    }
}

//! How a recovery key or a share of one is written for people: as groups of letters and digits, or as words.
//!
//! Both hold the same 44 bytes: format (1), threshold, index, number of shares, id of the key (4 bytes), first 4 bytes of the volume's UUID,
//! and the 32 bytes of the key or of the share. A whole key has threshold 1, index 0 and 1 as the number of shares.
//!
//! - Text is Bech32m (BIP-350) with the prefix `efs`, 81 characters in all. Its alphabet has no `1`, `b`, `i` and `o`; who types one meant
//!   what looks like it. The checksum finds any four wrong characters, and mostly says which if there is only one.
//! - Words are those of BIP-39's English list, eleven bits each, 34 in all; the last 22 bits are the beginning of the SHA-256 of the 44 bytes. The first
//!   four letters of a word will do.
//!
//! No error holds anything of what was typed.

use bech32::primitives::correction::CorrectableError;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::crypto::secret::Secret;

/// Bytes of a share with its header.
const LEN: usize = HEADER + 32;
const HEADER: usize = 12;
const FORMAT: u8 = 1;
/// The prefix with its separator.
const PREFIX: &str = "efs1";
/// Characters behind the prefix: 44 bytes in groups of five bits, and the checksum.
const CHARACTERS: usize = (LEN * 8).div_ceil(5) + 6;
/// Characters of a printed group.
const GROUP: usize = 5;
const WORDS: usize = 34;
/// Words of a printed line.
const WORDS_IN_LINE: usize = 6;
/// Bits of the checksum of words.
const WORD_CHECK: usize = WORDS * 11 - LEN * 8;

/// A recovery key, or one of several shares of it.
#[derive(Debug)]
pub(super) struct Share {
    /// So many shares are needed; 1 for a whole key.
    pub(super) threshold: u8,
    /// Number of the share from 1; 0 for a whole key.
    pub(super) index: u8,
    /// So many shares there are.
    pub(super) count: u8,
    /// Id of the recovery key.
    pub(super) id: [u8; 4],
    /// Beginning of the volume's UUID.
    pub(super) volume: [u8; 4],
    /// The key or the share.
    pub(super) value: Secret<32>,
}

/// Why text is not a recovery key or a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Nothing there.
    #[error("there is nothing that looks like a recovery key")]
    Empty,
    /// Too short or too long.
    #[error("it has {found} characters behind {PREFIX:?}; a recovery key or share has {CHARACTERS}")]
    #[allow(missing_docs)]
    Length { found: usize },
    /// Not a letter of the alphabet.
    #[error("character {} of group {} behind {PREFIX:?} is none that a recovery key has", .at % GROUP + 1, .at / GROUP + 1)]
    #[allow(missing_docs)]
    Character { at: usize },
    /// The checksum of the text is wrong. `groups` counts from 1 behind the prefix; empty if it cannot be told.
    #[error("it was mistyped{}", probably(.groups))]
    #[allow(missing_docs)]
    Mistyped { groups: Vec<usize> },
    /// Too few or too many.
    #[error("it has {found} words; a recovery key or share has {WORDS}, or is one text that begins with {PREFIX:?}")]
    #[allow(missing_docs)]
    Words { found: usize },
    /// Not in the list.
    #[error("word {at} is not one of the list")]
    #[allow(missing_docs)]
    Word { at: usize },
    /// The checksum of the words is wrong.
    #[error("a word is wrong, or words are in the wrong order")]
    WordCheck,
    /// Of a later version.
    #[error("it has the format {0}, which this envelopefs does not know")]
    Format(u8),
    /// Correct checksum, impossible contents.
    #[error("its threshold, number and count do not go together")]
    Impossible,
}

fn probably(groups: &[usize]) -> String {
    match groups {
        [] => String::new(),
        [one] => format!(", probably in group {one} behind {PREFIX:?}"),
        more => {
            let list: Vec<_> = more.iter().map(ToString::to_string).collect();
            format!(", probably in the groups {} behind {PREFIX:?}", list.join(", "))
        }
    }
}

impl Share {
    fn to_bytes(&self) -> Secret<LEN> {
        Secret::fill_with(|out: &mut [u8; LEN]| {
            let [format, threshold, index, count, rest @ ..] = out;
            (*format, *threshold, *index, *count) = (FORMAT, self.threshold, self.index, self.count);
            let (header, value) = rest.split_at_mut(HEADER - 4);
            let (id, volume) = header.split_at_mut(4);
            id.copy_from_slice(&self.id);
            volume.copy_from_slice(&self.volume);
            value.copy_from_slice(self.value.expose());
        })
    }

    fn from_bytes(bytes: &Secret<LEN>) -> Result<Self, TextError> {
        let [format, threshold, index, count, rest @ ..] = bytes.expose();
        let [i0, i1, i2, i3, v0, v1, v2, v3, value @ ..] = rest;
        if *format != FORMAT {
            return Err(TextError::Format(*format));
        }
        let is_whole = (*threshold, *index, *count) == (1, 0, 1);
        let is_share = *threshold >= 2 && threshold <= count && (1..=*count).contains(index);
        if !is_whole && !is_share {
            return Err(TextError::Impossible);
        }
        let value: &[u8; 32] = value;
        Ok(Share {
            threshold: *threshold,
            index: *index,
            count: *count,
            id: [*i0, *i1, *i2, *i3],
            volume: [*v0, *v1, *v2, *v3],
            value: Secret::fill_with(|out| *out = *value),
        })
    }

    /// As text in groups.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        let hrp = Hrp::parse_unchecked("efs");
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + CHARACTERS));
        bech32::encode_upper_to_fmt::<Bech32m, _>(&mut *text, hrp, self.to_bytes().expose())
            .expect("44 bytes are within Bech32m's length, and a string takes them");
        let mut grouped = Zeroizing::new(String::with_capacity(2 * text.len()));
        for (at, character) in text.chars().enumerate() {
            if at >= PREFIX.len() && (at - PREFIX.len()).is_multiple_of(GROUP) {
                grouped.push(' ');
            }
            grouped.push(character);
        }
        grouped
    }

    /// As words in lines.
    pub(super) fn to_words(&self) -> Zeroizing<String> {
        let bytes = self.to_bytes();
        let check: [u8; 32] = Sha256::digest(bytes.expose()).into();
        let list = bip39::Language::English.word_list();
        let mut text = Zeroizing::new(String::with_capacity(WORDS * 9));
        let (mut bits, mut have, mut at) = (Zeroizing::new(0_u32), 0, 0);
        for byte in bytes.expose().iter().chain(check.iter().take(WORD_CHECK.div_ceil(8))) {
            // At most 10 bits are left over from before.
            *bits = (*bits << 8 | u32::from(*byte)) & 0x3_ffff;
            have += 8;
            if have >= 11 {
                have -= 11;
                if at > 0 {
                    text.push(if at % WORDS_IN_LINE == 0 { '\n' } else { ' ' });
                }
                at += 1;
                // Eleven bits name one of 2048 words.
                text.push_str(list[(*bits >> have & 0x7ff) as usize]);
            }
        }
        text
    }

    /// Reads a key or share in either form; case, spaces, dashes and line ends do not matter.
    pub(super) fn parse(typed: &str) -> Result<Self, TextError> {
        let mut bare = Zeroizing::new(String::with_capacity(typed.len()));
        bare.extend(typed.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_lowercase()));
        match bare.strip_prefix(PREFIX) {
            Some(data) => Self::parse_text(data),
            None if bare.is_empty() => Err(TextError::Empty),
            None => Self::parse_words(typed),
        }
    }

    fn parse_text(data: &str) -> Result<Self, TextError> {
        let found = data.chars().count();
        if found != CHARACTERS {
            return Err(TextError::Length { found });
        }
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + CHARACTERS));
        text.push_str(PREFIX);
        for (at, character) in data.chars().enumerate() {
            let meant = match character {
                'o' => '0',
                'i' | '1' => 'l',
                'b' => '8',
                other => other,
            };
            if bech32::Fe32::from_char(meant).is_err() {
                return Err(TextError::Character { at });
            }
            text.push(meant);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&text).map_err(|error| {
            let corrector = error.correction_context::<Bech32m>();
            let errors = corrector.as_ref().and_then(|corrector| corrector.bch_errors());
            // Places count from the end; one before the data cannot be meant.
            let places: Option<Vec<usize>> = errors
                .map_or(Some(Vec::new()), |errors| errors.map(|(back, _)| CHARACTERS.checked_sub(back + 1)).collect());
            let mut groups: Vec<usize> = places.unwrap_or_default().iter().map(|at| at / GROUP + 1).collect();
            groups.sort_unstable();
            groups.dedup();
            TextError::Mistyped { groups }
        })?;
        let mut bytes = checked.byte_iter();
        let bytes = Secret::try_fill_with(|out: &mut [u8; LEN]| {
            out.iter_mut().try_for_each(|byte| bytes.next().map(|next| *byte = next).ok_or(TextError::Impossible))
        })?;
        Self::from_bytes(&bytes)
    }

    fn parse_words(typed: &str) -> Result<Self, TextError> {
        let words = || typed.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty());
        let found = words().count();
        if found != WORDS {
            return Err(TextError::Words { found });
        }
        const STORED: usize = LEN + WORD_CHECK.div_ceil(8);
        let stored = Secret::try_fill_with(|out: &mut [u8; STORED]| {
            let mut out = out.iter_mut();
            let (mut bits, mut have) = (Zeroizing::new(0_u32), 0);
            for (at, word) in (1..).zip(words()) {
                let number = number_of(word).ok_or(TextError::Word { at })?;
                *bits = (*bits << 11 | u32::from(number)) & 0x3_ffff;
                have += 11;
                while have >= 8 {
                    have -= 8;
                    out.next().map(|byte| *byte = (*bits >> have) as u8).ok_or(TextError::WordCheck)?;
                }
            }
            // What is left of the last word, as the high bits of the last byte.
            out.next().map(|byte| *byte = (*bits << (8 - have)) as u8).ok_or(TextError::WordCheck)
        })?;
        let (bytes, check) = stored.expose().split_at(LEN);
        let mut expected: [u8; 32] = Sha256::digest(bytes).into();
        expected[check.len() - 1] &= 0xff << (8 * check.len() - WORD_CHECK);
        if expected.get(..check.len()) != Some(check) {
            return Err(TextError::WordCheck);
        }
        Self::from_bytes(&Secret::fill_with(|out| out.copy_from_slice(bytes)))
    }
}

/// The number of a word, or of the one word that begins with four letters or more.
fn number_of(typed: &str) -> Option<u16> {
    let word = Zeroizing::new(typed.to_ascii_lowercase());
    let english = bip39::Language::English;
    english.find_word(&word).or_else(|| {
        let mut found = english.words_by_prefix_iter(&word).filter(|_| word.len() >= 4);
        found.next().filter(|_| found.next().is_none()).and_then(|only| english.find_word(only))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share() -> Share {
        let value = Secret::fill_with(|out| (0..32).for_each(|at| out[at as usize] = at * 7 + 1));
        Share { threshold: 3, index: 2, count: 5, id: [1, 2, 3, 4], volume: [0xa1, 0xb2, 0xc3, 0xd4], value }
    }

    /// What is printed today must be read for ever. The texts were computed by another program, from BIP-350 and BIP-39.
    #[test]
    fn the_written_forms_stay() {
        assert_eq!(
            share().to_text().as_str(),
            "EFS1 QYPSY PGPQG PSFGD JC02Q ZZQ0Z CWJG2 EJ89Q YWNJ4 T33K5 UTC07 RGM9Y M525M PDA7C HXD8K S85VL SL"
        );
        assert_eq!(
            share().to_words().as_str(),
            "absurd blossom life acoustic cage liquid\n\
             man flash staff analyst adult club\n\
             spoil better similar chimney elder increase\n\
             finish short poem rotate wrap spider\n\
             nest tackle price gesture know glass\n\
             crew kitten busy valid"
        );
    }

    #[test]
    fn both_forms_are_read_however_they_are_typed() {
        for text in [share().to_text(), share().to_words()] {
            for typed in [
                text.to_string(),
                text.to_lowercase(),
                text.to_uppercase(),
                text.replace([' ', '\n'], "-"),
                text.replace([' ', '\n'], "  \r\n"),
                format!("\n {} ", text.as_str()),
            ] {
                let read = Share::parse(&typed).unwrap();
                assert_eq!(*read.to_bytes().expose(), *share().to_bytes().expose());
            }
        }
        let four: Vec<String> =
            share().to_words().split_whitespace().map(|word| word.chars().take(4).collect()).collect();
        assert_eq!(Share::parse(&four.join(" ")).unwrap().index, 2);
    }

    #[test]
    fn look_alikes_are_taken_for_what_they_look_like() {
        let text = share().to_text().to_lowercase();
        let data = text.strip_prefix(PREFIX).unwrap().replace('0', "O").replace('l', "1").replace('8', "B");
        assert_ne!(data, text);
        Share::parse(&format!("{PREFIX}{data}")).unwrap();
    }

    #[test]
    fn a_wrong_character_is_found_and_said_where() {
        let text = share().to_text().replace(' ', "");
        for at in 0..CHARACTERS {
            let mut wrong = text.clone().into_bytes();
            let place = PREFIX.len() + at;
            wrong[place] = if wrong[place] == b'Q' { b'P' } else { b'Q' };
            let error = Share::parse(std::str::from_utf8(&wrong).unwrap()).unwrap_err();
            assert_eq!(error, TextError::Mistyped { groups: vec![at / GROUP + 1] });
            wrong[place] = b'!';
            assert_eq!(Share::parse(std::str::from_utf8(&wrong).unwrap()).unwrap_err(), TextError::Character { at });
            let mut swapped = text.clone().into_bytes();
            swapped.swap(place - 1, place);
            if at > 0 && swapped != text.as_bytes() {
                assert!(Share::parse(std::str::from_utf8(&swapped).unwrap()).is_err(), "{at}");
            }
        }
        assert_eq!(Share::parse(&text[..text.len() - 1]).unwrap_err(), TextError::Length { found: CHARACTERS - 1 });
        assert_eq!(Share::parse(&format!("{text}Q")).unwrap_err(), TextError::Length { found: CHARACTERS + 1 });
        assert_eq!(Share::parse(" \n").unwrap_err(), TextError::Empty);
    }

    #[test]
    fn a_wrong_word_is_found() {
        let text = share().to_words();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.len(), WORDS);
        for at in 0..WORDS {
            let mut wrong = words.clone();
            wrong[at] = if wrong[at] == "zoo" { "abandon" } else { "zoo" };
            assert!(Share::parse(&wrong.join(" ")).is_err(), "{at}");
            wrong[at] = "xyzzy";
            assert_eq!(Share::parse(&wrong.join(" ")).unwrap_err(), TextError::Word { at: at + 1 });
        }
        assert_eq!(Share::parse(&words[1..].join(" ")).unwrap_err(), TextError::Words { found: WORDS - 1 });
        let mut swapped = words.clone();
        swapped.swap(5, 6);
        assert_eq!(Share::parse(&swapped.join(" ")).unwrap_err(), TextError::WordCheck);
        assert_eq!(number_of("aban"), Some(0));
        assert_eq!((number_of("aba"), number_of(""), number_of("abandonn")), (None, None, None));
    }

    #[test]
    fn impossible_shares_are_refused() {
        for (threshold, index, count) in [(0, 0, 1), (1, 1, 1), (1, 0, 2), (2, 0, 3), (2, 4, 3), (4, 1, 3), (2, 1, 0)] {
            let bad = Share { threshold, index, count, ..share() };
            assert_eq!(Share::parse(&bad.to_text()).unwrap_err(), TextError::Impossible);
            assert_eq!(Share::parse(&bad.to_words()).unwrap_err(), TextError::Impossible);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,100}", data in "[a-zA-Z0-9 -]{60,100}") {
            let _ = Share::parse(&text);
            let _ = Share::parse(&format!("EFS1{data}"));
        }

        #[test]
        fn any_share_is_read_as_it_was_written(value in any::<[u8; 32]>(), count in 2_u8..=255, id in any::<[u8; 4]>()) {
            let share = Share {
                threshold: 2, index: count, count, id, volume: id, value: Secret::fill_with(|out| *out = value),
            };
            for text in [share.to_text(), share.to_words()] {
                prop_assert_eq!(*Share::parse(&text).unwrap().to_bytes().expose(), *share.to_bytes().expose());
            }
        }
    }
}

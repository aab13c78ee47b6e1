//! AES key wrap (RFC 3394, SP 800-38F): a key that comes out of a token under another one. aws-lc-rs does it.

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};

use super::Unauthentic;
use super::secret::Secret;

/// Unwraps 32 bytes, straight into locked memory.
///
/// # Errors
/// [`Unauthentic`] for another key, changed bytes, or another length.
pub fn unwrap(kek: &Secret<32>, wrapped: &[u8; 40]) -> Result<Secret<32>, Unauthentic> {
    Secret::try_fill_with(|out| {
        let kek = AesKek::new(&AES_256, kek.expose()).map_err(|_| Unauthentic)?;
        let len = kek.unwrap(wrapped, out).map_err(|_| Unauthentic)?.len();
        if len == out.len() { Ok(()) } else { Err(Unauthentic) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3394, section 4.6.
    #[test]
    fn the_published_vector_opens_and_no_changed_one_does() {
        let kek = Secret::fill_with(|out| (0..32).for_each(|at| out[usize::from(at)] = at));
        let wrapped: [u8; 40] = [
            0x28, 0xc9, 0xf4, 0x04, 0xc4, 0xb8, 0x10, 0xf4, 0xcb, 0xcc, 0xb3, 0x5c, 0xfb, 0x87, 0xf8, 0x26, 0x3f, 0x57,
            0x86, 0xe2, 0xd8, 0x0e, 0xd3, 0x26, 0xcb, 0xc7, 0xf0, 0xe7, 0x1a, 0x99, 0xf4, 0x3b, 0xfb, 0x98, 0x8b, 0x9b,
            0x7a, 0x02, 0xdd, 0x21,
        ];
        let key = unwrap(&kek, &wrapped).unwrap();
        assert_eq!(key.expose()[..16], *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff");
        assert!(key.expose()[16..].iter().copied().eq(0..16));
        for bit in 0..320 {
            let mut changed = wrapped;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap(&kek, &changed).is_err());
        }
        assert!(unwrap(&Secret::random(), &wrapped).is_err());
    }
}
